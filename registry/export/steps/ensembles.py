"""Voting, stacking, bagging and AdaBoost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.ensemble._stacking import _BaseStacking
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from registry.export.builder import Builder, Value
from registry.export.steps import Classes, classify, decision_of, probabilities_of, refused, regress
from registry.export.steps.trees import leaf_sums, leaves
from registry.export.table import Table

Array = npt.NDArray[Any]


def average(g: Builder, values: Sequence[Value], weights: Sequence[float] | None = None) -> Value:
    """Mean of equally shaped values, added in their order."""
    shares = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    total: Value | None = None
    for value, share in zip(values, shares, strict=True):
        part = value if share == 1.0 else g.op("Mul", value, g.constant(float(share)))
        total = part if total is None else g.op("Add", total, part)
    return g.op("Div", total or "", g.constant(float(shares.sum())))


@classify.register(VotingClassifier)
def _(step: Any, g: Builder, table: Table) -> Classes:
    if step.voting != "soft":
        raise refused(step, "hard votes are no probabilities", "use voting='soft'")
    found = [probabilities_of(inner, classify(inner, g, table)) for inner in step.estimators_]
    shares = average(g, found, step._weights_not_none)
    return Classes(g.argmax(shares), shares)


@regress.register(VotingRegressor)
def _(step: Any, g: Builder, table: Table) -> Value:
    return average(g, [regress(inner, g, table) for inner in step.estimators_], step._weights_not_none)


def _stacked(step: _BaseStacking, g: Builder, table: Table) -> Table:
    made: list[Table] = []
    for inner, method in zip(step.estimators_, step.stack_method_, strict=True):
        if method == "predict" and not hasattr(step, "classes_"):
            made.append(Table.of(regress(inner, g, table), 1))
            continue
        found, count = classify(inner, g, table), len(step.classes_)
        if method == "predict_proba":
            shares = probabilities_of(inner, found)
            made.append(Table.of(g.gather(shares, [1]), 1) if count == 2 else Table.of(shares, count))
        elif method == "decision_function":
            made.append(Table.of(decision_of(inner, found), 1 if count == 2 else count))
        else:
            made.append(Table.of(g.cast(g.reshape(found.chosen, [-1, 1]), "double"), 1))
    return Table.joined([*made, *([table] if step.passthrough else [])])


@classify.register(StackingClassifier)
def _(step: Any, g: Builder, table: Table) -> Classes:
    return classify(step.final_estimator_, g, _stacked(step, g, table))


@regress.register(StackingRegressor)
def _(step: Any, g: Builder, table: Table) -> Value:
    return regress(step.final_estimator_, g, _stacked(step, g, table))


@classify.register(BaggingClassifier)
def _(step: Any, g: Builder, table: Table) -> Classes:
    count = int(step.n_classes_)
    parts, margins = [], []
    for inner, columns in zip(step.estimators_, step.estimators_features_, strict=True):
        found = classify(inner, g, table.take(columns.tolist()))
        known = [int(c) for c in inner.classes_]
        if found.probabilities is None:
            shares = g.cast(
                g.op("Equal", g.reshape(found.chosen, [-1, 1]), g.constant(np.arange(len(known))[None, :])), "double"
            )
        else:
            shares = found.probabilities
        if known != list(range(count)):  # a sample without all of the classes
            shares = g.op("MatMul", shares, g.constant(np.eye(count)[known]))
        parts.append(shares)
        margins.append(found.decision)
    shares = average(g, parts)
    decision = None
    if hasattr(step, "decision_function") and all(margin is not None for margin in margins):
        decision = average(g, [margin or "" for margin in margins])
    return Classes(g.argmax(shares), shares, decision)


@regress.register(BaggingRegressor)
def _(step: Any, g: Builder, table: Table) -> Value:
    members = list(zip(step.estimators_, step.estimators_features_, strict=True))
    return average(g, [regress(inner, g, table.take(columns.tolist())) for inner, columns in members])


@classify.register(AdaBoostClassifier)
def _(step: Any, g: Builder, table: Table) -> Classes:
    count = int(step.n_classes_)
    weights = np.asarray(step.estimator_weights_, np.float64)[: len(step.estimators_)]
    votes = [_votes(step, inner, weight) for inner, weight in zip(step.estimators_, weights, strict=True)]
    if all(isinstance(inner, DecisionTreeClassifier) for inner in step.estimators_):
        total = _tree_votes(g, table.numbers(g, step), step.estimators_, votes)
    else:
        parts = [
            g.op("Gather", g.constant(vote), classify(inner, g, table).chosen, axis=0)
            for inner, vote in zip(step.estimators_, votes, strict=True)
        ]
        total = g.op("Sum", *parts)
    pred = g.op("Div", total, g.constant(float(np.asarray(step.estimator_weights_).sum())))
    if count > 2:
        shares = g.op("Softmax", g.op("Div", pred, g.constant(float(count - 1))), axis=1)
        return Classes(g.argmax(pred), shares, pred)
    decision = g.op("Sub", g.gather(pred, [1]), g.gather(pred, [0]))
    halves = g.concat([g.op("Mul", decision, g.constant(-0.5)), g.op("Mul", decision, g.constant(0.5))])
    above = g.reshape(g.cast(g.op("Greater", decision, g.constant(0.0)), "int64"), [-1])
    return Classes(above, g.op("Softmax", halves, axis=1), decision)


def _votes(step: Any, inner: Any, weight: float) -> Array:
    """What each class says that one member may choose [its classes, all classes]."""
    count = int(step.n_classes_)
    votes = np.full((len(inner.classes_), count), -weight / (count - 1))
    for row, value in enumerate(inner.classes_):
        votes[row, int(np.flatnonzero(step.classes_ == value)[0])] = weight
    return votes


def _tree_votes(g: Builder, x: Value, members: Sequence[Any], votes: Sequence[Array]) -> Value:
    """Sum of the votes of decision trees, all asked at once."""
    trees = [member.tree_ for member in members]
    held = [vote[tree.value[:, 0, :].argmax(axis=1)] for tree, vote in zip(trees, votes, strict=True)]
    each = g.op("Gather", g.constant(np.concatenate(held)), leaves(g, x, trees), axis=0)  # [N, T, K]
    return g.reduce("ReduceSum", each, 1, keep=False)


@regress.register(AdaBoostRegressor)
def _(step: Any, g: Builder, table: Table) -> Value:
    members, count = step.estimators_, len(step.estimators_)
    if all(isinstance(member, DecisionTreeRegressor) for member in members):
        trees = [member.tree_ for member in members]
        each = leaf_sums(g, table.numbers(g, step), trees, [t.value[:, 0, 0] for t in trees], range(count))
    else:
        each = g.concat([regress(member, g, table) for member in members])
    weights = np.asarray(step.estimator_weights_, np.float64)[:count]
    # the weighted median: the smallest prediction at which half of the weight is reached
    ordered, places = g.ops("TopK", each, g.constant(np.array([count])), outputs=2, axis=1, largest=0, sorted=1)
    reached = g.op("CumSum", g.op("Gather", g.constant(weights), places, axis=0), g.constant(np.int64(1)))
    half = g.op("Mul", g.gather(reached, [count - 1]), g.constant(0.5))
    first = g.op("ArgMax", g.cast(g.op("GreaterOrEqual", reached, half), "double"), axis=1, keepdims=1)
    return g.op("GatherElements", ordered, first, axis=1)


@classify.register(DummyClassifier)
def _(step: Any, g: Builder, table: Table) -> Classes:
    if step.strategy not in ("prior", "most_frequent", "constant"):
        raise refused(step, "it answers at random", "use strategy='prior'")
    shares = np.asarray(step.predict_proba(np.zeros((1, 1))), np.float64)
    rows = g.op("MatMul", _zeros(g, table), g.constant(np.zeros((1, len(step.classes_)))))
    answered = g.op("Add", rows, g.constant(shares))
    return Classes(g.argmax(answered), answered)


@regress.register(DummyRegressor)
def _(step: Any, g: Builder, table: Table) -> Value:
    return g.op("Add", _zeros(g, table), g.constant(np.asarray(step.constant_, np.float64).reshape(1, -1)))


def _zeros(g: Builder, table: Table) -> Value:
    """A column of zeros, as many as there are rows."""
    first = g.gather(table.fields[0].tensor, [table.fields[0].position])
    if table.fields[0].text:
        return g.cast(
            g.op("LabelEncoder", first, domain="ai.onnx.ml", keys_strings=[""], values_int64s=[0], default_int64=0),
            "double",
        )
    return g.cast(g.op("Less", first, g.constant(-np.inf)), "double")
