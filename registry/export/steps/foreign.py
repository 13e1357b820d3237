"""Steps that another exporter knows, or the public converter alone: their graphs are put into ours.

The public converter translates some kinds wrongly without an error; the certificate is what keeps those out.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx

from registry.contract import Output
from registry.export import export
from registry.export.builder import OPSETS, Builder, Value
from registry.export.steps import Classes, classify, refused, regress
from registry.export.table import Table, untouched
from registry.original import known, output_of


def foreign_transform(step: Any, g: Builder, table: Table) -> Table:
    """A transformer that only the public converter knows."""
    found = _public(step, g, table)
    width = len(step.get_feature_names_out())
    return Table.of(g.cast(next(iter(found.values())), "double"), width)


def foreign_regress(step: Any, g: Builder, table: Table) -> Value:
    """A regressor of another library, or one that only the public converter knows."""
    if regress.dispatch(type(known(step))) is not regress.dispatch(object):
        return regress(step, g, table)  # the module that knows its library was not imported yet
    model = _exported(step, table)
    if model is not None:
        return g.cast(g.inline(model, _bound(g, table))["prediction"], "double")
    return g.cast(next(iter(_public(step, g, table).values())), "double")


def foreign_classify(step: Any, g: Builder, table: Table) -> Classes:
    """A classifier of another library, or one that only the public converter knows."""
    if classify.dispatch(type(known(step))) is not classify.dispatch(object):
        return classify(step, g, table)
    output = output_of(step)
    model = _exported(step, table)
    if model is not None:
        found = g.inline(model, _bound(g, table))
        shares = g.cast(found["probabilities"], "double")
        scores = g.cast(found["scores"], "double") if "scores" in found else _log_odds(g, shares, output)
        return Classes(_position(g, found["label"], output), shares, scores)
    label, answer = _public(step, g, table).values()
    values = g.cast(answer, "double")
    chosen = _position(g, label, output)
    return Classes(chosen, None, values) if output.scores else Classes(chosen, values, None)


def _exported(step: Any, table: Table) -> onnx.ModelProto | None:
    """The graph of a step whose kind has an exporter of its own."""
    from sklearn.base import BaseEstimator

    if export.dispatch(type(step)) in (export.dispatch(BaseEstimator), export.dispatch(object)):
        return None
    return onnx.load_model_from_string(export(step, untouched(table, output_of(step))))


def _bound(g: Builder, table: Table) -> dict[str, Value]:
    """A table as the two tensors that an exporter's graph takes."""
    numbers = Table(tuple(field for field in table.fields if not field.text))
    texts = Table(tuple(field for field in table.fields if field.text))
    bound = {}
    if numbers.fields:
        bound["numbers"] = numbers.numbers(g, None)
    if texts.fields:
        bound["strings"] = texts.strings(g, None)
    return bound


def _log_odds(g: Builder, shares: Value, output: Output) -> Value | None:
    """The decision function of a boosted classifier of two classes, from its probability."""
    if len(output.classes) != 2:
        return None
    positive = g.gather(shares, [1])
    return g.op("Log", g.op("Div", positive, g.op("Sub", g.constant(1.0), positive)))


def _position(g: Builder, label: Value, output: Output) -> Value:
    if isinstance(output.classes[0], str):
        places = list(range(len(output.classes)))
        return g.reshape(
            g.op("LabelEncoder", label, domain="ai.onnx.ml", keys_strings=list(output.classes), values_int64s=places),
            [-1],
        )
    classes = g.constant(np.asarray(output.classes, np.int64)[None, :])
    return g.argmax(g.cast(g.op("Equal", g.reshape(g.cast(label, "int64"), [-1, 1]), classes), "double"))


def _public(step: Any, g: Builder, table: Table) -> dict[str, Value]:
    """The outputs of the public converter's graph of one step, by name."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, StringTensorType

    text = table.texts
    x = table.strings(g, step) if text else table.numbers(g, step)
    kind = StringTensorType if text else DoubleTensorType
    options = {id(step): {"zipmap": False}} if hasattr(step, "classes_") and hasattr(step, "predict") else None
    target = {**OPSETS, "ai.onnx.ml": 3}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converter's own deprecations say nothing to our user
            made = convert_sklearn(
                step, initial_types=[("input", kind([None, len(table.fields)]))], options=options, target_opset=target
            )
    # converters raise whatever they like (RuntimeError, NameError, IndexError, …): all mean "cannot"
    except Exception as error:
        raise refused(
            step, "it has no equivalent in ONNX", "replace it by a step that has, or serve with runtime='native'"
        ) from error
    return g.inline(made, {"input": x})
