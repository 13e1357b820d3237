"""Trees and forests of scikit-learn: thresholds and leaves as they were fitted, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor, IsolationForest
from sklearn.ensemble._forest import ForestClassifier, ForestRegressor
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from registry.export.builder import Builder, Value
from registry.export.steps import Classes, classify, regress
from registry.export.table import Table
from registry.export.trees import Ensemble, Tree, tree_sums

Array = npt.NDArray[Any]


def leaves(g: Builder, x: Value, trees: Sequence[Any]) -> Value:
    """Position of the leaf that each tree leads to [N, T], counted over all trees.

    scikit-learn compares float32(x) with a float64 threshold; so does this, whatever precision x came in.
    """
    found, start = [], 0
    for n, tree in enumerate(trees):
        found.append(as_tree(tree, np.arange(start, start + tree.node_count), n))
        start += tree.node_count
    return g.cast(tree_sums(g, g.rounded(x), Ensemble(tuple(found), np.zeros(len(trees)))), "int64")


def leaf_sums(g: Builder, x: Value, trees: Sequence[Any], values: Sequence[Array], targets: Sequence[int]) -> Value:
    """Sums over trees of a number per leaf, each tree for its target [N, max(targets) + 1]."""
    found = [as_tree(tree, held, target) for tree, held, target in zip(trees, values, targets, strict=True)]
    return tree_sums(g, g.rounded(x), Ensemble(tuple(found), np.zeros(max(targets) + 1)))


def as_tree(tree: Any, values: Array, target: int, columns: Array | None = None) -> Tree:
    """A tree of scikit-learn whose node n answers `values[n]`, for a target.

    Args:
        columns: the tree's columns among those of the whole, where it was fitted on some of them.
    """
    leaf = tree.children_left == -1
    number = np.where(leaf, ~(np.cumsum(leaf) - 1), np.cumsum(~leaf) - 1)
    splits = np.flatnonzero(~leaf)
    features = tree.feature[splits]
    return Tree(
        feature=features if columns is None else np.asarray(columns)[features],
        threshold=tree.threshold[splits],
        yes=number[tree.children_left[splits]],
        no=number[tree.children_right[splits]],
        null_yes=np.asarray(tree.missing_go_to_left).astype(bool)[splits],
        leaves=np.asarray(values, np.float64)[leaf],
        target=target,
    )


def leaf_means(g: Builder, x: Value, members: Sequence[Any]) -> Value:
    """Mean over decision trees of what their leaves hold [N, C]: class shares, or several targets."""
    trees = [member.tree_ for member in members]
    stored = np.concatenate([_held(member) for member in members])
    if len(trees) == 1:
        return g.op("Gather", g.constant(stored), g.reshape(leaves(g, x, trees), [-1]), axis=0)
    each = g.op("Gather", g.constant(stored), leaves(g, x, trees), axis=0)  # [N, T, C]
    return g.op("Div", g.reduce("ReduceSum", each, 1, keep=False), g.constant(np.float64(len(trees))))


def _held(member: Any) -> Array:
    """What a decision tree answers at each of its nodes [nodes, C]."""
    value = member.tree_.value
    return np.asarray(value[:, 0, :] if isinstance(member, DecisionTreeClassifier) else value[:, :, 0])


@regress.register(DecisionTreeRegressor)
def _(step: Any, g: Builder, table: Table) -> Value:
    return _forest_mean(g, table.numbers(g, step), [step])


@regress.register(ForestRegressor)
def _(step: Any, g: Builder, table: Table) -> Value:
    return _forest_mean(g, table.numbers(g, step), step.estimators_)


def _forest_mean(g: Builder, x: Value, members: Sequence[Any]) -> Value:
    if members[0].n_outputs_ > 1:
        return leaf_means(g, x, members)
    trees = [member.tree_ for member in members]
    total = leaf_sums(g, x, trees, [tree.value[:, 0, 0] for tree in trees], [0] * len(trees))
    return g.op("Div", total, g.constant(np.float64(len(trees))))


@classify.register(DecisionTreeClassifier)
def _(step: Any, g: Builder, table: Table) -> Classes:
    return _shares(g, table.numbers(g, step), [step])


@classify.register(ForestClassifier)
def _(step: Any, g: Builder, table: Table) -> Classes:
    return _shares(g, table.numbers(g, step), step.estimators_)


def _shares(g: Builder, x: Value, members: Sequence[Any]) -> Classes:
    shares = leaf_means(g, x, members)
    return Classes(g.argmax(shares), shares)


@regress.register(GradientBoostingRegressor)
def _(step: Any, g: Builder, table: Table) -> Value:
    return _boosted(step, g, table)


@classify.register(GradientBoostingClassifier)
def _(step: Any, g: Builder, table: Table) -> Classes:
    raw = _boosted(step, g, table)
    if step.n_classes_ > 2:
        return Classes(g.argmax(raw), g.op("Softmax", raw, axis=1), raw)
    # the exponential loss has its sigmoid at twice the raw number
    steep = raw if step.loss == "log_loss" else g.op("Mul", raw, g.constant(2.0))
    positive = g.op("Sigmoid", steep)
    both = g.concat([g.op("Sub", g.constant(1.0), positive), positive])
    above = g.op("GreaterOrEqual", raw, g.constant(0.0))
    return Classes(g.reshape(g.cast(above, "int64"), [-1]), both, raw)


def _boosted(step: Any, g: Builder, table: Table) -> Value:
    """Raw predictions [N, trees per stage]: the start plus the learning rate's share of every tree."""
    x = table.numbers(g, step)
    stages, width = step.estimators_.shape
    members = [(step.estimators_[i, k].tree_, k) for i in range(stages) for k in range(width)]
    total = leaf_sums(
        g,
        x,
        [tree for tree, _ in members],
        [step.learning_rate * tree.value[:, 0, 0] for tree, _ in members],
        [k for _, k in members],
    )
    start = _start(step, g, table)
    return total if start is None else g.op("Add", total, start)


def _start(step: Any, g: Builder, table: Table) -> Value | None:
    first = step.init_
    if isinstance(first, str):  # "zero"
        return None
    if isinstance(first, (DummyClassifier, DummyRegressor)):
        probe = np.zeros((1, step.n_features_in_), np.float32)
        return g.constant(np.asarray(step._raw_predict_init(probe), np.float64))
    if not hasattr(step, "classes_"):
        return regress(first, g, table)
    tiny = float(np.finfo(np.float64).eps)
    shares = classify(first, g, table).probabilities or ""
    shares = g.op("Min", g.op("Max", shares, g.constant(tiny)), g.constant(1.0 - tiny))
    if step.n_classes_ == 2:
        positive = g.gather(shares, [1])
        odds = g.op("Log", g.op("Div", positive, g.op("Sub", g.constant(1.0), positive)))
        return odds if step.loss == "log_loss" else g.op("Mul", odds, g.constant(0.5))
    logs = g.op("Log", shares)
    return g.op("Sub", logs, g.reduce("ReduceMean", logs))


@classify.register(IsolationForest)
def _(step: Any, g: Builder, table: Table) -> Classes:
    from sklearn.ensemble._iforest import _average_path_length

    trees = [member.tree_ for member in step.estimators_]
    depths = [step._decision_path_lengths[n] + step._average_path_length_per_tree[n] - 1.0 for n in range(len(trees))]
    members = zip(trees, depths, step.estimators_features_, strict=True)
    found = tuple(as_tree(tree, depth, 0, columns) for tree, depth, columns in members)
    inner = tree_sums(g, g.rounded(table.numbers(g, step)), Ensemble(found, np.zeros(1)))
    usual = len(trees) * float(_average_path_length([step._max_samples])[0])
    power = g.op("Pow", g.constant(2.0), g.op("Div", g.op("Neg", inner), g.constant(usual)))
    decision = g.op("Sub", g.op("Neg", power), g.constant(np.float64(step.offset_)))
    inlier = g.op("GreaterOrEqual", decision, g.constant(0.0))
    return Classes(g.reshape(g.cast(inlier, "int64"), [-1]), None, decision)
