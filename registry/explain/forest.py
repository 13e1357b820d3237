"""TreeSHAP of the trees of an ONNX graph: exact Shapley values of the contract's columns, in numpy.

A leaf answers a mix of a row x and a background row b when every split on its path is passed by whichever of the two
gives the split's column. With A the columns of the path that only x passes and B those that only b passes, the leaf's
part of the game is 1 where A is taken from x and B from b; the Shapley values of that are known in closed form:
(a-1)! b! / (a+b)! for each column of A and -a! (b-1)! / (a+b)! for each of B (Lundberg et al., Nature Machine
Intelligence 2020, algorithm 3; interventional). Splits are grouped by contract column, so that a column that was
encoded into many features is one player, which the sum of the features' own values would not be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
LEQ, LT, GTE, GT, EQ, NEQ, MEMBER = range(7)
"""Modes of splits in ai.onnx.ml 5."""
_CELLS: Final = 2_000_000
"""Rows times leaves that are looked at together: some 16 MB for each of a handful of arrays."""
_WORD: Final = 64


@dataclass(frozen=True)
class Forest:
    """Trees as one TreeEnsemble has them. A child below zero is the leaf `~child`."""

    roots: Array
    feature: Array
    mode: Array
    split: Array
    yes: Array
    no: Array
    null_yes: Array
    members: Mapping[int, Array]
    target: Array
    weight: Array
    tree: Array
    """Of each node, the number of its tree."""
    leaf_tree: Array

    @classmethod
    def of(cls, given: Mapping[str, Array]) -> Forest:
        """The trees of a TreeEnsemble's attributes, as arrays by name."""
        yes, no = (
            np.where(given[f"nodes_{side}leafs"] == 1, ~given[f"nodes_{side}nodeids"], given[f"nodes_{side}nodeids"])
            for side in ("true", "false")
        )
        # several splits may lead to one leaf: here each has a leaf of its own
        ends = [np.flatnonzero(side < 0) for side in (yes, no)]
        leaves = ~np.concatenate([yes[ends[0]], no[ends[1]]])
        yes[ends[0]], no[ends[1]] = ~np.arange(len(ends[0])), ~np.arange(len(ends[0]), len(leaves))
        mode = given["nodes_modes"].astype(np.int64)
        listed = given.get("membership_values", np.zeros(0))
        closed = np.flatnonzero(np.isnan(listed))
        sets = np.split(listed, closed + 1)[: len(closed)]
        members = dict(zip(np.flatnonzero(mode == MEMBER).tolist(), (s[:-1] for s in sets), strict=True))
        tree, leaf_tree = np.zeros(len(mode), np.int64), np.zeros(len(leaves), np.int64)
        nodes, numbers = given["tree_roots"], np.arange(len(given["tree_roots"]))
        while len(nodes):
            tree[nodes] = numbers
            children, both = np.concatenate([yes[nodes], no[nodes]]), np.tile(numbers, 2)
            leaf_tree[~children[children < 0]] = both[children < 0]
            nodes, numbers = children[children >= 0], both[children >= 0]
        null_yes = given.get("nodes_missing_value_tracks_true", np.zeros(0))
        return cls(
            given["tree_roots"],
            given["nodes_featureids"],
            mode,
            given["nodes_splits"].astype(np.float64),
            yes,
            no,
            null_yes.astype(bool) if len(null_yes) else np.zeros(len(mode), bool),
            members,
            given["leaf_targetids"][leaves],
            given["leaf_weights"].astype(np.float64)[leaves],
            tree,
            leaf_tree,
        )

    def passes(self, rows: Array, nodes: Array) -> Array:
        """Whether each row goes to the `yes` side of each node [rows, nodes]."""
        values, limits, modes = rows[:, self.feature[nodes]], self.split[nodes], self.mode[nodes]
        found = values <= limits
        for mode, compare in ((LT, np.less), (GTE, np.greater_equal), (GT, np.greater), (EQ, np.equal)):
            if (at := modes == mode).any():
                found[:, at] = compare(values[:, at], limits[at])
        if (at := modes == NEQ).any():
            found[:, at] = values[:, at] != limits[at]
        for place in np.flatnonzero(modes == MEMBER):
            found[:, place] = np.isin(values[:, place], self.members[int(nodes[place])])
        return np.asarray(found | (np.isnan(values) & self.null_yes[nodes]))


def shapley(forest: Forest, weights: Array, rows: Array, background: Array, groups: Array) -> Array:
    """Shapley values of each row against the mean of the background [rows, players].

    Args:
        forest: the trees.
        weights: what each leaf adds to the number that is explained, for each row [rows, leaves].
        rows: as the trees read them [rows, features].
        background: likewise.
        groups: the player that each feature belongs to [features].
    """
    players = int(groups.max()) + 1
    player = groups[forest.feature]
    pairs, pair = np.unique(forest.tree * players + player, return_inverse=True)
    firsts = np.searchsorted(pairs, np.arange(len(forest.roots) + 1) * players)
    found = np.zeros((len(rows), players))
    leaves = np.bincount(forest.leaf_tree, minlength=len(forest.roots)).cumsum()
    most = max(1, _CELLS // (len(rows) + len(background)))
    start = 0
    while start < len(forest.roots):
        begun = leaves[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(leaves, begun + most, side="right")))
        slots = int(np.diff(firsts[start : end + 1]).max())
        place = pair - firsts[forest.tree]
        leaf, passed, other = _failures(forest, np.arange(start, end), place, slots, rows, background)
        names = np.zeros((len(leaf), slots), np.int64)
        for tree in range(start, end):
            own = pairs[firsts[tree] : firsts[tree + 1]] % players
            names[forest.leaf_tree[leaf] == tree, : len(own)] = own
        for n in range(len(rows)):
            found[n] += _row(passed[:, n], other, weights[n, leaf], names, players)
        start = end
    return found / len(background)


def _failures(
    forest: Forest, trees: Array, place: Array, slots: int, rows: Array, background: Array
) -> tuple[Array, Array, Array]:
    """Leaves of some trees, and the players by whose splits each row misses each of them, as bits [words, rows, L]."""
    words = -(-slots // _WORD)
    nodes, both = forest.roots[trees], np.concatenate([rows, background])
    missed = np.zeros((words, len(both), len(nodes)), np.uint64)
    leaves, masks = [], []
    while len(nodes):
        bits = np.zeros((words, len(nodes)), np.uint64)
        bits[place[nodes] // _WORD, np.arange(len(nodes))] = np.uint64(1) << (place[nodes] % _WORD).astype(np.uint64)
        passed = forest.passes(both, nodes)
        onward, next_nodes = [], []
        for child, right in ((forest.yes[nodes], passed), (forest.no[nodes], ~passed)):
            now = missed | np.where(right, np.uint64(0), bits[:, None, :])
            leaf = child < 0
            leaves.append(~child[leaf])
            masks.append(now[:, :, leaf])
            next_nodes.append(child[~leaf])
            onward.append(now[:, :, ~leaf])
        nodes, missed = np.concatenate(next_nodes), np.concatenate(onward, axis=2)
    whole = np.concatenate(masks, axis=2)
    return np.concatenate(leaves), whole[:, : len(rows)], whole[:, len(rows) :]


def _row(missed: Array, other: Array, weights: Array, names: Array, players: int) -> Array:
    """One row against every background row: `missed` [words, L] of it, `other` [words, background, L] of those."""
    ours, theirs = np.bitwise_count(missed).sum(0), np.bitwise_count(other).sum(0)
    reached = ~((other & missed[:, None, :]) != 0).any(0) & (theirs + ours > 0) & (weights != 0.0)
    _, at = pair = np.nonzero(reached)
    a, b = theirs[pair].astype(np.int64), ours[at].astype(np.int64)
    gain, loss = _shares(int(a.max(initial=0)), int(b.max(initial=0)))
    given, taken = gain[a, b] * weights[at], np.bincount(at, loss[a, b] * weights[at], len(weights))
    found = np.zeros(players)
    reaching = other[:, pair[0], at]
    for slot in range(names.shape[1]):
        word, bit = slot // _WORD, np.uint64(1) << np.uint64(slot % _WORD)
        held = (reaching[word] & bit) != 0
        found += np.bincount(names[at[held], slot], given[held], players)
        lost = (missed[word] & bit) != 0
        found -= np.bincount(names[lost, slot], taken[lost], players)
    return found


def _shares(a: int, b: int) -> tuple[Array, Array]:
    """(a-1)! b! / (a+b)! and a! (b-1)! / (a+b)! for all sizes up to these; 0 where there is nobody to have it."""
    log = np.cumsum([0.0, *(math.log(n) for n in range(1, a + b + 1))])
    many, few = np.arange(a + 1)[:, None], np.arange(b + 1)[None, :]
    whole = log[many] + log[few] - log[many + few]
    gain = np.where(many > 0, np.exp(whole) / np.maximum(many, 1), 0.0)
    loss = np.where(few > 0, np.exp(whole) / np.maximum(few, 1), 0.0)
    return gain, loss
