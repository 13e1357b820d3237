"""One step of scikit-learn as a graph of its own, run by ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import TensorProto, helper

from registry.export.builder import Builder, Value
from registry.export.steps import classify, load, regress, transform
from registry.export.table import Table

Array = npt.NDArray[Any]
load()


def transformed(step: Any, x: Array) -> Array:
    """What the converted transformer makes of a matrix of numbers, or of text."""
    g = Builder()
    table = transform(step, g, _table(x))
    value = table.strings(g, step) if table.texts else table.numbers(g, step)
    return _run(g, {"answer": value}, x, text=table.texts)["answer"]


def predicted(step: Any, x: Array) -> Array:
    """What the converted regressor answers [N, T]."""
    g = Builder()
    return _run(g, {"answer": regress(step, g, _table(x))}, x)["answer"]


def classified(step: Any, x: Array) -> dict[str, Array]:
    """What the converted classifier answers."""
    g = Builder()
    found = classify(step, g, _table(x))
    wanted = {"probabilities": found.probabilities, "decision": found.decision}
    values = {"chosen": g.cast(found.chosen, "double"), **{k: v for k, v in wanted.items() if v is not None}}
    return _run(g, values, x)


def computed(make: Any, x: Array) -> Array:
    """What operators make of a column: `make(builder, value)`."""
    g = Builder()
    return _run(g, {"answer": make(g, "x")}, x)["answer"]


def _table(x: Array) -> Table:
    return Table.of("x", x.shape[1], text=x.dtype == object, single=x.dtype == np.float32)


def _run(g: Builder, values: dict[str, Value], x: Array, *, text: bool = False) -> dict[str, Array]:
    kind = TensorProto.STRING if x.dtype == object else TensorProto.DOUBLE
    answer = TensorProto.STRING if text else TensorProto.DOUBLE
    inputs = [helper.make_tensor_value_info("x", kind, [None, x.shape[1]])]
    outputs = {value: helper.make_tensor_value_info(name, answer, None) for name, value in values.items()}
    model = g.model(inputs, outputs)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    fed = x if x.dtype == object else x.astype(np.float64)
    return dict(zip(values, session.run(list(values), {"x": fed}), strict=True))
