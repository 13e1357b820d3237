"""Projections, selections of columns and clusters."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.cluster._kmeans import _BaseKMeans
from sklearn.decomposition import FastICA, TruncatedSVD
from sklearn.decomposition._base import _BasePCA
from sklearn.feature_selection import RFE
from sklearn.feature_selection._base import SelectorMixin
from sklearn.random_projection import BaseRandomProjection

from registry.export.builder import Builder, Value
from registry.export.steps import Classes, classify, regress, transform
from registry.export.table import Table


@transform.register(_BasePCA)
def _(step: Any, g: Builder, table: Table) -> Table:
    weights = step.components_.T
    if step.whiten:
        scale = np.sqrt(step.explained_variance_)
        scale[scale < np.finfo(scale.dtype).eps] = np.finfo(scale.dtype).eps
        weights = weights / scale
    centred = table.numbers(g, step)
    if step.mean_ is not None:
        centred = g.op("Sub", centred, g.constant(step.mean_))
    return Table.of(g.op("MatMul", centred, g.constant(np.asarray(weights, np.float64))), weights.shape[1])


@transform.register(FastICA)
def _(step: Any, g: Builder, table: Table) -> Table:
    x = table.numbers(g, step)
    if step.whiten:
        x = g.op("Sub", x, g.constant(step.mean_))
    return _projected(g, x, step.components_)


@transform.register(TruncatedSVD)
@transform.register(BaseRandomProjection)
def _(step: Any, g: Builder, table: Table) -> Table:
    return _projected(g, table.numbers(g, step), step.components_)


def _projected(g: Builder, x: Value, components: Any) -> Table:
    dense = components.toarray() if hasattr(components, "toarray") else components
    return Table.of(g.op("MatMul", x, g.constant(np.asarray(dense, np.float64).T)), len(dense))


@transform.register(SelectorMixin)
def _(step: Any, g: Builder, table: Table) -> Table:
    return table.take(np.flatnonzero(step.get_support()).tolist())


@regress.register(RFE)
def _(step: Any, g: Builder, table: Table) -> Value:
    return regress(step.estimator_, g, transform(step, g, table))


@classify.register(RFE)
def _(step: Any, g: Builder, table: Table) -> Classes:
    return classify(step.estimator_, g, transform(step, g, table))


def distances(g: Builder, x: Value, points: Any) -> Value:
    """Euclidean distance of each row to each point [N, P], by differences: no digits are lost near a point."""
    columns = []
    for point in np.asarray(points, np.float64):
        away = g.op("Sub", x, g.constant(point))
        columns.append(g.reduce("ReduceSum", g.op("Mul", away, away)))
    return g.op("Sqrt", g.concat(columns))


@classify.register(_BaseKMeans)
def _(step: Any, g: Builder, table: Table) -> Classes:
    away = distances(g, table.numbers(g, step), step.cluster_centers_)
    return Classes(g.op("ArgMin", away, axis=1, keepdims=0), None, away)


@transform.register(_BaseKMeans)
def _(step: Any, g: Builder, table: Table) -> Table:
    return Table.of(distances(g, table.numbers(g, step), step.cluster_centers_), len(step.cluster_centers_))
