"""Graphs that must be refused before they are run: each a function with the reason that must be given."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import NodeProto, TensorProto, helper

from registry.contract import Contract
from tests.hostile import sound
from tests.hostile.operators import CLASSES, FORESTS, NAN, NODES, SVM, TEXTS, TREES, Table
from tests.hostile.sound import ML, tensor


@dataclass(frozen=True)
class HostileGraph:
    """A graph (or bytes that only claim to be one), what its contract says, and a part of the refusal."""

    name: str
    reason: str
    make: Callable[[], onnx.ModelProto | bytes]
    contract: Contract


_NUMBER = sound.contract()
_TWO = sound.contract(classes=(0, 1))
_THREE = sound.contract(classes=(0, 1, 2))
_TEXT = sound.contract(texts=1)


def _with(nodes: list[NodeProto], constants: list[TensorProto]) -> onnx.ModelProto:
    return sound.model(nodes, _NUMBER, constants)


def _made(operator: str, *sizes: TensorProto, first: bool = True, **attributes: Any) -> onnx.ModelProto:
    """An operator whose size inputs are constants."""
    inputs = (["numbers"] if first else []) + [size.name for size in sizes]
    return _with([helper.make_node(operator, inputs, ["prediction"], **attributes)], list(sizes))


def _whole(*values: int, name: str = "size") -> TensorProto:
    return tensor(name, TensorProto.INT64, values)


def _scalar(name: str, value: float) -> TensorProto:
    return tensor(name, TensorProto.FLOAT, [value], [])


def _sized_by_request() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["numbers"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["whole", "flat"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["prediction"]),
    ]
    return _with(nodes, [_whole(-1, name="flat")])


def _divided(operator: str, *, by: int | None) -> onnx.ModelProto:
    """An integer out of a request, divided by a constant, or by another one where there is none."""
    nodes = [
        helper.make_node("Cast", ["numbers"], ["whole"], to=TensorProto.INT64),
        helper.make_node(operator, ["whole", "whole" if by is None else "by"], ["shares"]),
        helper.make_node("Cast", ["shares"], ["many"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["many", "first"], ["prediction"], axis=1),
    ]
    return _with(nodes, [_whole(0, name="first"), *([] if by is None else [_whole(by, name="by")])])


_DIVISIONS: Table = [
    ("integers by -1 (a signal in ONNX Runtime 1.31)", "may be negative", lambda: _divided("Div", by=-1)),
    ("the rest of integers by -1 (likewise)", "may be negative", lambda: _divided("Mod", by=-1)),
    ("integers by those of a request", "may be negative", lambda: _divided("Div", by=None)),
]

_SIZES: Table = [
    ("40 GB by Expand", "would make more", lambda: _made("Expand", _whole(10_000_000_000, 1))),
    (
        "2^40 elements by ConstantOfShape",
        "would make more",
        lambda: _made("ConstantOfShape", _whole(2**40), first=False),
    ),
    ("2^62 elements by two factors", "would make more", lambda: _made("Expand", _whole(2**31, 2**31))),
    ("a million million tiles", "would make more", lambda: _made("Tile", _whole(10**6, 10**6))),
    ("a pad of 2^40", "would make more", lambda: _made("Pad", _whole(0, 0, 0, 2**40))),
    (
        "a range of 10^12",
        "would make more",
        lambda: _made("Range", _scalar("a", 0.0), _scalar("b", 1e12), _scalar("d", 1.0), first=False),
    ),
    ("a size from the values of a request", "from the values of a request", _sized_by_request),
]


def _constant(change: Callable[[TensorProto], None]) -> Callable[[], onnx.ModelProto]:
    """A constant that is added to the numbers, changed."""

    def make() -> onnx.ModelProto:
        weight = tensor("w", TensorProto.FLOAT, [1.0, 2.0, 3.0])
        change(weight)
        return _with([helper.make_node("Add", ["numbers", "w"], ["prediction"])], [weight])

    return make


def _outside(weight: TensorProto, *, location: bool, entry: bool) -> None:
    if location:
        weight.data_location = TensorProto.EXTERNAL
    if entry:
        weight.external_data.add(key="location", value="../../../etc/passwd")


def _outside_attribute() -> onnx.ModelProto:
    value = tensor("w", TensorProto.FLOAT, [1.0])
    _outside(value, location=True, entry=True)
    nodes = [
        helper.make_node("Constant", [], ["w"], value=value),
        helper.make_node("Add", ["numbers", "w"], ["prediction"]),
    ]
    return _with(nodes, [])


def _dims(*dims: int, raw: bytes | None = None) -> Callable[[TensorProto], None]:
    def change(weight: TensorProto) -> None:
        del weight.dims[:]
        weight.dims.extend(dims)
        if raw is not None:
            del weight.float_data[:]
            weight.raw_data = raw

    return change


_TENSORS: Table = [
    ("external data", "outside the graph", _constant(lambda w: _outside(w, location=True, entry=True))),
    (
        "external data without an address",
        "outside the graph",
        _constant(lambda w: _outside(w, location=True, entry=False)),
    ),
    (
        "an address without external data",
        "outside the graph",
        _constant(lambda w: _outside(w, location=False, entry=True)),
    ),
    ("external data in an attribute", "outside the graph", _outside_attribute),
    ("a negative dimension", "dimensions that cannot be", _constant(_dims(-3))),
    ("dimensions that overflow", "dimensions that cannot be", _constant(_dims(2**33, 2**33))),
    ("more elements than values", "values for 4 elements", _constant(_dims(4))),
    ("more elements than bytes", "bytes for 4 elements", _constant(_dims(4, raw=b"\0" * 12))),
    ("elements of no type", "element type", _constant(lambda w: setattr(w, "data_type", 99))),
    ("weights of NaN", "NaN or infinity", _constant(lambda w: w.float_data.__setitem__(0, NAN))),
]


def _edit(change: Callable[[onnx.ModelProto], Any], base: Callable[[], onnx.ModelProto] = sound.trees) -> Any:
    def make() -> onnx.ModelProto:
        made = base()
        change(made)
        return made

    return make


def _body(node: NodeProto) -> onnx.GraphProto:
    return helper.make_graph([node], "body", [], [])


def _loop() -> onnx.ModelProto:
    body = _body(helper.make_node("Identity", ["numbers"], ["out"]))
    loop = helper.make_node("Loop", ["times", "", "numbers"], ["prediction"], body=body)
    return _with([loop], [tensor("times", TensorProto.INT64, [2**62], [])])


def _branching(operator: str, *graphs: str) -> Callable[[], onnx.ModelProto]:
    body = _body(helper.make_node("Identity", ["numbers"], ["out"]))
    return lambda: _with([helper.make_node(operator, ["numbers"], ["prediction"], **dict.fromkeys(graphs, body))], [])


def _hidden_graph(made: onnx.ModelProto) -> None:
    made.graph.node[0].attribute.append(helper.make_attribute("body", _body(helper.make_node("Abs", ["x"], ["y"]))))


def _two_nodes(first: list[str], second: list[str]) -> Callable[[], onnx.ModelProto]:
    return lambda: _with([helper.make_node("Abs", *_io(first)), helper.make_node("Neg", *_io(second))], [])


def _io(names: list[str]) -> tuple[list[str], list[str]]:
    return [names[0]], [names[1]]


def _versions(domain: str, version: int) -> Callable[[onnx.ModelProto], None]:
    def change(made: onnx.ModelProto) -> None:
        for entry in made.opset_import:
            if entry.domain == domain:
                entry.version = version

    return change


def _input(change: Callable[[Any], Any]) -> Callable[[onnx.ModelProto], None]:
    return lambda made: change(made.graph.input[0].type.tensor_type)


_MODELS: list[tuple[str, str, Callable[[], onnx.ModelProto | bytes]]] = [
    ("a loop of 2^62", "Loop.*not allowed", _loop),
    ("a condition", "If.*not allowed", _branching("If", "then_branch", "else_branch")),
    ("a scan", "Scan.*not allowed", _branching("Scan", "body")),
    ("a graph hidden in an operator", "graph of its own", _edit(_hidden_graph)),
    ("functions of its own", "outside the graph", _edit(lambda m: m.functions.add(name="f", domain="g"))),
    ("training information", "outside the graph", _edit(lambda m: m.training_info.add())),
    ("a sparse constant", "sparse", _edit(lambda m: m.graph.sparse_initializer.add())),
    ("an opset of the future", "opset 99", _edit(_versions("", 99))),
    ("an opset of the past", "opset 3 ", _edit(_versions("", 3))),
    ("an opset of trees of the future", "opset 9 of ai.onnx.ml", _edit(_versions(ML, 9))),
    ("a format of the future", "IR version 99", _edit(lambda m: setattr(m, "ir_version", 99))),
    ("no version of its domain", "has no version", _edit(lambda m: m.opset_import.pop(1))),
    (
        "another name of its input",
        "inputs are not the contract's",
        _edit(lambda m: setattr(m.graph.input[0], "name", "x")),
    ),
    ("an input too many", "inputs are not the contract's", _edit(lambda m: m.graph.input.append(m.graph.output[0]))),
    (
        "integers instead of numbers",
        "another type",
        _edit(_input(lambda t: setattr(t, "elem_type", TensorProto.INT64))),
    ),
    (
        "five columns instead of three",
        "another shape",
        _edit(_input(lambda t: setattr(t.shape.dim[1], "dim_value", 5))),
    ),
    ("one row only", "fixed number of rows", _edit(_input(lambda t: setattr(t.shape.dim[0], "dim_value", 1)))),
    ("an output that nobody makes", "no node makes", _edit(lambda m: m.graph.node[0].output.__setitem__(0, "y"))),
    ("another name of its output", "outputs are not", _edit(lambda m: setattr(m.graph.output[0], "name", "y"))),
    ("a constant given twice", "given twice", _edit(lambda m: m.graph.initializer.extend([_whole(1), _whole(2)]))),
    (
        "a constant instead of the input",
        "name of an input",
        _edit(lambda m: m.graph.initializer.extend([_whole(1, name="numbers")])),
    ),
    ("a name made twice", "made twice", _two_nodes(["numbers", "prediction"], ["numbers", "prediction"])),
    ("nodes out of order", "not made before", _two_nodes(["later", "prediction"], ["numbers", "later"])),
    (
        "a sum with a hole (crashes ONNX Runtime 1.31)",
        "input 1 is missing",
        lambda: _with([helper.make_node("Sum", ["numbers", ""], ["prediction"])], []),
    ),
    ("a truncated graph", "not an ONNX graph", lambda: sound.trees().SerializeToString()[:150]),
    ("an empty file", "not an ONNX graph", lambda: b""),
    ("text", "not an ONNX graph", lambda: b"#!/bin/sh\nrm -rf /\n"),
    ("a pickle", "not an ONNX graph", lambda: pickle.dumps({"a": sound.tree()})),
]

GRAPHS: list[HostileGraph] = [
    HostileGraph(name, reason, make, contract)
    for table, contract in (
        (TREES, _NUMBER),
        (CLASSES, _THREE),
        (FORESTS, _NUMBER),
        (SVM, _TWO),
        (NODES, _NUMBER),
        (TEXTS, _TEXT),
        (_SIZES, _NUMBER),
        (_DIVISIONS, _NUMBER),
        (_TENSORS, _NUMBER),
        (_MODELS, _NUMBER),
    )
    for name, reason, make in table
]


def _slow() -> onnx.ModelProto:
    """A thousand products of 2,048 × 2,048: 17 million million operations for one row."""
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{i}", "m0"], [f"m{i + 1}"]) for i in range(1_000)]
    nodes += [
        helper.make_node("ReduceSum", ["m1000"], ["sum"], keepdims=1),
        helper.make_node("Gather", ["numbers", "first"], ["one"], axis=1),
        helper.make_node("Add", ["one", "sum"], ["prediction"]),
    ]
    return _with(nodes, [_whole(2_048, 2_048), _whole(0, name="first")])


def _doubling() -> onnx.ModelProto:
    """Forty times as much as before: 2^40 copies of the rows."""
    nodes = [helper.make_node("Identity", ["numbers"], ["c0"])]
    nodes += [helper.make_node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=1) for i in range(40)]
    nodes += [helper.make_node("ReduceSum", ["c40", "axis"], ["prediction"], keepdims=1)]
    return _with(nodes, [_whole(1, name="axis")])


def cubic() -> onnx.ModelProto:
    """The first number, by way of the products of all triples of rows: right answers, and memory for N^3."""
    nodes = [
        helper.make_node("Gather", ["numbers", "first"], ["one"], axis=1),
        helper.make_node("Transpose", ["one"], ["across"]),
        helper.make_node("Mul", ["one", "across"], ["pairs"]),
        helper.make_node("Unsqueeze", ["pairs", "last"], ["deep"]),
        helper.make_node("Mul", ["deep", "across"], ["triples"]),
        helper.make_node("ReduceMax", ["triples"], ["most"], keepdims=0),
        helper.make_node("Sub", ["most", "most"], ["nothing"]),
        helper.make_node("Add", ["one", "nothing"], ["prediction"]),
    ]
    return _with(nodes, [_whole(0, name="first"), _whole(2, name="last")])


def _not_a_number() -> onnx.ModelProto:
    """The logarithm of numbers on both sides of zero."""
    nodes = [
        helper.make_node("Gather", ["numbers", "first"], ["one"], axis=1),
        helper.make_node("Log", ["one"], ["prediction"]),
    ]
    return _with(nodes, [_whole(0, name="first")])


RUNS: list[HostileGraph] = [
    HostileGraph("an endless product", "did not end in time", _slow, _NUMBER),
    HostileGraph("a tensor that doubles forty times", "does not run|cannot be checked", _doubling, _NUMBER),
    HostileGraph("answers of NaN", "NaN or infinity", _not_a_number, _NUMBER),
    HostileGraph("answers of two columns", "another shape", lambda: sound.single("Normalizer", norm="L2"), _NUMBER),
]
"""Only the run of the golden rows in the child finds these."""
