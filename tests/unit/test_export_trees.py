"""Trees as one ONNX node: the graph adds up the leaves that a plain walk reaches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from registry.export.builder import Builder
from registry.export.trees import Ensemble, Floats, Tree, tree_sums
from registry.parity import predict_onnx


def _walk(tree: Tree, row: Floats) -> float:
    """What the tree adds for one row."""
    if len(tree.feature) == 0:
        return float(tree.leaves[0])
    node = 0
    while node >= 0:
        x, limit = row[tree.feature[node]], tree.threshold[node]
        if np.isnan(x):
            yes = bool(tree.null_yes[node])
        elif node in tree.members:
            yes = x in tree.members[node]
        else:
            yes = bool(x < limit if tree.strict else x <= limit)
        node = int(tree.yes[node] if yes else tree.no[node])
    return float(tree.leaves[~node])


def _expected(ensemble: Ensemble, rows: Floats) -> Floats:
    sums = np.tile(ensemble.base, (len(rows), 1))
    for tree in ensemble.trees:
        sums[:, tree.target] += [_walk(tree, row) for row in rows]
    return sums


def _answered(ensemble: Ensemble, rows: Floats) -> npt.NDArray[np.float64]:
    g = Builder()
    sums = tree_sums(g, "numbers", ensemble)
    inputs = [helper.make_tensor_value_info("numbers", TensorProto.DOUBLE, [None, rows.shape[1]])]
    outputs = {sums: helper.make_tensor_value_info("sums", TensorProto.DOUBLE, [None, len(ensemble.base)])}
    return np.asarray(predict_onnx(g.model(inputs, outputs).SerializeToString(), {"numbers": rows})["sums"])


def _random_tree(generator: np.random.Generator, splits: int, *, strict: bool = False, target: int = 0) -> Tree:
    """A tree that grows at random leaves; every third split is by category."""
    yes, no = np.full(splits, -1, np.int64), np.full(splits, -1, np.int64)
    open_sides = [(yes, 0), (no, 0)] if splits else []
    for node in range(1, splits):
        side, parent = open_sides.pop(int(generator.integers(len(open_sides))))
        side[parent] = node
        open_sides += [(yes, node), (no, node)]
    for leaf, (side, parent) in enumerate(open_sides):
        side[parent] = ~leaf
    members = {
        node: sorted(set(generator.integers(-3, 80, int(generator.integers(1, 50))).tolist()))
        for node in range(0, splits, 3)
    }
    feature = generator.integers(0, 2, splits) * 2
    feature[list(members)] = 1
    return Tree(
        feature,
        generator.normal(size=splits),
        yes,
        no,
        generator.random(splits) < 0.5,
        generator.normal(size=splits + 1),
        target,
        strict,
        members,
    )


def _rows(generator: np.random.Generator, trees: tuple[Tree, ...]) -> Floats:
    """Random rows, and rows on thresholds, next to them, at null and at infinity."""
    found = np.concatenate([np.zeros(1), *(tree.threshold for tree in trees)])
    special = np.concatenate(
        [found, np.nextafter(found, np.inf), np.nextafter(found, -np.inf), [np.nan, np.inf, -np.inf]]
    )
    rows = np.column_stack(
        [generator.choice(special, 300), generator.integers(-5, 90, 300).astype(float), generator.choice(special, 300)]
    )
    rows[generator.random(300) < 0.1, 1] = np.nan
    return rows


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(0, 40))
def test_the_graph_reaches_the_leaves_of_a_plain_walk(seed: int, strict: bool, splits: int) -> None:
    """At thresholds, their neighbours, nulls, infinities and categories."""
    generator = np.random.default_rng(seed)
    trees = tuple(_random_tree(generator, splits, strict=strict, target=n % 2) for n in range(4))
    ensemble = Ensemble(trees, generator.normal(size=2))
    rows = _rows(generator, trees)
    np.testing.assert_allclose(_answered(ensemble, rows), _expected(ensemble, rows), rtol=1e-13, atol=1e-13)


def test_float64_decides_where_float32_cannot() -> None:
    """Seconds since 1970 that float32 holds for one number are two."""
    second = 1_600_000_001.0
    tree = Tree(
        np.zeros(1, np.int64),
        np.array([second]),
        np.array([-1]),
        np.array([-2]),
        np.zeros(1, np.bool_),
        np.array([1.0, 2.0]),
    )
    rows = np.array([[second], [np.nextafter(second, np.inf)]])
    assert np.float32(rows[0, 0]) == np.float32(rows[1, 0])
    assert _answered(Ensemble((tree,), np.zeros(1)), rows).ravel().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("trees", [0, 1])
def test_a_model_without_splits_answers_its_base(trees: int) -> None:
    """ONNX has no tree without a split."""
    none = np.zeros(0, np.int64)
    leaf = Tree(none, np.zeros(0), none, none, np.zeros(0, np.bool_), np.array([2.5]))
    assert (
        _answered(Ensemble((leaf,) * trees, np.array([0.5])), np.array([[np.nan], [7.0]])).tolist()
        == [[0.5 + 2.5 * trees]] * 2
    )


def test_an_empty_set_of_categories_holds_nothing() -> None:
    """Not even what is below every number; a null still goes its way."""
    tree = Tree(
        np.zeros(1, np.int64),
        np.zeros(1),
        np.array([-1]),
        np.array([-2]),
        np.ones(1, np.bool_),
        np.array([1.0, 2.0]),
        members={0: []},
    )
    rows = np.array([[-np.inf], [0.0], [np.inf], [np.nan]])
    assert _answered(Ensemble((tree,), np.zeros(1)), rows).ravel().tolist() == [2.0, 2.0, 2.0, 1.0]
