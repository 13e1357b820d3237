"""One estimator per class or per target."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import is_regressor
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor, RegressorChain

from registry.export.builder import Builder, Value
from registry.export.steps import Classes, classify, refused, regress
from registry.export.steps.linear import both
from registry.export.table import Table


@regress.register(MultiOutputRegressor)
def _(step: Any, g: Builder, table: Table) -> Value:
    return g.concat([regress(inner, g, table) for inner in step.estimators_])


@regress.register(RegressorChain)
def _(step: Any, g: Builder, table: Table) -> Value:
    found: list[Value] = []
    for inner in step.estimators_:
        before = [Table.of(value, 1) for value in found]
        found.append(regress(inner, g, Table.joined([table, *before])))
    return g.gather(g.concat(found), np.argsort(step.order_))


@classify.register(OneVsRestClassifier)
def _(step: Any, g: Builder, table: Table) -> Classes:
    if step.multilabel_ or any(is_regressor(inner) for inner in step.estimators_):
        raise refused(step, "several labels a row, or regressors inside", "log one model per label")
    inner = [classify(member, g, table) for member in step.estimators_]
    margins = [_margin(g, each) for each in inner]
    positive = None
    if all(each.probabilities is not None for each in inner):
        positive = g.concat([g.gather(each.probabilities or "", [1]) for each in inner])
    if len(inner) == 1:
        middle = 0.0 if inner[0].decision is not None else 0.5
        above = g.cast(g.op("Greater", margins[0], g.constant(middle)), "int64")
        return Classes(g.reshape(above, [-1]), positive and both(g, positive), inner[0].decision)
    shares = None
    if positive is not None:
        total = g.reduce("ReduceSum", positive)
        none = g.op("Equal", total, g.constant(0.0))
        shares = g.op("Div", positive, g.op("Where", none, g.constant(1.0), total))
    each = g.concat(margins)
    return Classes(g.argmax(each), shares, each)


def _margin(g: Builder, inner: Classes) -> Value:
    """What decides between classes: the decision function, or the probability where there is none."""
    return inner.decision or g.gather(inner.probabilities or "", [1])
