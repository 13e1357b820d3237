"""Integer divisions: the smallest integer by -1 is a signal that kills the process, not an error.

ONNX Runtime looks for a divisor of zero and for nothing else. What a request holds can be made that integer (NaN and
numbers out of range are, when they are cast), so an integer may be divided only by positive constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from onnx import NodeProto, TensorProto

from registry.graphs.read import Array, Attributes, refused, title

_WHOLE_TYPES: Final = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.INT8, TensorProto.UINT8})
_MAKES_WHOLE: Final = frozenset({"ArgMax", "ArgMin", "NonZero", "Shape", "Size"})
_MAKES_OTHER: Final = frozenset(
    """
    And Equal FeatureVectorizer Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual LinearRegressor Normalizer Not
    OneHotEncoder Or SVMRegressor Scaler StringConcat StringNormalizer TfIdfVectorizer Tokenizer TreeEnsemble
    TreeEnsembleRegressor Xor
    """.split()  # noqa: SIM905 - a table of names
)
_CLASSIFIERS: Final = frozenset({"LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"})
_TYPE_OF: Final[Mapping[str, int]] = {"Where": 1, "OneHot": 2}
"""Which input has the type of the output, where that is not the first."""


def check_division(node: NodeProto, a: Attributes, constants: Mapping[str, Array], whole: set[str]) -> None:
    """Refuse an integer division by anything but positive constants; add to `whole` what this node makes of integers.

    Args:
        node: the next node in order.
        constants: tensors that the file holds.
        whole: names of tensors of integers; those of `constants` need not be in it.

    Raises:
        BundleCorrupt: naming the node.
    """
    if node.op_type in ("Div", "Mod") and any(_is_whole(name, constants, whole) for name in node.input):
        divisor = constants.get(node.input[1])
        if divisor is None or not bool((divisor > 0).all()):
            raise refused(f"{title(node)} divides integers by what may be negative")
    if node.op_type == "TopK" and len(node.output) > 1:
        whole.add(node.output[1])
    if _makes_whole(node, a, constants, whole):
        whole.add(node.output[0])


def _makes_whole(node: NodeProto, a: Attributes, constants: Mapping[str, Array], whole: set[str]) -> bool:
    kind = node.op_type
    if kind == "Cast":
        return int(a.one("to", 0)) in _WHOLE_TYPES
    if kind == "ConstantOfShape":
        return a.kind("value") in ("i", "u")
    if kind == "LabelEncoder":
        return "values_int64s" in a or "classes_strings" in a or a.kind("values_tensor") in ("i", "u")
    if kind in _CLASSIFIERS:
        return True  # of the labels, which are the first output; as text they divide nothing
    if kind in _MAKES_WHOLE:
        return True
    position = _TYPE_OF.get(kind, 0)
    if kind in _MAKES_OTHER or position >= len(node.input):
        return False
    return _is_whole(node.input[position], constants, whole)


def _is_whole(name: str, constants: Mapping[str, Array], whole: set[str]) -> bool:
    return name in whole or (name in constants and constants[name].dtype.kind in "iu")
