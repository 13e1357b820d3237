"""Event-lake tables (pyarrow) as the numpy arrays that monitoring counts."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from registry.contract import Output
from registry.reference import score_values

Floats = npt.NDArray[np.float64]
Objects = npt.NDArray[Any]


def served(predictions: pa.Table) -> pa.Table:
    """Served rows only, in event order: time, then sequence, then id (no two rows share all three)."""
    if not predictions.num_rows:
        return predictions
    arms = objects(predictions, "_arm")
    if (arms == "shadow").any():
        predictions = predictions.filter(pa.array(arms != "shadow"))
    return predictions.sort_by([("_at", "ascending"), ("_seq", "ascending"), ("_id", "ascending")])


def of_others(predictions: pa.Table, version: int) -> npt.NDArray[np.bool_]:
    """Rows that neither this champion answered nor the candidate beside it: a former one's, or of a pinned version.

    Their contract may be another one, in which a column is missing or means something else.
    """
    other = floats(predictions, "_version") != version
    return np.asarray(other & (objects(predictions, "_arm") != "candidate"), bool)


def seconds(table: pa.Table, name: str) -> Floats:
    """A timestamp column as unix seconds."""
    column = table.column(name)
    if pa.types.is_timestamp(column.type):
        return np.asarray(column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64()).to_numpy() / 1e6)
    return floats(table, name)


def arrivals(table: pa.Table) -> Floats:
    """When each row was received, as unix seconds; a table that does not say was received at event time."""
    return seconds(table, "_received" if "_received" in table.column_names else "_at")


def floats(table: pa.Table, name: str) -> Floats:
    """A numeric or bool column, null as NaN; a column the table does not have is all null."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    column = table.column(name)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        # rows of two contracts in one table: the column was, or becomes, text
        return np.array([text_number(text) for text in column.to_pylist()], np.float64)
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)


def text_number(text: str | None) -> float:
    """The number that was written as text where it met texts; NaN of what is none."""
    if text is None or text in ("true", "false"):
        return math.nan if text is None else float(text == "true")
    try:
        return float(text)
    except ValueError:
        return math.nan


def objects(table: pa.Table, name: str) -> Objects:
    """A column as Python values, null as None; a column the table does not have is all null."""
    values = np.full(table.num_rows, None, dtype=object)
    if name in table.column_names:
        values[:] = table.column(name).to_pylist()
    return values


def feature(table: pa.Table, name: str, kind: Literal["number", "category"]) -> npt.NDArray[Any]:
    """An input column, in the form `registry.reference.bin_counts` takes."""
    return floats(table, name) if kind == "number" else objects(table, name)


def outputs(table: pa.Table, output: Output) -> Floats:
    """Predictions [N, 1] of a regression, probabilities [N, K] of a classification; what is missing is NaN."""
    if output.kind == "regression":
        return floats(table, "_prediction")[:, None]
    k = len(output.classes)
    lists = objects(table, "_probabilities")
    missing = [float("nan")] * k
    rows = [row if row is not None and len(row) == k else missing for row in lists]
    return np.array(rows, np.float64).reshape(len(rows), k)


def scores(output: Output, values: Floats, kind: Literal["number", "category"]) -> npt.NDArray[Any]:
    """The watched value of each row of `outputs`, in the kind its reference has, null where it is missing."""
    if kind == "number":
        return values[:, -1]  # the prediction, or the last class's probability
    found = score_values(output, values)
    if found.dtype == object:
        found[np.isnan(values).any(axis=1)] = None
    return found
