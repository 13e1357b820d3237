"""Missing values: null is NaN among numbers and the empty string among text."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.impute import MissingIndicator, SimpleImputer

from registry.export.builder import Builder, Value
from registry.export.steps import refused, transform
from registry.export.steps.encoding import absent
from registry.export.table import Field, Table


@transform.register(SimpleImputer)
def _(step: Any, g: Builder, table: Table) -> Table:
    x = table.strings(g, step) if table.texts else table.numbers(g, step)
    statistics = np.asarray(step.statistics_)
    empty = np.array([absent(value) for value in statistics.tolist()])
    kept = np.arange(len(statistics)) if step.keep_empty_features else np.flatnonzero(~empty)
    value, flags = x, missing(g, x, step, table)
    if len(kept) < len(statistics):
        value, flags = g.gather(x, kept), g.gather(flags, kept)
    known = statistics[kept]
    fill = np.array([str(v) for v in known], object) if table.texts else known.astype(np.float64)
    filled = g.op("Where", flags, g.constant(fill), value)
    made = Table.of(filled, len(kept), text=table.texts, single=table.single)
    if not step.add_indicator:
        return made
    return Table.joined([made, indicated(step.indicator_, g, x, table)])


@transform.register(MissingIndicator)
def _(step: Any, g: Builder, table: Table) -> Table:
    x = table.strings(g, step) if table.texts else table.numbers(g, step)
    return indicated(step, g, x, table)


def indicated(step: Any, g: Builder, x: Value, table: Table) -> Table:
    """1 where a value is missing, for the columns that the indicator follows."""
    positions = np.asarray(step.features_)
    return Table.of(g.cast(g.gather(missing(g, x, step, table), positions), "double"), len(positions))


def missing(g: Builder, x: Value, step: Any, table: Table) -> Value:
    """Where a value of `x`, the whole of `table`, counts as missing.

    Raises:
        ConversionRefused: numbers are marked as missing by something that is no number.
    """
    mark = step.missing_values
    unmarked = absent(mark)
    if table.texts:
        key = "" if unmarked else str(mark)
        found = g.op("LabelEncoder", x, domain="ai.onnx.ml", keys_strings=[key], values_int64s=[1], default_int64=0)
        meant = np.array([not unmarked or _is_mark(field, mark) for field in table.fields])
        flags = g.cast(found, "bool")
        return flags if meant.all() else g.op("And", flags, g.constant(meant[None, :]))
    if unmarked:
        return g.op("IsNaN", x)
    if not isinstance(mark, (int, float)):
        raise refused(step, "its missing value is not a number", "mark missing numbers by NaN")
    return g.op("Equal", x, g.constant(float(mark)))


def _is_mark(field: Field, mark: Any) -> bool:
    """Whether a null of this column is the one that is meant: scikit-learn tells None and NaN apart in text."""
    if field.column is None:
        return True
    return (field.column.frame_dtype == "object/None") == (mark is None)
