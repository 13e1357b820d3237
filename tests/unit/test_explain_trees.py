"""Shapley values of trees and of mixes, against all orders of all columns, worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from registry.explain.forest import EQ, GT, GTE, LEQ, LT, MEMBER, NEQ, Forest, shapley
from registry.explain.mixes import BUDGET, Players, Tensors, mix

Array = npt.NDArray[Any]
MODES = (LEQ, LT, GTE, GT, EQ, NEQ, MEMBER)


def grown(random: np.random.Generator, trees: int, depth: int, features: int) -> Forest:
    """Random trees of every kind of split, as a TreeEnsemble names its lists."""
    nodes: list[list[Any]] = []
    weights: list[float] = []
    members: list[float] = []

    def leaf() -> tuple[int, int]:
        weights.append(float(random.normal()))
        return len(weights) - 1, 1

    def grow(left: int) -> tuple[int, int]:
        if left == 0 or (left < depth and random.random() < 0.2):
            return leaf()
        number = len(nodes)
        mode = int(random.choice(MODES))
        node = [
            int(random.integers(features)),
            mode,
            float(random.integers(-1, 3)),
            0,
            0,
            0,
            0,
            int(random.random() < 0.5),
        ]
        nodes.append(node)
        if mode == MEMBER:
            members.extend([*random.choice(4, 2, replace=False).astype(float).tolist(), math.nan])
        node[3:5] = grow(left - 1)
        node[5:7] = grow(left - 1)
        return number, 0

    roots = [grow(depth)[0] for _ in range(trees)]
    feature, mode, split, yes, yes_leaf, no, no_leaf, null = (np.array(part) for part in zip(*nodes, strict=True))
    return Forest.of(
        {
            "tree_roots": np.array(roots),
            "nodes_featureids": feature,
            "nodes_modes": mode,
            "nodes_splits": split,
            "nodes_truenodeids": yes,
            "nodes_trueleafs": yes_leaf,
            "nodes_falsenodeids": no,
            "nodes_falseleafs": no_leaf,
            "nodes_missing_value_tracks_true": null,
            "leaf_targetids": np.zeros(len(weights), np.int64),
            "leaf_weights": np.array(weights),
            "membership_values": np.array(members),
        }
    )


def walked(forest: Forest, rows: Array) -> Array:
    """The sum of leaves of each row, one node after the other."""
    found = np.zeros(len(rows))
    for n, row in enumerate(rows):
        for root in forest.roots:
            node = int(root)
            while node >= 0:
                passed = bool(forest.passes(row[None], np.array([node]))[0, 0])
                node = int((forest.yes if passed else forest.no)[node])
            found[n] += forest.weight[~node]
    return found


def by_hand(value: Callable[[Array], Array], row: Array, background: Array, groups: Array) -> Array:
    """Shapley's definition: the mean over all orders of what each player adds."""
    players = int(groups.max()) + 1
    found = np.zeros(players)
    for order in itertools.permutations(range(players)):
        taken: list[int] = []
        before = value(background).mean()
        for player in order:
            taken.append(player)
            now = value(np.where(np.isin(groups, taken), row, background)).mean()
            found[player] += now - before
            before = now
    return found / math.factorial(players)


def cells(random: np.random.Generator, rows: int, columns: int) -> Array:
    """Few values, so that splits meet them, and nulls."""
    found = random.integers(-1, 4, (rows, columns)).astype(float)
    found[random.random((rows, columns)) < 0.15] = np.nan
    return found


@pytest.mark.parametrize("seed", range(4))
def test_trees_give_what_all_orders_give(seed: int) -> None:
    """Every kind of split, nulls, sets, and columns that were encoded into several features."""
    random = np.random.default_rng(seed)
    forest = grown(random, trees=4, depth=5, features=6)
    groups = np.array([0, 1, 1, 2, 3, 3])
    rows, background = cells(random, 2, 6), cells(random, 5, 6)
    weights = np.tile(forest.weight, (2, 1))
    got = shapley(forest, weights, rows, background, groups)
    for row, values in zip(rows, got, strict=True):
        wanted = by_hand(lambda mixed: walked(forest, mixed), row, background, groups)
        np.testing.assert_allclose(values, wanted, atol=1e-12)
    moved = walked(forest, rows) - walked(forest, background).mean()
    np.testing.assert_allclose(got.sum(1), moved, atol=1e-12)


def test_a_leaf_that_several_splits_share_is_of_each_of_them() -> None:
    """ONNX allows it, of two trees too; each tree's own columns are held responsible."""
    lists = {
        "tree_roots": [0, 1],
        "nodes_featureids": [0, 1],
        "nodes_modes": [LEQ, LEQ],
        "nodes_splits": [0.0, 0.0],
        "nodes_truenodeids": [0, 0],
        "nodes_trueleafs": [1, 1],
        "nodes_falsenodeids": [1, 1],
        "nodes_falseleafs": [1, 1],
        "leaf_targetids": [0, 0],
        "leaf_weights": [1.0, 3.0],
    }
    forest = Forest.of({name: np.array(values) for name, values in lists.items()})
    got = shapley(forest, forest.weight[None], np.array([[1.0, -1.0]]), np.array([[-1.0, -1.0]]), np.array([0, 1]))
    assert got.tolist() == [[2.0, 0.0]]


def test_features_by_themselves_do_not_add_up_to_their_column() -> None:
    """The control: that columns are one player each makes a difference."""
    random = np.random.default_rng(1)
    forest = grown(random, trees=4, depth=5, features=4)
    rows, background = cells(random, 2, 4), cells(random, 5, 4)
    weights = np.tile(forest.weight, (2, 1))
    alone = shapley(forest, weights, rows, background, np.arange(4))
    together = shapley(forest, weights, rows, background, np.array([0, 0, 1, 2]))
    assert np.abs(alone[:, :2].sum(1) - together[:, 0]).max() > 1e-3


def test_a_tree_of_more_columns_than_a_word_has_bits_adds_up() -> None:
    """A hundred columns in one tree, and parts of a forest that are looked at one after the other."""
    random = np.random.default_rng(3)
    forest = grown(random, trees=3, depth=9, features=100)
    rows, background = cells(random, 2, 100), cells(random, 9, 100)
    assert max(len(set(forest.feature[forest.tree == tree].tolist())) for tree in range(3)) > 64
    got = shapley(forest, np.tile(forest.weight, (2, 1)), rows, background, np.arange(100))
    np.testing.assert_allclose(got.sum(1), walked(forest, rows) - walked(forest, background).mean(), atol=1e-12)
    halves = np.arange(100) // 25
    few = shapley(forest, np.tile(forest.weight, (2, 1)), rows[:, :], background, halves)
    wanted = by_hand(lambda mixed: walked(forest, mixed), rows[0], background, halves)
    np.testing.assert_allclose(few[0], wanted, atol=1e-12)


def crossed(tensors: Tensors) -> Array:
    """Anything but a sum of columns."""
    a = tensors["numbers"]
    return np.asarray(a[:, 0] * a[:, 1] + np.exp(0.3 * a[:, 2]) * (tensors["strings"][:, 0] == "x") - a[:, 0] ** 2)


def test_few_columns_give_what_all_orders_give() -> None:
    """Exactly, with text and numbers mixed."""
    random = np.random.default_rng(0)
    background = {"numbers": random.normal(size=(9, 3)), "strings": random.choice(["x", "y"], (9, 1)).astype(object)}
    row = {"numbers": random.normal(size=(1, 3)), "strings": np.array([["x"]], object)}
    players = Players((("numbers", 0), ("numbers", 1), ("numbers", 2), ("strings", 0)))
    got = mix(crossed, players, row, background)
    codes = {"x": 1.0, "y": 0.0}

    def one(mixed: Array) -> Array:
        texts = np.where(mixed[:, 3:] == 1.0, "x", "y").astype(object)
        return crossed({"numbers": mixed[:, :3], "strings": texts})

    def flat(tensors: Tensors) -> Array:
        return np.column_stack([tensors["numbers"], [codes[t] for t in tensors["strings"][:, 0]]]).astype(float)

    wanted = by_hand(one, flat(row)[0], flat(background), np.arange(4))
    np.testing.assert_allclose(got.values, wanted, atol=1e-12)
    assert (got.method, got.deviation, got.rows) == ("exact", None, 9)


def test_columns_may_lie_in_their_tensors_in_any_order() -> None:
    """A contract names text between numbers; each column is taken from its own place."""
    background = {"numbers": np.zeros((1, 2)), "strings": np.array([["n"]], object)}
    row = {"numbers": np.array([[10.0, 200.0]]), "strings": np.array([["y"]], object)}

    def value(tensors: Tensors) -> Array:
        return np.asarray(tensors["numbers"].sum(1) + (tensors["strings"][:, 0] == "y"))

    got = mix(value, Players((("numbers", 0), ("strings", 0), ("numbers", 1))), row, background)
    assert got.values.tolist() == pytest.approx([10.0, 1.0, 200.0])


def test_many_columns_add_up_whatever_orders_are_drawn() -> None:
    """Exactly, also where each value is an estimate; of a sum of columns each value is exact too."""
    random = np.random.default_rng(0)
    background, row = {"numbers": random.normal(size=(64, 30))}, {"numbers": random.normal(size=(1, 30))}
    players = Players(tuple(("numbers", n) for n in range(30)))
    slope = random.normal(size=30)
    linear = mix(lambda t: np.asarray(t["numbers"] @ slope), players, row, background)
    np.testing.assert_allclose(linear.values, slope * (row["numbers"][0] - background["numbers"].mean(0)), atol=1e-12)
    assert linear.deviation is not None
    assert linear.deviation < 1e-12

    def bent(tensors: Tensors) -> Array:
        return np.asarray(np.tanh(tensors["numbers"] @ slope) + tensors["numbers"][:, 0] * tensors["numbers"][:, 1])

    got = mix(bent, players, row, background)
    assert got.base + got.values.sum() == pytest.approx(float(bent(row)[0]), abs=1e-12)
    assert got.deviation is not None
    assert got.deviation > 0.0
    again = mix(bent, players, row, background)
    assert again.values.tolist() == got.values.tolist()


def test_a_wide_contract_asks_the_model_about_few_enough_rows() -> None:
    """Two thousand columns: bounded work, and still everything adds up."""
    asked = [0]
    random = np.random.default_rng(0)
    background, row = {"numbers": random.normal(size=(64, 2_000))}, {"numbers": random.normal(size=(1, 2_000))}

    def value(tensors: Tensors) -> Array:
        asked[0] += len(tensors["numbers"])
        return np.asarray(np.tanh(tensors["numbers"][:, :50].sum(1)))

    got = mix(value, Players(tuple(("numbers", n) for n in range(2_000))), row, background)
    assert got.base + got.values.sum() == pytest.approx(float(value(row)[0]), abs=1e-12)
    assert asked[0] < 2 * BUDGET
    assert got.rows == 8
