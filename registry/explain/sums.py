"""Which values of a graph are sums over leaves: where the trees of a model end and its link begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from registry.explain.columns import attributes, numbers_of
from registry.explain.forest import Forest

Array = npt.NDArray[Any]
Link = Literal["identity", "logistic", "softmax", "exp"]
_LINKS: Final[Mapping[str, Link]] = {"Sigmoid": "logistic", "Softmax": "softmax", "Exp": "exp"}
_FLOATS: Final = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


@dataclass(frozen=True)
class Sums:
    """A value [N, K] that is a constant and a sum of leaves: of each forest, what a leaf adds to each of the K."""

    parts: Mapping[int, Array]
    width: int


@dataclass(frozen=True)
class Leaves:
    """A whole number for each tree of a forest [N, T], or of its only one [N], that says which leaf was reached."""

    forest: int
    flat: bool = False


@dataclass(frozen=True)
class Looked:
    """What a table has for the leaf of each tree [N, T, C]."""

    forest: int
    held: Array


@dataclass(frozen=True)
class Explained:
    """The value that trees explain, and what is between it and the answer. `columns`: of each output, which of its
    columns is explained, less another one or nothing.
    """

    name: str
    sums: Sums
    link: Link
    columns: tuple[tuple[int, int | None], ...]


def forests(graph: onnx.GraphProto) -> tuple[list[Forest], list[str]]:
    """The forests of a graph, and the names of what they read."""
    nodes = [node for node in graph.node if node.op_type == "TreeEnsemble"]
    given = [{name: numbers_of(value) for name, value in attributes(node).items()} for node in nodes]
    plain = [facts.get("aggregate_function", 1) == 1 and facts.get("post_transform", 0) == 0 for facts in given]
    if not all(plain):
        return [], []
    return [Forest.of(facts) for facts in given], [node.input[0] for node in nodes]


def explained(graph: onnx.GraphProto, output: str, width: int, found: list[Forest]) -> Explained | None:
    """The sums of leaves behind an output of `width` numbers; None where something else has a part in it."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    values = _trace(graph, constants, found)
    link: Link = "identity"
    name = output
    while name in made and not isinstance(values.get(name), Sums):
        node = made[name]
        if node.op_type in _LINKS and link == "identity":
            link, name = _LINKS[node.op_type], node.input[0]
        elif node.op_type in ("Identity", "Cast"):
            name = node.input[0]
        elif node.op_type == "Concat" and (second := _complement(node, made, constants)) is not None:
            name = second
        else:
            return None
    sums = values.get(name)
    if not isinstance(sums, Sums) or sums.width not in (1, width):
        return None
    if sums.width == 1:  # of two classes, the second
        return Explained(name, sums, link, ((0, None),) * width)
    if link == "softmax" and width == 2:
        return Explained(name, sums, "logistic", ((0, 1), (1, 0)))
    return Explained(name, sums, link, tuple((n, None) for n in range(width)))


def _complement(node: onnx.NodeProto, made: Mapping[str, onnx.NodeProto], constants: Mapping[str, Array]) -> str | None:
    """The p of a Concat of 1 - p and p."""
    if len(node.input) != 2 or (first := made.get(node.input[0])) is None or first.op_type != "Sub":
        return None
    one = constants.get(first.input[0])
    right = one is not None and one.size == 1 and float(one.ravel()[0]) == 1.0 and first.input[1] == node.input[1]
    return node.input[1] if right else None


def _trace(graph: onnx.GraphProto, constants: Mapping[str, Array], found: list[Forest]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    number = 0
    for node in graph.node:
        if node.op_type == "TreeEnsemble":
            forest = found[number]
            width = int(attributes(node).get("n_targets", 1))
            values[node.output[0]] = Sums({number: np.eye(width)[forest.target] * forest.weight[:, None]}, width)
            number += 1
        elif any(name in values for name in node.input):
            given = [values.get(name, constants.get(name)) for name in node.input]
            made = None if any(one is None for one in given) else _made(node, given, found)
            if made is not None:
                values[node.output[0]] = made
    return values


def _made(node: onnx.NodeProto, given: list[Any], found: list[Forest]) -> Any:
    kind, facts, first = node.op_type, attributes(node), given[0]
    if kind == "Gather":
        return _gathered(given, facts.get("axis", 0), found)
    if isinstance(first, Leaves):
        return Leaves(first.forest, flat=True) if kind == "Reshape" and given[1].tolist() == [-1] else None
    if isinstance(first, Looked):
        summed = kind == "ReduceSum" and given[1].tolist() == [1] and not facts.get("keepdims", 1)
        return Sums({first.forest: first.held}, first.held.shape[1]) if summed else None
    if any(not isinstance(one, Sums | np.ndarray) for one in given):
        return None
    if kind == "Cast" and facts["to"] == onnx.TensorProto.INT64:
        return _leaves(first, found)
    if kind in ("Identity", "Neg") or (kind == "Cast" and facts["to"] in _FLOATS):
        return Sums({n: -held if kind == "Neg" else held for n, held in first.parts.items()}, first.width)
    if kind in ("Add", "Sub", "Sum"):
        return _added(given, subtract=kind == "Sub")
    if kind in ("Mul", "Div", "MatMul"):
        return _scaled(kind, given)
    if kind in ("ReduceSum", "ReduceMean") and given[1].tolist() == [1] and facts.get("keepdims", 1):
        share = first.width if kind == "ReduceMean" else 1
        return Sums({n: held.sum(1, keepdims=True) / share for n, held in first.parts.items()}, 1)
    if kind == "Reshape" and given[1].ndim == 1:
        same = len(given[1]) == 2 and int(given[1][1]) == first.width
        return first if same else None
    if kind == "Concat" and facts["axis"] in (1, -1) and all(isinstance(one, Sums) for one in given):
        return _beside(given)
    return None


def _leaves(sums: Sums, found: list[Forest]) -> Leaves | None:
    """Sums are numbers of leaves where each target has one tree."""
    (number,) = sums.parts if len(sums.parts) == 1 else (-1,)
    if number < 0 or len(found[number].roots) != sums.width:
        return None
    forest = found[number]
    alone = np.array_equal(forest.target, forest.leaf_tree[np.arange(len(forest.target))])
    right = alone and np.array_equal(sums.parts[number], np.eye(sums.width)[forest.target] * forest.weight[:, None])
    return Leaves(number) if right else None


def _gathered(given: list[Any], axis: int, found: list[Forest]) -> Any:
    first, places = given
    if isinstance(places, Leaves) and axis == 0 and isinstance(first, np.ndarray) and first.ndim == 2:
        held = first[found[places.forest].weight.astype(np.int64)]
        return Sums({places.forest: held}, held.shape[1]) if places.flat else Looked(places.forest, held)
    if isinstance(first, Sums) and isinstance(places, np.ndarray) and axis in (1, -1) and places.ndim == 1:
        return Sums({n: held[:, places] for n, held in first.parts.items()}, len(places))
    return None


def _added(given: list[Any], *, subtract: bool) -> Sums | None:
    sums = [one for one in given if isinstance(one, Sums)]
    constants = [one for one in given if isinstance(one, np.ndarray)]
    width = max([one.width for one in sums] + [one.shape[-1] for one in constants if one.ndim])
    if any(one.width not in (1, width) for one in sums) or any(one.ndim > 2 for one in constants):
        return None
    parts: dict[int, Array] = {}
    for place, one in enumerate(given):
        if isinstance(one, Sums):
            for n, held in one.parts.items():
                wide = np.broadcast_to(held, (len(held), width))
                parts[n] = parts.get(n, 0.0) + (-wide if subtract and place else wide)
    return Sums(parts, width)


def _scaled(kind: str, given: list[Any]) -> Sums | None:
    first, second = given
    if kind == "Mul" and isinstance(first, np.ndarray):
        first, second = second, first
    if not isinstance(first, Sums) or not isinstance(second, np.ndarray) or second.ndim > 2:
        return None
    if kind == "MatMul":
        made = {n: held @ second for n, held in first.parts.items()} if second.ndim == 2 else None
        return None if made is None else Sums(made, int(second.shape[1]))
    factor = 1.0 / second if kind == "Div" else second
    if second.ndim == 2 and second.shape[0] != 1:
        return None
    parts = {n: held * factor for n, held in first.parts.items()}
    return Sums(parts, max(first.width, int(second.shape[-1]) if second.ndim else 1))


def _beside(given: list[Sums]) -> Sums:
    width, start = sum(one.width for one in given), 0
    parts: dict[int, Array] = {}
    for one in given:
        for n, held in one.parts.items():
            wide = parts.setdefault(n, np.zeros((len(held), width)))
            wide[:, start : start + one.width] += held
        start += one.width
    return Sums(parts, width)
