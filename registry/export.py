"""Export of a fitted estimator to ONNX: one entry per estimator type, the same tensors in and out for all."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from functools import singledispatch
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper
from sklearn.base import BaseEstimator

from registry.contract import Contract
from registry.errors import ConversionRefused

OPSET: Final = {"": 18, "ai.onnx.ml": 3}
"""Both pinned: without the second, skl2onnx picks one that ONNX Runtime may not have."""


@singledispatch
def to_onnx(estimator: Any, contract: Contract) -> bytes:
    """The graph of `estimator`, taking `contract`'s tensors and answering `prediction`, or `label` and `probabilities`.

    Raises:
        ConversionRefused: the estimator, or one of its steps, has no equivalent graph.
    """
    raise ConversionRefused(
        f"there is no ONNX export for {type(estimator).__module__}.{type(estimator).__name__}",
        expected="a scikit-learn estimator or pipeline",
    )


@to_onnx.register
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
    _name_outputs(model, contract)
    if not single:
        _group_inputs(model, contract)
    model.producer_name = "perene"
    model.graph.name = contract.model  # the converter puts a random name; equal models are equal bytes here
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


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


def float32_floor(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The largest float32 not above each value, as float64."""
    nearest = values.astype(np.float32)
    lower = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest.astype(np.float64) > values, lower, nearest).astype(np.float64)


def parts(estimator: Any) -> Iterator[Any]:
    """Every estimator inside `estimator`, itself first: steps, transformers, members of ensembles."""
    seen: set[int] = set()
    queue: list[Any] = [estimator]
    while queue:
        part = queue.pop(0)
        if id(part) in seen or isinstance(part, (str, bytes)):
            continue
        if isinstance(part, (list, tuple)):
            queue.extend(part)
            continue
        if isinstance(part, np.ndarray) and part.dtype == object:
            queue.extend(part.ravel())
            continue
        if not isinstance(part, BaseEstimator):
            continue
        seen.add(id(part))
        yield part
        queue.extend(vars(part).values())


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


def _name_outputs(model: onnx.ModelProto, contract: Contract) -> None:
    wanted = ["prediction"] if contract.output.kind == "regression" else ["label", "probabilities"]
    outputs = list(model.graph.output)
    if len(outputs) != len(wanted):
        raise ConversionRefused(
            "the converted graph does not answer what the estimator does",
            expected=", ".join(wanted),
            got=", ".join(o.name for o in outputs),
        )
    for output, name in zip(outputs, wanted, strict=True):
        old = output.name
        if old == name:
            continue
        _rename(model.graph, old, name)
        output.name = name


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
                elif name == new:
                    names[i] = f"{new}_inner"


def _group_inputs(model: onnx.ModelProto, contract: Contract) -> None:
    """Replace one input per column by `numbers` and `strings`, split inside the graph.

    ONNX Runtime pays per input: 20 one-column inputs cost 95 µs a row, two grouped tensors 5 µs.
    """
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    nodes, inputs = [], []
    groups = (
        ("numbers", contract.numbers, TensorProto.FLOAT),
        ("strings", contract.strings, TensorProto.STRING),
    )
    for group, columns, kind in groups:
        if not columns:
            continue
        inputs.append(helper.make_tensor_value_info(group, kind, [None, len(columns)]))
        for index, column in enumerate(columns):
            if column.name in used:
                position = f"{group}_{index}_position"
                graph.initializer.append(helper.make_tensor(position, TensorProto.INT64, [1], [index]))
                inner = f"{group}_{index}_column"
                _rename(graph, column.name, inner)
                nodes.append(helper.make_node("Gather", [group, position], [inner], axis=1))
    rest = list(graph.node)
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.node[:]
    graph.node.extend(nodes + rest)
