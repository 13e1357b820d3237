"""Linear models, generalised linear models and linear discriminants."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.cross_decomposition._pls import _PLS
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RANSACRegressor, SGDClassifier, SGDOneClassSVM, SGDRegressor
from sklearn.linear_model._base import LinearClassifierMixin, LinearModel
from sklearn.linear_model._glm.glm import _GeneralizedLinearRegressor

from registry.export.builder import Builder, Value
from registry.export.steps import Classes, classify, refused, regress, transform
from registry.export.table import Table


def linear(step: Any, g: Builder, x: Value) -> Value:
    """`x @ coef_.T + intercept_` [N, T]."""
    weights = np.asarray(step.coef_, np.float64)
    weights = weights.toarray() if hasattr(weights, "toarray") else np.atleast_2d(weights)
    return g.affine(x, weights.T, np.asarray(step.intercept_, np.float64).reshape(-1))


@regress.register(LinearModel)
@regress.register(SGDRegressor)
def _(step: Any, g: Builder, table: Table) -> Value:
    return linear(step, g, table.numbers(g, step))


@regress.register(RANSACRegressor)
def _(step: Any, g: Builder, table: Table) -> Value:
    return regress(step.estimator_, g, table)


@regress.register(_PLS)
def _(step: Any, g: Builder, table: Table) -> Value:
    centred = g.op("Sub", table.numbers(g, step), g.constant(step._x_mean))
    return g.affine(centred, step.coef_.T, step.intercept_)


@regress.register(_GeneralizedLinearRegressor)
def _(step: Any, g: Builder, table: Table) -> Value:
    raw = linear(step, g, table.numbers(g, step))
    link = type(step._base_loss.link).__name__
    if link == "LogLink":
        return g.op("Exp", raw)
    if link == "IdentityLink":
        return raw
    raise refused(step, f"its link {link} is not known here", "use the log or the identity link")


@classify.register(LinearClassifierMixin)
def _(step: Any, g: Builder, table: Table) -> Classes:
    raw = linear(step, g, table.numbers(g, step))
    return Classes(chosen(g, raw, len(step.classes_)), _shares(step, g, raw), raw)


def chosen(g: Builder, raw: Value, classes: int) -> Value:
    """The class with the largest number, or of two classes the second where the number is above zero."""
    if classes > 2:
        return g.argmax(raw)
    return g.reshape(g.cast(g.op("Greater", raw, g.constant(0.0)), "int64"), [-1])


def both(g: Builder, positive: Value) -> Value:
    """Probabilities of two classes from that of the second."""
    return g.concat([g.op("Sub", g.constant(1.0), positive), positive])


def normalised_shares(g: Builder, shares: Value, classes: int) -> Value:
    """Rows that sum to one; a row of zeros is shared equally."""
    total = g.reduce("ReduceSum", shares)
    none = g.op("Equal", total, g.constant(0.0))
    divided = g.op("Div", shares, g.op("Where", none, g.constant(1.0), total))
    return g.op("Where", none, g.constant(1.0 / classes), divided)


def _shares(step: Any, g: Builder, raw: Value) -> Value | None:
    classes = len(step.classes_)
    if isinstance(step, (LogisticRegression, LinearDiscriminantAnalysis)):
        return both(g, g.op("Sigmoid", raw)) if classes == 2 else g.op("Softmax", raw, axis=1)
    if not isinstance(step, SGDClassifier) or step.loss not in ("log_loss", "modified_huber"):
        return None
    if step.loss == "log_loss":
        each = g.op("Sigmoid", raw)
    else:
        bounded = g.op("Min", g.op("Max", raw, g.constant(-1.0)), g.constant(1.0))
        each = g.op("Mul", g.op("Add", bounded, g.constant(1.0)), g.constant(0.5))
    return both(g, each) if classes == 2 else normalised_shares(g, each, classes)


@classify.register(SGDOneClassSVM)
def _(step: Any, g: Builder, table: Table) -> Classes:
    weights = np.atleast_2d(step.coef_).T
    raw = g.affine(table.numbers(g, step), weights, -np.asarray(step.offset_))
    return Classes(g.reshape(g.cast(g.op("GreaterOrEqual", raw, g.constant(0.0)), "int64"), [-1]), None, raw)


@classify.register(QuadraticDiscriminantAnalysis)
def _(step: Any, g: Builder, table: Table) -> Classes:
    x = table.numbers(g, step)
    columns = []
    for mean, rotation, scale, prior in zip(step.means_, step.rotations_, step.scalings_, step.priors_, strict=True):
        turned = g.op("MatMul", g.op("Sub", x, g.constant(mean)), g.constant(rotation * scale**-0.5))
        norm = g.reduce("ReduceSum", g.op("Mul", turned, turned))
        constant = -0.5 * float(np.sum(np.log(scale))) + float(np.log(prior))
        columns.append(g.op("Add", g.op("Mul", norm, g.constant(-0.5)), g.constant(constant)))
    each = g.concat(columns)
    raw = g.op("Sub", columns[1], columns[0]) if len(columns) == 2 else each
    return Classes(g.argmax(each), g.op("Softmax", each, axis=1), raw)


@transform.register(LinearDiscriminantAnalysis)
def _(step: Any, g: Builder, table: Table) -> Table:
    x = table.numbers(g, step)
    if step.solver == "svd":
        x = g.op("Sub", x, g.constant(step.xbar_))
    scalings = step.scalings_[:, : step._max_components]
    return Table.of(g.op("MatMul", x, g.constant(scalings)), scalings.shape[1])
