"""Nearest neighbours: all distances in one product, the candidates' distances again by differences."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from registry.export.builder import Builder, Value
from registry.export.steps import Classes, classify, refused, regress
from registry.export.table import Table

SPARE: Final = 8
"""Candidates beyond k: rounding of the product may swap neighbours at the edge."""
WIDEST: Final = 64
"""Columns up to which other metrics than the Euclidean are summed one column after another."""


def _neighbours(step: Any, g: Builder, x: Value) -> tuple[Value, Value]:
    """Distances [N, k] and positions [N, k] of the nearest fitted rows."""
    points = np.asarray(step._fit_X.toarray() if hasattr(step._fit_X, "toarray") else step._fit_X, np.float64)
    metric = step.effective_metric_
    power = float(step.effective_metric_params_.get("p", 2))
    count = min(step.n_neighbors, len(points))
    metric = {"manhattan": "l1", "cityblock": "l1", "l2": "euclidean"}.get(metric, metric)
    if metric == "minkowski":
        metric = {1.0: "l1", 2.0: "euclidean"}.get(power, "minkowski")
    if metric == "minkowski" and step.effective_metric_params_.get("w") is not None:
        raise refused(step, "weights of the metric are not known here", "scale the columns instead")
    if metric == "cosine":
        return _nearest(g, _cosine(g, x, points), count)
    if metric == "euclidean":
        product = g.op("MatMul", x, g.constant(-2.0 * points.T))
        rough = g.op("Add", product, g.constant((points**2).sum(axis=1)[None, :]))
        return _again(g, x, points, _nearest(g, rough, min(count + SPARE, len(points)))[1], count)
    if metric not in ("l1", "minkowski", "chebyshev") or points.shape[1] > WIDEST:
        raise refused(step, f"metric '{metric}' over {points.shape[1]} columns is not known here", "use euclidean")
    return _nearest(g, _summed(g, x, points, metric, power), count)


def _nearest(g: Builder, away: Value, count: int) -> tuple[Value, Value]:
    values, positions = g.ops("TopK", away, g.constant(np.array([count])), outputs=2, axis=1, largest=0, sorted=1)
    return values, positions


def _again(g: Builder, x: Value, points: Any, candidates: Value, count: int) -> tuple[Value, Value]:
    """The nearest of the candidates by exact differences; equally near ones in the order of their positions."""
    ordered = _nearest(g, candidates, min(count + SPARE, len(points)))[0]
    rows = g.op("Gather", g.constant(points), ordered, axis=0)  # [N, C, F]
    gap = g.op("Sub", rows, g.op("Unsqueeze", x, g.constant(np.array([1]))))
    away = g.op("Sqrt", g.reduce("ReduceSum", g.op("Mul", gap, gap), 2, keep=False))
    values, places = _nearest(g, away, count)
    return values, g.op("GatherElements", ordered, places, axis=1)


def _cosine(g: Builder, x: Value, points: Any) -> Value:
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    unit = points / np.where(lengths == 0.0, 1.0, lengths)
    mine = g.op("Sqrt", g.reduce("ReduceSum", g.op("Mul", x, x)))
    scaled = g.op("Div", x, g.op("Where", g.op("Equal", mine, g.constant(0.0)), g.constant(1.0), mine))
    away = g.op("Sub", g.constant(1.0), g.op("MatMul", scaled, g.constant(unit.T)))
    return g.op("Max", away, g.constant(0.0))


def _summed(g: Builder, x: Value, points: Any, metric: str, power: float) -> Value:
    total: Value | None = None
    for n in range(points.shape[1]):
        gap = g.op("Abs", g.op("Sub", g.gather(x, [n]), g.constant(points[:, n][None, :])))
        if metric == "minkowski":
            gap = g.op("Pow", gap, g.constant(power))
        total = gap if total is None else g.op("Max" if metric == "chebyshev" else "Add", total, gap)
    total = total or x
    return g.op("Pow", total, g.constant(1.0 / power)) if metric == "minkowski" else total


def _weights(step: Any, g: Builder, away: Value) -> Value | None:
    """Weights of the neighbours [N, k]; None where all count the same."""
    if step.weights in (None, "uniform"):
        return None
    if step.weights != "distance":
        raise refused(step, "weights written in Python have no ONNX form", "use uniform or distance")
    here = g.cast(g.op("Equal", away, g.constant(0.0)), "double")
    any_here = g.op("Greater", g.reduce("ReduceMax", here), g.constant(0.0))
    return g.op("Where", any_here, here, g.op("Reciprocal", away))


@classify.register(KNeighborsClassifier)
def _(step: Any, g: Builder, table: Table) -> Classes:
    away, positions = _neighbours(step, g, table.numbers(g, step))
    member = np.eye(len(step.classes_))[np.asarray(step._y).ravel()]
    each = g.op("Gather", g.constant(member), positions, axis=0)  # [N, k, K]
    weights = _weights(step, g, away)
    if weights is not None:
        each = g.op("Mul", each, g.op("Unsqueeze", weights, g.constant(np.array([2]))))
    votes = g.reduce("ReduceSum", each, 1, keep=False)
    shares = g.op("Div", votes, g.reduce("ReduceSum", votes))
    return Classes(g.argmax(votes), shares)


@regress.register(KNeighborsRegressor)
def _(step: Any, g: Builder, table: Table) -> Value:
    away, positions = _neighbours(step, g, table.numbers(g, step))
    values = np.asarray(step._y, np.float64).reshape(len(step._y), -1)
    each = g.op("Gather", g.constant(values), positions, axis=0)  # [N, k, T]
    weights = _weights(step, g, away)
    if weights is None:
        return g.reduce("ReduceMean", each, 1, keep=False)
    weighted = g.op("Mul", each, g.op("Unsqueeze", weights, g.constant(np.array([2]))))
    return g.op("Div", g.reduce("ReduceSum", weighted, 1, keep=False), g.reduce("ReduceSum", weights))
