"""Bins, quantiles and splines of single columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.preprocessing import KBinsDiscretizer, QuantileTransformer, SplineTransformer
from sklearn.preprocessing._data import BOUNDS_THRESHOLD

from registry.export.builder import Builder, Value
from registry.export.steps import refused, regress, transform
from registry.export.steps.interpolating import interpolated
from registry.export.steps.quantile import normal_quantile
from registry.export.table import Table


@transform.register(KBinsDiscretizer)
def _(step: Any, g: Builder, table: Table) -> Table:
    x = table.numbers(g, step)
    made = []
    for n, edges in enumerate(step.bin_edges_):
        inner = np.asarray(edges[1:-1], np.float64)
        column = g.gather(x, [n])
        # without inner edges there is one bin; -inf as an edge that every number passes, less one
        passed = g.cast(g.op("GreaterOrEqual", column, g.constant(np.append(inner, -np.inf)[None, :])), "double")
        place = g.op("Sub", g.reduce("ReduceSum", passed), g.constant(1.0))
        if step.encode == "ordinal":
            made.append(Table.of(place, 1))
        else:
            count = len(inner) + 1
            lit = g.op("Equal", place, g.constant(np.arange(count, dtype=np.float64)[None, :]))
            made.append(Table.of(g.cast(lit, "double"), count))
    return Table.joined(made)


@transform.register(QuantileTransformer)
def _(step: Any, g: Builder, table: Table) -> Table:
    normal = step.output_distribution == "normal"
    x = table.numbers(g, step)
    made = []
    for n, points in enumerate(step.quantiles_.T):
        column = g.gather(x, [n])
        up = interpolated(g, column, points, step.references_)
        # where points repeat, one direction takes the upper end and the other the lower one
        down = interpolated(g, g.op("Neg", column), -points[::-1], -step.references_[::-1])
        middle = g.op("Mul", g.op("Sub", up, down), g.constant(0.5))
        if normal:
            # the ends are taken a little inwards; in a frame of float32 that may be no step at all
            high, low = (g.op("Add", column, g.constant(slack)) for slack in (BOUNDS_THRESHOLD, -BOUNDS_THRESHOLD))
            high, low = (g.rounded(high), g.rounded(low)) if table.single else (high, low)
            top, bottom = g.op("Greater", high, g.constant(points[-1])), g.op("Less", low, g.constant(points[0]))
        else:
            top, bottom = (g.op("Equal", column, g.constant(points[end])) for end in (-1, 0))
        middle = g.op("Where", bottom, g.constant(0.0), g.op("Where", top, g.constant(1.0), middle))
        # in a frame of float32 the share is kept in float32, which the tails of the normal distribution magnify
        middle = g.rounded(middle) if table.single else middle
        if normal:
            middle = normal_quantile(g, middle)
        made.append(Table.of(g.op("Where", g.op("IsNaN", column), column, middle), 1))
    return Table.joined(made)


@transform.register(SplineTransformer)
def _(step: Any, g: Builder, table: Table) -> Table:
    if step.extrapolation not in ("constant", "continue", "error"):
        raise refused(step, f"extrapolation='{step.extrapolation}' is not known here", "use extrapolation='constant'")
    x = table.numbers(g, step)
    made = []
    for n, spline in enumerate(step.bsplines_):
        column = g.gather(x, [n])
        knots, degree = spline.t, spline.k
        low, high = float(knots[degree]), float(knots[-degree - 1])
        if step.extrapolation != "continue":
            column = g.op("Min", g.op("Max", column, g.constant(low)), g.constant(high))
        basis = _basis(g, column, np.asarray(knots), degree)
        count = spline.c.shape[1] - (0 if step.include_bias else 1)
        made.append(Table.of(g.gather(basis, range(count)), count))
    return Table.joined(made)


def _basis(g: Builder, x: Value, knots: Any, degree: int) -> Value:
    """B-splines of a column by the recursion of Cox and de Boor; the end segments go on beyond the ends."""
    inner = np.arange(degree, len(knots) - degree - 1)
    lower, upper = knots[:-1].astype(np.float64).copy(), knots[1:].astype(np.float64).copy()
    lower[inner[0]], upper[inner[-1]] = -np.inf, np.inf
    active = np.zeros(len(lower), bool)
    active[inner] = True
    within = g.op(
        "And",
        g.op("GreaterOrEqual", x, g.constant(lower[None, :])),
        g.op("Less", x, g.constant(upper[None, :])),
    )
    value = g.cast(g.op("And", within, g.constant(active[None, :])), "double")
    for p in range(1, degree + 1):
        count = len(knots) - p - 1
        left, right = knots[p : p + count] - knots[:count], knots[p + 1 : p + 1 + count] - knots[1 : 1 + count]
        rising = np.divide(1.0, left, out=np.zeros(count), where=left != 0)
        falling = np.divide(1.0, right, out=np.zeros(count), where=right != 0)
        up = g.op("Mul", g.op("Sub", x, g.constant(knots[None, :count])), g.constant(rising[None, :]))
        down = g.op("Mul", g.op("Sub", g.constant(knots[None, p + 1 : p + 1 + count]), x), g.constant(falling[None, :]))
        value = g.op(
            "Add",
            g.op("Mul", up, g.gather(value, range(count))),
            g.op("Mul", down, g.gather(value, range(1, count + 1))),
        )
    return value


@regress.register(IsotonicRegression)
def _(step: Any, g: Builder, table: Table) -> Value:
    return isotonic(step, g, table.numbers(g, step))


def isotonic(step: Any, g: Builder, x: Value) -> Value:
    """The fitted steps of an isotonic regression of a column [N, 1]."""
    return interpolated(g, x, step.X_thresholds_, step.y_thresholds_)
