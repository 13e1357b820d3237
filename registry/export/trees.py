"""Trees of every library in one form, and that form as one TreeEnsemble node in double precision.

Rows come in as float64 and leaves are summed in float64, whatever the contract's precision: a float32 number becomes
a float64 without loss, so no threshold is rounded; ONNX Runtime is as fast in double (9.4 µs a row of 100 deep trees).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from registry.export.builder import Builder, Value

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_LEQ, _LT, _MEMBER = 0, 1, 6
_SUM: Final = 1


@dataclass(frozen=True)
class Tree:
    """One binary tree of n splits that adds to one of several sums.

    Node 0 is the root; a tree without splits is its only leaf. Split i asks `x[feature] <= threshold` (`<` where
    `strict`), or whether x is one of the whole numbers `members[i]`; null goes to `yes` where `null_yes`. A child
    below zero is the leaf `~child`.
    """

    feature: Ints
    threshold: Floats
    yes: Ints
    no: Ints
    null_yes: Bools
    leaves: Floats
    target: int = 0
    strict: bool = False
    members: Mapping[int, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Ensemble:
    """Trees whose leaves are summed into T numbers, on top of `base` [T]."""

    trees: tuple[Tree, ...]
    base: Floats


def tree_sums(g: Builder, x: Value, ensemble: Ensemble) -> Value:
    """The sums of `ensemble` over the rows of `x` (double [N, F]): double [N, T]."""
    trees = [tree if len(tree.feature) else _stub(float(tree.leaves[0]), tree.target) for tree in ensemble.trees]
    attributes = _attributes(trees or [_stub(0.0, 0)], len(ensemble.base))
    sums = g.op("TreeEnsemble", x, domain="ai.onnx.ml", **attributes)
    return g.op("Add", sums, g.constant(ensemble.base)) if np.any(ensemble.base != 0.0) else sums


def _stub(leaf: float, target: int) -> Tree:
    """A tree of one leaf: ONNX wants a split, so both of its sides are that leaf."""
    return Tree(
        np.zeros(1, np.int64),
        np.zeros(1),
        np.array([-1]),
        np.array([-2]),
        np.zeros(1, np.bool_),
        np.array([leaf, leaf]),
        target,
    )


def _attributes(trees: Sequence[Tree], targets: int) -> dict[str, Any]:
    """The node's lists: splits and leaves of all trees, one after the other."""
    splits = np.cumsum([0, *(len(tree.feature) for tree in trees)])
    leaves = np.cumsum([0, *(len(tree.leaves) for tree in trees)])

    def joined(parts: list[Any]) -> npt.NDArray[Any]:
        return np.concatenate(parts)

    def children(sides: list[Ints]) -> list[int]:
        moved = [np.where(s < 0, ~s + leaves[n], s + splits[n]) for n, s in enumerate(sides)]
        return [int(v) for v in joined(moved)]

    modes = [np.full(len(tree.feature), _LT if tree.strict else _LEQ, np.uint8) for tree in trees]
    limits = [tree.threshold.astype(np.float64) for tree in trees]
    values: list[float] = []
    for mode, limit, tree in zip(modes, limits, trees, strict=True):
        for node in sorted(tree.members):
            chosen = tree.members[node]
            # nothing is below minus infinity: that is the empty set, which ONNX cannot write
            mode[node], limit[node] = (_MEMBER, 0.0) if chosen else (_LT, -np.inf)
            values += [*map(float, chosen), np.nan] if chosen else []
    more = {"membership_values": numpy_helper.from_array(np.asarray(values, np.float64))} if values else {}
    return {
        "n_targets": targets,
        "aggregate_function": _SUM,
        "post_transform": 0,
        "tree_roots": splits[:-1].tolist(),
        "nodes_featureids": joined([tree.feature for tree in trees]).tolist(),
        "nodes_modes": numpy_helper.from_array(joined(modes)),
        "nodes_splits": numpy_helper.from_array(joined(limits)),
        "nodes_truenodeids": children([tree.yes for tree in trees]),
        "nodes_trueleafs": joined([tree.yes < 0 for tree in trees]).astype(int).tolist(),
        "nodes_falsenodeids": children([tree.no for tree in trees]),
        "nodes_falseleafs": joined([tree.no < 0 for tree in trees]).astype(int).tolist(),
        "nodes_missing_value_tracks_true": joined([tree.null_yes for tree in trees]).astype(int).tolist(),
        "leaf_targetids": joined([np.full(len(tree.leaves), tree.target) for tree in trees]).tolist(),
        "leaf_weights": numpy_helper.from_array(joined([tree.leaves for tree in trees]).astype(np.float64)),
        **more,
    }
