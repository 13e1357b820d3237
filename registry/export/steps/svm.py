"""Support vector machines with kernels."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.svm import OneClassSVM
from sklearn.svm._base import BaseLibSVM, BaseSVC

from registry.export.builder import Builder, Value
from registry.export.steps import Classes, classify, refused, regress
from registry.export.steps.coupling import coupled
from registry.export.steps.kernels import polynomial, radial
from registry.export.steps.linear import chosen
from registry.export.table import Table

Array = npt.NDArray[Any]


def _kernel(step: Any, g: Builder, x: Value) -> Value:
    """Similarity of each row to each support vector [N, S]."""
    vectors = _dense(step.support_vectors_)
    gamma = float(step._gamma)
    if step.kernel == "linear":
        return g.op("MatMul", x, g.constant(vectors.T))
    if step.kernel == "rbf":
        return radial(g, x, vectors, gamma)
    if step.kernel == "poly":
        return polynomial(g, x, vectors, gamma, float(step.coef0), float(step.degree))
    if step.kernel == "sigmoid":
        return g.op("Tanh", polynomial(g, x, vectors, gamma, float(step.coef0), 1.0))
    raise refused(step, "a kernel written in Python has no ONNX form", "use rbf, linear, poly or sigmoid")


def _dense(values: Any) -> Array:
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values, np.float64)


@regress.register(BaseLibSVM)
def _(step: Any, g: Builder, table: Table) -> Value:
    return g.affine(_kernel(step, g, table.numbers(g, step)), _dense(step.dual_coef_).T, step.intercept_)


@classify.register(OneClassSVM)
def _(step: Any, g: Builder, table: Table) -> Classes:
    raw = g.affine(_kernel(step, g, table.numbers(g, step)), _dense(step.dual_coef_).T, step.intercept_)
    return Classes(chosen(g, raw, 2), None, raw)


@classify.register(BaseSVC)
def _(step: Any, g: Builder, table: Table) -> Classes:
    x = table.numbers(g, step)
    similar = _kernel(step, g, x)
    if len(step.classes_) == 2:
        raw = g.affine(similar, _dense(step.dual_coef_).T, step.intercept_)
        # libsvm counts the margin from the first class: the sign of ours is the other one
        return Classes(chosen(g, raw, 2), _shares(step, g, g.op("Neg", raw)), raw)
    margins = _one_against_one(step, g, similar)
    votes, confidence = _votes(g, margins, len(step.classes_))
    ranked = g.op(
        "Add",
        votes,
        g.op("Div", confidence, g.op("Mul", g.op("Add", g.op("Abs", confidence), g.constant(1.0)), g.constant(3.0))),
    )
    ovr = step.decision_function_shape == "ovr"
    decision = ranked if ovr else margins
    label = g.argmax(ranked) if step.break_ties and ovr else g.argmax(votes)
    return Classes(label, _shares(step, g, margins), decision)


def _shares(step: Any, g: Builder, margins: Value) -> Value | None:
    """Probabilities, where the machine was fitted with them."""
    if not step._probA.size:
        return None
    steep = g.op("Mul", margins, g.constant(-np.asarray(step._probA, np.float64)))
    pairs = g.op("Sigmoid", g.op("Sub", steep, g.constant(np.asarray(step._probB, np.float64))))
    return coupled(g, pairs, len(step.classes_))


def _one_against_one(step: Any, g: Builder, similar: Value) -> Value:
    """Margins of each pair of classes [N, pairs], positive for the first of the pair."""
    coefficients = _dense(step.dual_coef_)
    starts = np.cumsum([0, *step._n_support])
    pairs = list(combinations(range(len(step.classes_)), 2))
    weights = np.zeros((coefficients.shape[1], len(pairs)))
    for n, (i, j) in enumerate(pairs):
        mine, theirs = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        weights[mine, n] = coefficients[j - 1, mine]
        weights[theirs, n] = coefficients[i, theirs]
    return g.affine(similar, weights, step.intercept_)


def _votes(g: Builder, margins: Value, classes: int) -> tuple[Value, Value]:
    """How many pairs each class wins, and by how much in sum [N, K]."""
    pairs = list(combinations(range(classes), 2))
    winner, loser, sign = (np.zeros((len(pairs), classes)) for _ in range(3))
    for n, (i, j) in enumerate(pairs):
        winner[n, i], loser[n, j] = 1.0, 1.0
        sign[n, i], sign[n, j] = 1.0, -1.0
    won = g.cast(g.op("Greater", margins, g.constant(0.0)), "double")
    lost = g.op("Sub", g.constant(1.0), won)
    votes = g.op("Add", g.op("MatMul", won, g.constant(winner)), g.op("MatMul", lost, g.constant(loser)))
    return votes, g.op("MatMul", margins, g.constant(sign))
