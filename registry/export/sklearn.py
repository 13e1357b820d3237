"""scikit-learn to ONNX, by way of skl2onnx."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from registry.contract import Contract
from registry.errors import ConversionRefused
from registry.export import export
from registry.export.graph import OPSET, finish, group_inputs, name_outputs
from registry.export.rounding import float32_floor
from registry.parts import parts


@export.register
def _(estimator: BaseEstimator, contract: Contract) -> bytes:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    _refuse_known_wrong(estimator)
    kinds = {c.name: StringTensorType if c.dtype == "string" else FloatTensorType for c in contract.columns}
    single = _takes_one_matrix(estimator)
    if single and contract.strings:
        raise ConversionRefused(
            f"{type(estimator).__name__} was fitted on text columns without an encoder",
            hint="put OneHotEncoder or OrdinalEncoder in a ColumnTransformer before it",
        )
    inputs = (
        [("numbers", FloatTensorType([None, len(contract.numbers)]))]
        if single
        else [(c.name, kinds[c.name]([None, 1])) for c in contract.columns]
    )
    options = {id(estimator): {"zipmap": False}} if contract.output.kind == "classification" else None
    rounded = round_thresholds(estimator)
    if options is not None:
        options = {id(rounded): {"zipmap": False}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converter's own deprecations say nothing to our user
            model = convert_sklearn(rounded, initial_types=inputs, options=options, target_opset=OPSET)
    # converters raise whatever they like (RuntimeError, NameError, IndexError, …): all mean "cannot"
    except Exception as error:
        raise _refusal(estimator, error) from error
    name_outputs(model, contract)
    if not single:
        group_inputs(model, contract)
    return finish(model, contract)


def round_thresholds(estimator: Any) -> Any:
    """A copy whose tree thresholds are the largest float32 not above the original.

    For every float32 x, `x <= t32` then decides as `x <= t64` does; rounding to nearest may not.
    """
    rounded = copy.deepcopy(estimator)
    for part in parts(rounded):
        if hasattr(part, "_predictors"):
            for predictor in (p for group in part._predictors for p in group):
                nodes = predictor.nodes.copy()  # may be read-only when memory-mapped
                nodes["num_threshold"] = float32_floor(nodes["num_threshold"])
                predictor.nodes = nodes
        elif hasattr(part, "tree_"):
            tree = part.tree_
            tree.threshold[:] = np.where(tree.children_left == -1, tree.threshold, float32_floor(tree.threshold))
    return rounded


def _takes_one_matrix(estimator: Any) -> bool:
    """Whether no step picks columns by name, so that the whole [N, F] matrix can go in at once."""
    from sklearn.compose import ColumnTransformer

    return not any(isinstance(part, ColumnTransformer) for part in parts(estimator))


def _refuse_known_wrong(estimator: Any) -> None:
    """Refuse what the public converter translates wrongly without an error."""
    for part in parts(estimator):
        name = type(part).__name__
        if getattr(part, "is_categorical_", None) is not None and np.any(part.is_categorical_):
            raise ConversionRefused(
                f"step {name}: native categorical splits have no exact ONNX form here",
                where="operator TreeEnsemble",
                hint="encode the text columns with OneHotEncoder or OrdinalEncoder before it",
            )
        if name == "SimpleImputer" and part.add_indicator:
            raise ConversionRefused(
                "step SimpleImputer: add_indicator=True is dropped by the conversion",
                where="operator Imputer",
                hint="use add_indicator=False",
            )
        if name.startswith("HistGradientBoostingRegressor") and part.loss in ("poisson", "gamma"):
            raise ConversionRefused(
                f"step {name}: loss='{part.loss}' loses its exponential in the conversion",
                where="operator TreeEnsembleRegressor",
                hint="train on log(y) through your own target, or use squared_error",
            )
        if name == "FunctionTransformer" and part.func is not None:
            raise ConversionRefused(
                "step FunctionTransformer: Python code has no ONNX form",
                where="step FunctionTransformer",
                hint="compute the column before the model sees it, in train and in the request",
            )
        if name in ("TunedThresholdClassifierCV", "FixedThresholdClassifier"):
            raise ConversionRefused(
                f"step {name}: the decision threshold is lost in the conversion",
                hint="log the inner estimator and apply the threshold to its probability",
            )


def _refusal(estimator: Any, error: Exception) -> ConversionRefused:
    message = str(error)
    steps = [type(part).__name__ for part in parts(estimator)]
    # innermost first: containers are named in every message about what is inside them
    guilty = next((step for step in reversed(steps) if step in message), steps[-1])
    operator = next((word for word in ("Imputer", "Scaler", "LabelEncoder", "TreeEnsemble") if word in message), "")
    return ConversionRefused(
        f"step {guilty} cannot be converted to ONNX: {type(error).__name__}",
        where=f"step {guilty}" + (f", operator {operator}" if operator else ""),
        expected="steps that have an ONNX converter",
        hint=f"replace {guilty} by a step that converts; the chain from this error names the operator",
    )
