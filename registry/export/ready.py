"""A ready ONNX graph, from any tool: its inputs become the contract's columns, its outputs the contract's answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
from onnx import TensorProto, helper, version_converter

from registry.contract import Column, Contract, Output
from registry.errors import ConversionRefused
from registry.export import export
from registry.export.builder import OPSETS, Builder, Value
from registry.export.sklearn import export_steps
from registry.export.steps import Classes, classify, regress
from registry.export.table import Table
from registry.loss import class_index
from registry.original import Answers, class_values, output, predict

_NUMPY: Final[Mapping[int, str]] = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT16: "float16",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.BOOL: "bool",
    TensorProto.STRING: "object",
}


@dataclass(frozen=True, slots=True)
class _Form:
    """A graph without ZipMap, and which of its outputs are what."""

    model: onnx.ModelProto
    answer: str
    label: str = ""
    classes: tuple[str | int | bool, ...] = ()
    width: int = 1


@output.register
def _(estimator: onnx.ModelProto) -> Output:
    form = _form(estimator)
    if form.classes:
        return Output("classification", form.classes)
    return Output("regression", targets=tuple(f"target_{n}" for n in range(form.width)) if form.width > 1 else ())


@predict.register
def _(estimator: onnx.ModelProto, contract: Contract, frame: pd.DataFrame) -> Answers:
    from registry.parity import predict_onnx

    form = _form(estimator)
    feeds = {name: _fed(frame, columns, kind, flat) for name, columns, kind, flat in _inputs(form.model, contract)}
    try:
        found = predict_onnx(form.model.SerializeToString(), feeds)
    except ConversionRefused as error:
        raise ValueError("the graph does not answer these rows") from error
    values = found[form.answer].astype(np.float64).reshape(len(frame), -1)
    if contract.output.kind == "regression":
        return Answers(values)
    if values.shape[1] == 1:
        values = np.column_stack([1.0 - values, values])
    labels = class_index(contract.output, found[form.label].ravel()) if form.label else values.argmax(axis=1)
    return Answers(values, labels)


@regress.register
def _(step: onnx.ModelProto, g: Builder, table: Table) -> Value:
    return _values(_form(step), g, table)[0]


@classify.register
def _(step: onnx.ModelProto, g: Builder, table: Table) -> Classes:
    form = _form(step)
    values, found = _values(form, g, table)
    if form.width == 1:
        values = g.concat([g.op("Sub", g.constant(1.0), values), values])
    return Classes(_chosen(g, found[form.label], form.classes) if form.label else g.argmax(values), values)


export.register(onnx.ModelProto, export_steps)


def _values(form: _Form, g: Builder, table: Table) -> tuple[Value, dict[str, Value]]:
    """The graph's numbers [N, width] in double, and all its outputs."""
    columns = [field.column for field in table.fields]
    contract = Contract("ready", tuple(column for column in columns if column is not None), Output("regression"))
    bound = {name: _bound(g, table, part, kind, flat) for name, part, kind, flat in _inputs(form.model, contract)}
    found = g.inline(form.model, bound)
    return g.reshape(g.cast(found[form.answer], "double"), [-1, form.width]), found


def _form(given: onnx.ModelProto) -> _Form:
    model = onnx.ModelProto()
    model.CopyFrom(given)
    try:
        onnx.checker.check_model(model, full_check=False)
    # the checker's errors are of several kinds: all mean that it is no valid graph
    except Exception as error:
        raise _refused("it is not a valid graph", "export it again, with shapes") from error
    if model.functions:
        raise _refused("it has functions of its own", "export it with them inlined")
    version = next((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), OPSETS[""])
    if version < OPSETS[""]:
        model = version_converter.convert_version(model, OPSETS[""])
    names = _without_zipmap(model)
    numeric = [o for o in model.graph.output if o.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.DOUBLE)]
    labels = [o for o in model.graph.output if o.type.tensor_type.elem_type in (TensorProto.INT64, TensorProto.STRING)]
    if len(numeric) != 1 or len(labels) > 1:
        raise _refused(
            "its outputs are not numbers, or a label and probabilities", "leave one output, or a label and one more"
        )
    width = _last_dimension(numeric[0])
    declared = next((p.value for p in model.metadata_props if p.key == "classes"), None)
    classes = class_values(json.loads(declared)) if declared else names
    if labels and not classes:
        texts = labels[0].type.tensor_type.elem_type == TensorProto.STRING
        classes = _class_labels(model) or (() if texts else tuple(range(max(2, width))))
        if not classes:
            raise _refused("the names of its classes are not known", "put them in the metadata 'classes', as JSON")
    if classes and width != len(classes) and not (width == 1 and len(classes) == 2):
        raise _refused(f"it has {len(classes)} classes and {width} probabilities", "give one probability a class")
    return _Form(model, numeric[0].name, labels[0].name if labels else "", classes, width)


def _without_zipmap(model: onnx.ModelProto) -> tuple[str | int | bool, ...]:
    """Cut the step that makes dictionaries of probabilities; returns the classes that it names."""
    graph = model.graph
    zipmap = next((node for node in graph.node if node.op_type == "ZipMap"), None)
    if zipmap is None:
        return ()
    place = next(n for n, found in enumerate(graph.output) if found.name == zipmap.output[0])
    names = _labels_of(zipmap)
    graph.output[place].CopyFrom(helper.make_tensor_value_info(zipmap.input[0], TensorProto.FLOAT, [None, len(names)]))
    graph.node.remove(zipmap)
    return names


def _labels_of(node: onnx.NodeProto) -> tuple[str | int | bool, ...]:
    for attribute in node.attribute:
        if attribute.name in ("classlabels_strings", "classlabels_int64s", "classlabels_ints"):
            values = helper.get_attribute_value(attribute)
            return tuple(v.decode() if isinstance(v, bytes) else int(v) for v in values)
    return ()


def _class_labels(model: onnx.ModelProto) -> tuple[str | int | bool, ...]:
    return next((labels for node in reversed(model.graph.node) if (labels := _labels_of(node))), ())


def _last_dimension(value: onnx.ValueInfoProto) -> int:
    dimensions = value.type.tensor_type.shape.dim
    return int(dimensions[1].dim_value) if len(dimensions) == 2 and dimensions[1].dim_value else 1


_Input = tuple[str, list[int], int, bool]
"""Name, positions of the contract's columns, type, and whether it takes [N] instead of [N, F]."""


def _inputs(model: onnx.ModelProto, contract: Contract) -> list[_Input]:
    """How the contract's columns go into the graph: one by one by their names, or numbers and text as matrices.

    Raises:
        ConversionRefused: neither fits.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    places = {column.name: n for n, column in enumerate(contract.columns)}
    named = {value.name: places.get(value.name) for value in inputs}
    if None not in named.values() and len(named) == len(contract.columns):
        return [_checked(value, [places[value.name]], contract.columns) for value in inputs]
    texts = [n for n, column in enumerate(contract.columns) if column.dtype == "string"]
    numbers = [n for n, column in enumerate(contract.columns) if column.dtype != "string"]
    made = []
    for value in inputs:
        part = texts if value.type.tensor_type.elem_type == TensorProto.STRING else numbers
        made.append(_checked(value, part, contract.columns))
    if sorted(n for _, part, _, _ in made for n in part) != list(range(len(contract.columns))):
        raise _refused(
            "its inputs are not the columns of X", "name an input after each column, or take all numbers as one matrix"
        )
    return made


def _checked(value: onnx.ValueInfoProto, part: list[int], columns: Sequence[Column]) -> _Input:
    kind, dimensions = value.type.tensor_type.elem_type, value.type.tensor_type.shape.dim
    text = any(columns[n].dtype == "string" for n in part)
    if kind not in _NUMPY or (kind == TensorProto.STRING) != text or len(dimensions) not in (1, 2):
        raise _refused(
            f"input '{value.name}' takes another type or shape than its columns have",
            "take [N, columns] of numbers or of text",
        )
    if kind not in (TensorProto.FLOAT, TensorProto.DOUBLE) and any(
        columns[n].nullable and columns[n].dtype != "string" for n in part
    ):
        raise _refused(f"input '{value.name}' takes no null, but a column of X has some", "take it as float")
    if len(dimensions) == 2 and dimensions[1].dim_value not in (0, len(part)):
        raise _refused(
            f"input '{value.name}' takes {dimensions[1].dim_value} columns, and X has {len(part)} for it",
            "log it with the columns that it was made for",
        )
    return value.name, part, kind, len(dimensions) == 1


def _fed(frame: pd.DataFrame, part: list[int], kind: int, flat: bool) -> npt.NDArray[Any]:  # noqa: FBT001
    chosen = frame.iloc[:, part]
    if kind == TensorProto.STRING:
        array = chosen.astype(object).where(chosen.notna(), "").to_numpy(dtype=object)
    else:
        array = np.column_stack([chosen[name].to_numpy(np.float64, na_value=np.nan) for name in chosen])
        with np.errstate(over="ignore"):
            array = array.astype(_NUMPY[kind])
    return array.ravel() if flat else array


def _bound(g: Builder, table: Table, part: list[int], kind: int, flat: bool) -> Value:  # noqa: FBT001
    taken = table.take(part)
    text = kind == TensorProto.STRING
    value = taken.strings(g, None) if text else g.op("Cast", taken.numbers(g, None), to=kind)
    return g.reshape(value, [-1]) if flat else value


def _chosen(g: Builder, label: Value, classes: tuple[str | int | bool, ...]) -> Value:
    """Position of the label among the classes [N]."""
    if isinstance(classes[0], str):
        places = list(range(len(classes)))
        code = g.op("LabelEncoder", label, domain="ai.onnx.ml", keys_strings=list(classes), values_int64s=places)
        return g.reshape(code, [-1])
    there = g.op(
        "Equal", g.reshape(g.cast(label, "int64"), [-1, 1]), g.constant(np.asarray(classes, np.int64)[None, :])
    )
    return g.argmax(g.cast(there, "double"))


def _refused(why: str, hint: str) -> ConversionRefused:
    return ConversionRefused(f"the ONNX graph cannot be served: {why}", where="model.onnx", hint=hint)
