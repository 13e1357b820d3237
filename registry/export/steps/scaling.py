"""Scalers, powers and polynomials: numbers to numbers, column by column."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.preprocessing import (
    Binarizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)

from registry.export.builder import Builder, Value
from registry.export.steps import transform
from registry.export.table import Table


class Columnwise:
    """Arithmetic on a table as numpy does it in place: after each operation float32 stays float32."""

    def __init__(self, g: Builder, table: Table, step: Any) -> None:
        self._g, self.single, self.width = g, table.single, len(table.fields)
        self.value = table.numbers(g, step)

    def apply(self, kind: str, by: Any) -> None:
        """`Add`, `Sub`, `Mul` or `Div` by one number a column; None leaves everything as it is."""
        if by is None:
            return
        self.value = self._g.op(kind, self.value, self._g.constant(np.asarray(by, np.float64)))
        if self.single:
            self.value = self._g.rounded(self.value)

    def clip(self, low: float, high: float) -> None:
        """Keep within bounds; NaN stays NaN."""
        g = self._g
        x = g.op("Where", g.op("Less", self.value, g.constant(low)), g.constant(low), self.value)
        self.value = g.op("Where", g.op("Greater", x, g.constant(high)), g.constant(high), x)

    @property
    def table(self) -> Table:
        """What became of the columns."""
        return Table.of(self.value, self.width, single=self.single)


@transform.register(StandardScaler)
def _(step: Any, g: Builder, table: Table) -> Table:
    x = Columnwise(g, table, step)
    kind = np.float32 if x.single else np.float64  # what scikit-learn casts mean and scale to
    x.apply("Sub", step.mean_.astype(kind) if step.with_mean else None)
    x.apply("Div", step.scale_.astype(kind) if step.with_std else None)
    return x.table


@transform.register(MinMaxScaler)
def _(step: Any, g: Builder, table: Table) -> Table:
    x = Columnwise(g, table, step)
    x.apply("Mul", step.scale_)
    x.apply("Add", step.min_)
    if step.clip:
        x.clip(float(step.feature_range[0]), float(step.feature_range[1]))
    return x.table


@transform.register(MaxAbsScaler)
def _(step: Any, g: Builder, table: Table) -> Table:
    x = Columnwise(g, table, step)
    x.apply("Div", step.scale_)
    if getattr(step, "clip", False):
        x.clip(-1.0, 1.0)
    return x.table


@transform.register(RobustScaler)
def _(step: Any, g: Builder, table: Table) -> Table:
    x = Columnwise(g, table, step)
    x.apply("Sub", step.center_ if step.with_centering else None)
    x.apply("Div", step.scale_ if step.with_scaling else None)
    return x.table


@transform.register(Normalizer)
def _(step: Any, g: Builder, table: Table) -> Table:
    x = table.numbers(g, step)
    return Table.of(normalised(g, x, step.norm), len(table.fields))


def normalised(g: Builder, x: Value, norm: str) -> Value:
    """Rows divided by their norm; rows of zeros stay."""
    if norm == "l2":
        length = g.op("Sqrt", g.reduce("ReduceSum", g.op("Mul", x, x)))
    else:
        length = g.reduce("ReduceSum" if norm == "l1" else "ReduceMax", g.op("Abs", x))
    none = g.op("Equal", length, g.constant(0.0))
    return g.op("Div", x, g.op("Where", none, g.constant(1.0), length))


@transform.register(Binarizer)
def _(step: Any, g: Builder, table: Table) -> Table:
    above = g.op("Greater", table.numbers(g, step), g.constant(float(step.threshold)))
    return Table.of(g.cast(above, "double"), len(table.fields))


@transform.register(PolynomialFeatures)
def _(step: Any, g: Builder, table: Table) -> Table:
    x = table.numbers(g, step)
    width = len(table.fields)
    powers = step.powers_
    # each output is a product of as many columns as its degree; the column after the last holds ones
    padded = g.op("Pad", x, g.constant(np.array([0, 0, 0, 1])), g.constant(1.0))
    factors = np.full((len(powers), max(1, int(powers.sum(axis=1).max()))), width)
    for row, exponents in zip(factors, powers, strict=True):
        columns = np.repeat(np.arange(width), exponents)
        row[: len(columns)] = columns
    made = g.gather(padded, factors[:, 0])
    for n in range(1, factors.shape[1]):
        made = g.op("Mul", made, g.gather(padded, factors[:, n]))
    return Table.of(made, len(powers))


@transform.register(PowerTransformer)
def _(step: Any, g: Builder, table: Table) -> Table:
    x = table.numbers(g, step)
    powers = step.lambdas_
    if step.method == "box-cox":
        made = _power(g, x, powers)
    else:
        below = g.op("Less", x, g.constant(0.0))
        # both branches see only numbers of their side, so that none of them overflows for the other
        above = _power(g, g.op("Add", g.op("Where", below, g.constant(0.0), x), g.constant(1.0)), powers)
        mirrored = g.op("Sub", g.constant(1.0), g.op("Where", below, x, g.constant(0.0)))
        made = g.op("Where", below, g.op("Neg", _power(g, mirrored, 2.0 - powers)), above)
    if not step.standardize:
        return Table.of(made, len(powers))
    return transform(step._scaler, g, Table.of(made, len(powers)))


def _power(g: Builder, x: Value, powers: Any) -> Value:
    """(x ** power - 1) / power for each column, and log(x) where the power is zero."""
    zero = np.abs(powers) < np.spacing(1.0)
    safe = np.where(zero, 1.0, powers)
    general = g.op("Div", g.op("Sub", g.op("Pow", x, g.constant(safe)), g.constant(1.0)), g.constant(safe))
    if not zero.any():
        return general
    return g.op("Where", g.constant(zero), g.op("Log", x), general)
