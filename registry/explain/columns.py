"""Which columns of the contract each value of a graph depends on: whether an encoded feature is one column's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from registry.contract import Contract

_EACH: Final = frozenset(
    (
        *("Abs", "Add", "And", "Cast", "Ceil", "Clip", "Cos", "Div", "Equal", "Erf", "Exp", "Floor", "Greater"),
        *("GreaterOrEqual", "Identity", "IsInf", "IsNaN", "Less", "LessOrEqual", "LabelEncoder", "Log", "Max", "Min"),
        *("Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sqrt"),
        *("Sub", "Tanh", "Where", "Xor", "Binarizer"),
    )
)
"""Operators that treat each cell by itself, with numpy's broadcasting."""


@dataclass(frozen=True, slots=True)
class Held:
    """The columns that a value depends on: all of it, and where its layout is known, each of its own columns."""

    all: frozenset[int]
    each: tuple[frozenset[int], ...] | None = None

    @classmethod
    def of(cls, each: tuple[frozenset[int], ...]) -> Held:
        """A matrix of these columns."""
        return cls(frozenset().union(*each), each)

    @classmethod
    def alike(cls, held: frozenset[int], width: int) -> Held:
        """A matrix whose columns all depend on the same."""
        return cls(held, (held,) * width)


def trace(graph: onnx.GraphProto, contract: Contract) -> dict[str, Held]:
    """What each value of a graph depends on; constants are not there. What is not known here depends on all it reads.

    Args:
        graph: sorted, as every graph that ONNX Runtime takes.
        contract: of the model.
    """
    places = {column.name: number for number, column in enumerate(contract.columns)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = {
        "numbers": Held.of(tuple(frozenset((places[c.name],)) for c in contract.numbers)),
        "strings": Held.of(tuple(frozenset((places[c.name],)) for c in contract.strings)),
    }
    for node in graph.node:
        read = [found[name] for name in node.input if name in found]
        if not read:
            continue
        held = _made(node, found, constants) or Held(frozenset().union(*(value.all for value in read)))
        for name in node.output:
            found[name] = held
    return found


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _made(node: onnx.NodeProto, found: Mapping[str, Held], constants: Mapping[str, onnx.TensorProto]) -> Held | None:
    """What an operator keeps apart; None where it may mix."""
    if node.op_type in _EACH:
        return _each(node, found, constants)
    first, given = found.get(node.input[0]), attributes(node)
    axis = given.get("axis", 0)
    if node.op_type == "Gather" and first is None and axis == 0:  # a row of a table for each code
        table, code = constants.get(node.input[0]), found[node.input[1]]
        return Held.alike(code.all, int(table.dims[1])) if table is not None and len(table.dims) == 2 else None
    if node.op_type == "Concat" and axis in (1, -1):
        parts = [found.get(name) for name in node.input]
        known = [part.each for part in parts if part is not None and part.each is not None]
        return Held.of(tuple(one for part in known for one in part)) if len(known) == len(parts) else None
    if first is None or first.each is None:
        return _reshaped(node, first, constants)
    if node.op_type == "Gather" and axis in (1, -1) and node.input[1] in constants:
        places = numpy_helper.to_array(constants[node.input[1]])
        return Held.of(tuple(first.each[int(place)] for place in places)) if places.ndim == 1 else None
    if node.op_type in ("Imputer", "Scaler", "StringNormalizer"):
        return first
    if node.op_type in ("ArgMax", "ArgMin", "ReduceSum", "ReduceMax", "ReduceMin") and given.get("keepdims", 1):
        return Held.alike(first.all, 1) if _over_columns(node, given, constants) else None
    if node.op_type == "Pad" and len(first.all) == 1:
        return Held(first.all, None)
    return _reshaped(node, first, constants)


def _over_columns(node: onnx.NodeProto, given: Mapping[str, Any], constants: Mapping[str, onnx.TensorProto]) -> bool:
    if "axis" in given:
        return given["axis"] in (1, -1)
    axes = constants.get(node.input[1]) if len(node.input) > 1 else None
    return axes is not None and numpy_helper.to_array(axes).tolist() in ([1], [-1])


def _reshaped(node: onnx.NodeProto, first: Held | None, constants: Mapping[str, onnx.TensorProto]) -> Held | None:
    """A column stays one, and a matrix that keeps its width stays as it is."""
    if first is None or node.op_type != "Reshape":
        if first is not None and node.op_type in ("ArgMax", "ArgMin") and attributes(node).get("keepdims", 1):
            return Held.alike(first.all, 1) if attributes(node).get("axis", 0) in (1, -1) else None
        return None
    shape = constants.get(node.input[1])
    wanted = [] if shape is None else numpy_helper.to_array(shape).tolist()
    if wanted == [-1]:
        return Held(first.all)
    if len(wanted) != 2 or wanted[0] not in (-1, 0) or wanted[1] < 1:
        return None
    if first.each is not None and len(first.each) == wanted[1]:
        return first
    return Held.alike(first.all, wanted[1]) if wanted[1] == 1 and len(first.all) == 1 else None


def _each(node: onnx.NodeProto, found: Mapping[str, Held], constants: Mapping[str, onnx.TensorProto]) -> Held | None:
    parts: list[tuple[frozenset[int], ...]] = []
    for name in filter(None, node.input):
        if (value := found.get(name)) is not None:
            if value.each is None:
                return None
            parts.append(value.each)
        elif name in constants:
            dims = constants[name].dims
            if len(dims) > 2 or (len(dims) == 2 and dims[0] != 1):
                return None
            parts.append((frozenset[int](),) * (dims[-1] if dims else 1))
        else:
            return None
    width = max(map(len, parts))
    if any(len(part) not in (1, width) for part in parts):
        return None
    wide = [part if len(part) == width else part * width for part in parts]
    return Held.of(tuple(frozenset().union(*cells) for cells in zip(*wide, strict=True)))


def numbers_of(value: Any) -> np.ndarray[Any, Any]:
    """An attribute that is a list or a tensor, as an array."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
