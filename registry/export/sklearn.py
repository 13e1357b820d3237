"""scikit-learn to ONNX: the estimator's steps one by one, computed in float64 whatever the inputs' precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from sklearn.base import BaseEstimator

from registry.contract import Contract
from registry.errors import ConversionRefused
from registry.export import export
from registry.export.builder import Builder, Value
from registry.export.graph import finish
from registry.export.steps import classify, load, regress
from registry.export.table import contract_table


@export.register(BaseEstimator)
def export_steps(estimator: Any, contract: Contract) -> bytes:
    """The graph of anything that `regress` or `classify` knows."""
    load()
    g = Builder()
    table = contract_table(g, contract)
    if contract.output.kind == "regression":
        width = max(1, len(contract.output.targets))
        outputs = {regress(estimator, g, table): _info("prediction", TensorProto.DOUBLE, [None, width])}
    else:
        outputs = _answers(estimator, g, contract)
    return finish(g.model(_inputs(contract), outputs), contract)


def _answers(estimator: Any, g: Builder, contract: Contract) -> dict[Value, onnx.ValueInfoProto]:
    """Label, probabilities (1 for the chosen class where there are none) and scores."""
    output = contract.output
    found = classify(estimator, g, contract_table(g, contract))
    text = isinstance(output.classes[0], str)
    values = np.asarray(output.classes, object) if text else np.asarray(output.classes, np.int64)
    label = g.op("Gather", g.constant(values), found.chosen, axis=0)
    made = {label: _info("label", TensorProto.STRING if text else TensorProto.INT64, [None])}
    count = len(output.classes)
    shares = found.probabilities
    if output.scores:
        places = g.constant(np.arange(count)[None, :])
        shares = g.cast(g.op("Equal", g.reshape(found.chosen, [-1, 1]), places), "double")
    if shares is None or (output.scores and found.decision is None):
        raise ConversionRefused(
            f"step {type(estimator).__name__}: what it answers beside the label has no equivalent in ONNX",
            where=f"step {type(estimator).__name__}",
        )
    made[shares] = _info("probabilities", TensorProto.DOUBLE, [None, count])
    if output.scores and found.decision is not None:
        made[found.decision] = _info("scores", TensorProto.DOUBLE, [None, len(output.scores)])
    return made


def _inputs(contract: Contract) -> list[onnx.ValueInfoProto]:
    number = TensorProto.FLOAT if contract.precision == "float32" else TensorProto.DOUBLE
    groups = (("numbers", contract.numbers, number), ("strings", contract.strings, TensorProto.STRING))
    return [_info(name, kind, [None, len(columns)]) for name, columns, kind in groups if columns]


def _info(name: str, kind: int, shape: list[int | None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
