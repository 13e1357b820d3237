"""Missing numbers filled from the nearest fitted rows that have them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.impute import KNNImputer

from registry.export.builder import Builder, Value
from registry.export.steps import refused, transform
from registry.export.steps.imputing import indicated
from registry.export.table import Table

Array = npt.NDArray[Any]
FAR: Final = 1e150
"""Distance of rows that have no column in common."""


@transform.register(KNNImputer)
def _(step: Any, g: Builder, table: Table) -> Table:
    if step.missing_values == step.missing_values or step.metric != "nan_euclidean":
        raise refused(step, "its mark or its metric is not known here", "mark missing numbers by NaN")
    if step.weights not in ("uniform", "distance"):
        raise refused(step, "weights written in Python have no ONNX form", "use uniform or distance")
    x, away = table.numbers(g, step), _distances(g, table.numbers(g, step), step)
    made = []
    for n, field in enumerate(table.fields):
        if not step._valid_mask[n] and not step.keep_empty_features:
            continue
        column = g.gather(x, [n])
        # a column that the contract does not let be null needs no neighbours
        if field.column is None or field.column.nullable:
            fill = _filled(step, g, away, n) if step._valid_mask[n] else g.constant(0.0)
            column = g.op("Where", g.op("IsNaN", column), fill, column)
        made.append(Table.of(column, 1))
    return Table.joined([*made, *([indicated(step.indicator_, g, x, table)] if step.add_indicator else [])])


def _distances(g: Builder, x: Value, step: Any) -> Value:
    """Euclidean distance over the columns that both rows have, scaled up to all of them [N, P]."""
    seen = ~np.asarray(step._mask_fit_X)
    points = np.where(seen, step._fit_X, 0.0).astype(np.float64)
    there = seen.astype(np.float64)
    null = g.op("IsNaN", x)
    mine = g.op("Where", null, g.constant(0.0), x)
    own = g.cast(g.op("Not", null), "double")
    squared = g.op(
        "Add",
        g.op("MatMul", g.op("Mul", mine, mine), g.constant(there.T)),
        g.op(
            "Add",
            g.op("MatMul", mine, g.constant(-2.0 * points.T)),
            g.op("MatMul", own, g.constant((points**2).T)),
        ),
    )
    # the number of columns belongs into the matrix: behind it ONNX Runtime would fold it in float32
    common = g.op("MatMul", own, g.constant(there.T / points.shape[1]))
    none = g.op("Equal", common, g.constant(0.0))
    share = g.op("Div", g.op("Max", squared, g.constant(0.0)), g.op("Where", none, g.constant(1.0), common))
    return g.op("Where", none, g.constant(FAR), g.op("Sqrt", share))


def _filled(step: Any, g: Builder, away: Value, column: int) -> Value:
    """Mean of the nearest rows that have the column [N, 1]."""
    donors = np.flatnonzero(~step._mask_fit_X[:, column])
    values = np.asarray(step._fit_X[donors, column], np.float64)
    count = g.constant(np.array([min(step.n_neighbors, len(donors))]))
    nearest, places = g.ops("TopK", g.gather(away, donors), count, outputs=2, axis=1, largest=0, sorted=1)
    usable = g.cast(g.op("Less", nearest, g.constant(FAR)), "double")
    weights = usable
    if step.weights == "distance":
        here = g.cast(g.op("Equal", nearest, g.constant(0.0)), "double")
        any_here = g.op("Greater", g.reduce("ReduceMax", here), g.constant(0.0))
        weights = g.op("Mul", usable, g.op("Where", any_here, here, g.op("Reciprocal", nearest)))
    total = g.reduce("ReduceSum", weights)
    none = g.op("Equal", total, g.constant(0.0))
    known = g.op("Gather", g.constant(values), places, axis=0)
    mean = g.op("Div", g.reduce("ReduceSum", g.op("Mul", weights, known)), g.op("Where", none, g.constant(1.0), total))
    return g.op("Where", none, g.constant(float(values.mean())), mean)
