"""Pipelines, column transformers, unions and searches: what holds other steps together."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline

from registry.export.builder import Builder, Value
from registry.export.steps import Classes, classify, regress, transform
from registry.export.table import Table


@transform.register(str)
def _(step: str, g: Builder, table: Table) -> Table:
    return table if step == "passthrough" else Table(())


@transform.register(type(None))
def _(step: None, g: Builder, table: Table) -> Table:
    return table


def _before(step: Pipeline, g: Builder, table: Table) -> Table:
    for _, inner in step.steps[:-1]:
        table = transform(inner, g, table)
    return table


@transform.register(Pipeline)
def _(step: Pipeline, g: Builder, table: Table) -> Table:
    return transform(step.steps[-1][1], g, _before(step, g, table))


@regress.register(Pipeline)
def _(step: Pipeline, g: Builder, table: Table) -> Value:
    return regress(step.steps[-1][1], g, _before(step, g, table))


@classify.register(Pipeline)
def _(step: Pipeline, g: Builder, table: Table) -> Classes:
    return classify(step.steps[-1][1], g, _before(step, g, table))


@transform.register(BaseSearchCV)
def _(step: Any, g: Builder, table: Table) -> Table:
    return transform(step.best_estimator_, g, table)


@regress.register(BaseSearchCV)
def _(step: Any, g: Builder, table: Table) -> Value:
    return regress(step.best_estimator_, g, table)


@classify.register(BaseSearchCV)
def _(step: Any, g: Builder, table: Table) -> Classes:
    return classify(step.best_estimator_, g, table)


@transform.register(FrozenEstimator)
def _(step: Any, g: Builder, table: Table) -> Table:
    return transform(step.estimator, g, table)


@regress.register(FrozenEstimator)
def _(step: Any, g: Builder, table: Table) -> Value:
    return regress(step.estimator, g, table)


@classify.register(FrozenEstimator)
def _(step: Any, g: Builder, table: Table) -> Classes:
    return classify(step.estimator, g, table)


@transform.register(FeatureUnion)
def _(step: FeatureUnion, g: Builder, table: Table) -> Table:
    made = []
    for name, inner in step.transformer_list:
        if inner != "drop":
            made.append(_weighted(g, transform(inner, g, table), (step.transformer_weights or {}).get(name)))
    return Table.joined(made)


@transform.register(ColumnTransformer)
def _(step: ColumnTransformer, g: Builder, table: Table) -> Table:
    made: dict[str, Table] = {}
    for name, inner, _ in step.transformers_:
        positions = step._transformer_to_input_indices[name]
        if len(positions) == 0 or (isinstance(inner, str) and inner == "drop"):
            continue
        taken = None
        if hasattr(step, "feature_names_in_"):
            # by name, as the estimator does: the frame may have its columns in another order
            taken = table.named(step.feature_names_in_[position] for position in positions)
        part = transform(inner, g, taken or table.take(positions))
        made[name] = _weighted(g, part, (step.transformer_weights or {}).get(name))
    return Table.joined(made.values())


def _weighted(g: Builder, table: Table, weight: float | None) -> Table:
    if weight is None or not table.fields:
        return table
    # one weight a column: ONNX Runtime would fold a single one into a product before it, in float32
    weights = np.full(len(table.fields), float(weight))
    return Table.of(g.op("Mul", table.numbers(g, None), g.constant(weights)), len(table.fields))
