"""What a graph may be made of: the operators that exports of classic models emit, and versions the runtime has.

An allow-list: an operator that nobody thought of is refused. None of these can loop or call, and only those in
`registry/graphs/sizes.py` can make a large tensor out of a small one.
"""

from __future__ import annotations

from typing import Final

MAIN: Final = "ai.onnx"
"""How messages spell the default domain."""
ML: Final = "ai.onnx.ml"
MICROSOFT: Final = "com.microsoft"

OPERATORS: Final = {
    "": frozenset(
        """
        Abs Add And ArgMax ArgMin BatchNormalization Cast Ceil Clip Compress Concat Constant ConstantOfShape Cos CumSum
        Div Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm Greater GreaterOrEqual
        HardSigmoid HardSwish Identity IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul
        Max Mean Min Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
        ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round
        ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Size Slice Softmax Softplus Softsign Split Sqrt Squeeze
        StringConcat StringNormalizer Sub Sum Tan Tanh TfIdfVectorizer ThresholdedRelu Tile TopK Transpose Unsqueeze
        Where Xor
        """.split()  # noqa: SIM905 - a table of names
    ),
    ML: frozenset(
        """
        ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LabelEncoder LinearClassifier LinearRegressor
        Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble TreeEnsembleClassifier
        TreeEnsembleRegressor
        """.split()  # noqa: SIM905 - a table of names
    ),
    # text models need it, and it is part of every ONNX Runtime; its attributes are checked one by one
    MICROSOFT: frozenset({"Tokenizer"}),
}
OPSETS: Final = {"": range(9, 27), ML: range(1, 6), MICROSOFT: range(1, 2)}
"""Versions of operators that ONNX Runtime 1.31 implements."""
IR_VERSIONS: Final = range(3, 14)
"""CatBoost writes 3."""


def domain_of(domain: str) -> str:
    """`ai.onnx` is another spelling of the default domain."""
    return "" if domain == MAIN else domain
