"""Trees of a graph: every walk ends in a leaf. A child that is missing, shared or its own ancestor is refused."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from registry.graphs.read import Attributes

Ints = npt.NDArray[np.int64]
MAX_DEPTH: Final = 4_096
"""The runtime builds trees by recursion."""
MAX_TARGETS: Final = 100_000
MAX_FEATURES: Final = 1_000_000
_MODES: Final = frozenset(f"BRANCH_{mode}" for mode in ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ")) | {"LEAF"}
_MEMBER: Final = 6
_TRANSFORMS: Final = frozenset({"NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"})
_AGGREGATES: Final = frozenset({"SUM", "AVERAGE", "MIN", "MAX"})


def check_tree_regressor(a: Attributes) -> int:
    """`TreeEnsembleRegressor` (opset 1 or 3); returns how many columns it reads.

    Raises:
        BundleCorrupt: with the node and what is wrong with it.
    """
    targets = int(a.one("n_targets", 1))
    a.require(0 < targets <= MAX_TARGETS, "the number of targets cannot be")
    a.require(a.one("aggregate_function", "SUM") in _AGGREGATES, "the aggregate function is unknown")
    return _ensemble(a, "target", targets)


def check_tree_classifier(a: Attributes) -> int:
    """`TreeEnsembleClassifier` (opset 1 or 3); returns how many columns it reads.

    Raises:
        BundleCorrupt: with the node and what is wrong with it.
    """
    labels = (a.texts("classlabels_strings"), a.whole("classlabels_int64s").tolist())
    a.require(sum(map(bool, labels)) == 1, "it needs class labels of one type")
    classes = labels[0] or labels[1]
    a.require(len(set(classes)) == len(classes), "a class label occurs twice")
    return _ensemble(a, "class", len(classes))


def _ensemble(a: Attributes, kind: str, targets: int) -> int:
    trees, nodes, features = a.whole("nodes_treeids"), a.whole("nodes_nodeids"), a.whole("nodes_featureids")
    yes, no = a.whole("nodes_truenodeids"), a.whole("nodes_falsenodeids")
    modes = np.array(a.texts("nodes_modes"), dtype=object)
    values = a.numbers("nodes_values")
    count = len(nodes)
    a.require(count > 0, "it has no nodes")
    lists: tuple[npt.NDArray[Any], ...] = (trees, features, yes, no, modes, values)
    a.require({len(x) for x in lists} == {count}, "its lists of nodes differ in length")
    for name in ("nodes_hitrates", "nodes_missing_value_tracks_true"):
        a.require(len(a.numbers(name)) in (0, count), f"'{name}' has another length than its nodes")
    _binary(a, a.whole("nodes_missing_value_tracks_true"))
    a.require(set(modes) <= _MODES, "it has a node of an unknown mode")
    a.require(a.one("post_transform", "NONE") in _TRANSFORMS, "the transformation of its answer is unknown")
    _columns(a, features)
    a.require(not np.isnan(values).any(), "a threshold is NaN")

    index = _Index(a, trees, nodes)
    branch = np.flatnonzero(modes != "LEAF")
    children = [index.find(trees[branch], side[branch]) for side in (yes, no)]
    a.require(all((found >= 0).all() for found in children), "a child does not exist")
    # the runtime takes the first row of each run of equal tree ids for a root
    roots = np.flatnonzero(np.r_[True, trees[1:] != trees[:-1]])
    a.require(len(roots) == len(np.unique(trees)), "the nodes of a tree do not lie together")
    _walk(a, count, roots, branch, children)

    owner_trees, owner_nodes = a.whole(f"{kind}_treeids"), a.whole(f"{kind}_nodeids")
    ids, weights = a.whole(f"{kind}_ids"), a.finite(f"{kind}_weights")
    a.require({len(owner_trees), len(owner_nodes), len(ids)} == {len(weights)}, "its lists of leaves differ in length")
    a.require(len(weights) > 0, "no leaf has a value")
    a.require(bool(((ids >= 0) & (ids < targets)).all()), "a leaf is of a target or class that does not exist")
    owners = index.find(owner_trees, owner_nodes)
    a.require(bool((owners >= 0).all()) and set(modes[owners]) <= {"LEAF"}, "a value belongs to no leaf")
    a.require(len(np.unique(owners)) == int(np.sum(modes == "LEAF")), "a leaf has no value")
    a.require(len(a.finite("base_values")) in (0, 1, targets), "it has another number of base values than targets")
    return int(features[branch].max(initial=-1)) + 1


class _Index:
    """Positions of (tree, node) pairs, whatever their numbers."""

    def __init__(self, a: Attributes, trees: Ints, nodes: Ints) -> None:
        self._trees, self._nodes = np.unique(trees), np.unique(nodes)
        keys = self._keys(trees, nodes)
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]
        a.require(bool((self._sorted[1:] != self._sorted[:-1]).all()), "a node is given twice")

    def _keys(self, trees: Ints, nodes: Ints) -> Ints:
        return np.searchsorted(self._trees, trees) * (len(self._nodes) + 1) + np.searchsorted(self._nodes, nodes)

    def find(self, trees: Ints, nodes: Ints) -> Ints:
        """Positions, -1 where there is no such node."""
        known = np.isin(trees, self._trees) & np.isin(nodes, self._nodes)
        keys = self._keys(trees, nodes)
        at = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        return np.where(known & (self._sorted[at] == keys), self._order[at], -1)


def check_tree_ensemble(a: Attributes) -> int:
    """`TreeEnsemble` (opset 5); returns how many columns it reads.

    Raises:
        BundleCorrupt: with the node and what is wrong with it.
    """
    roots, features, modes = a.whole("tree_roots"), a.whole("nodes_featureids"), a.whole("nodes_modes")
    splits = a.numbers("nodes_splits")
    yes, no = a.whole("nodes_truenodeids"), a.whole("nodes_falsenodeids")
    yes_leaf, no_leaf = a.whole("nodes_trueleafs"), a.whole("nodes_falseleafs")
    count = len(modes)
    a.require(count > 0 and len(roots) > 0, "it has no nodes")
    lists: tuple[npt.NDArray[Any], ...] = (features, splits, yes, no, yes_leaf, no_leaf)
    a.require({len(x) for x in lists} == {count}, "its lists of nodes differ in length")
    for name in ("nodes_hitrates", "nodes_missing_value_tracks_true"):
        a.require(len(a.numbers(name)) in (0, count), f"'{name}' has another length than its nodes")
    for flags in (yes_leaf, no_leaf, a.whole("nodes_missing_value_tracks_true")):
        _binary(a, flags)
    a.require(bool(((modes >= 0) & (modes <= _MEMBER)).all()), "it has a node of an unknown mode")
    _columns(a, features)
    a.require(not np.isnan(splits[modes != _MEMBER]).any(), "a threshold is NaN")
    # the sets of the membership nodes follow each other, each closed by NaN
    members = a.numbers("membership_values")
    sets = int(np.isnan(members).sum())
    a.require(sets == int(np.sum(modes == _MEMBER)), "it has another number of sets than nodes that ask for one")
    a.require(len(members) == 0 or bool(np.isnan(members[-1])), "its last set does not end")

    targets = int(a.one("n_targets", 1))
    ids, weights = a.whole("leaf_targetids"), a.finite("leaf_weights")
    a.require(0 < targets <= MAX_TARGETS, "the number of targets cannot be")
    a.require(len(ids) == len(weights) > 0, "its lists of leaves differ in length")
    a.require(bool(((ids >= 0) & (ids < targets)).all()), "a leaf is of a target that does not exist")
    a.require(a.one("aggregate_function", 1) in range(4), "the aggregate function is unknown")
    a.require(a.one("post_transform", 0) in range(5), "the transformation of its answer is unknown")

    a.require(bool(((roots >= 0) & (roots < count)).all()), "a root does not exist")
    a.require(len(np.unique(roots)) == len(roots), "a root is given twice")
    for child, leaf in ((yes, yes_leaf), (no, no_leaf)):
        ends = np.where(leaf == 1, len(weights), count)
        a.require(bool(((child >= 0) & (child < ends)).all()), "a child does not exist")
    # as one graph whose last nodes are the leaves, which several branches may share
    inner = [(np.flatnonzero(leaf == 0), child) for child, leaf in ((yes, yes_leaf), (no, no_leaf))]
    parents = np.concatenate([at for at, _ in inner])
    children = np.concatenate([child[at] for at, child in inner])
    _walk(a, count, roots, parents, [children])
    return int(features.max()) + 1


def _walk(a: Attributes, count: int, roots: Ints, parents: Ints, children: list[Ints]) -> None:
    """Require that the edges form trees that hang on `roots` and hold every node."""
    starts = np.concatenate([parents] * len(children))
    ends = np.concatenate(children)
    times = np.bincount(ends, minlength=count)
    a.require(bool((times[roots] == 0).all()), "a root is a child of another node: its trees have a cycle")
    a.require(bool((times <= 1).all()), "a node has two parents")
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    first, after = np.searchsorted(starts, np.arange(count)), np.searchsorted(starts, np.arange(count), side="right")
    level, seen, depth = roots, len(roots), 0
    while len(level):
        depth += 1
        a.require(depth <= MAX_DEPTH, f"a tree is deeper than {MAX_DEPTH}")
        level = _children(level, first, after, ends)
        seen += len(level)
    # each node has one parent at most, so what no root reaches hangs on itself
    a.require(seen == count, "its trees have a cycle, or a node that no root reaches")


def _children(level: Ints, first: Ints, after: Ints, ends: Ints) -> Ints:
    number = after[level] - first[level]
    offsets = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    reached: Ints = ends[np.repeat(first[level], number) + offsets]
    return reached


def _binary(a: Attributes, flags: Ints) -> None:
    a.require(bool(((flags == 0) | (flags == 1)).all()), "a flag is neither 0 nor 1")


def _columns(a: Attributes, features: Ints) -> None:
    a.require(bool(((features >= 0) & (features < MAX_FEATURES)).all()), "it asks for a column that cannot be")
