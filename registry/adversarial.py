"""Rows made to find a difference: at tree thresholds ± 1 ulp of float32, nulls, unseen categories, extremes."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from registry.contract import Contract
from registry.original import known, predict_original
from registry.parts import parts

Array = npt.NDArray[Any]
UNSEEN = "~never seen in training~"
MOST_THRESHOLD_ROWS = 2_000


def adversarial_rows(estimator: Any, contract: Contract, frame: pd.DataFrame) -> pd.DataFrame:
    """Rows with the columns and dtypes of `frame`, each made from one of its rows, that the estimator answers.

    What it refuses (a category that it never saw, say) has no answer that could be compared.
    """
    base = frame.iloc[[0]]
    made: list[pd.DataFrame] = []
    for column in contract.columns:
        values: list[Any] = []
        if column.nullable:
            values.append(None if column.frame_dtype == "object/None" else np.nan)
        if column.dtype == "string":
            # a categorical column cannot hold an unseen one
            values += [] if isinstance(frame[column.name].dtype, pd.CategoricalDtype) else [UNSEEN]
        elif column.dtype == "float" and column.minimum is not None and column.maximum is not None:
            points = np.asarray([column.minimum, column.maximum, *_quantiles(frame[column.name])], contract.precision)
            values += [float(v) for edge in points for v in _neighbours(edge)]
        rows = base.iloc[[0] * len(values)].reset_index(drop=True)
        if len(rows):
            rows[column.name] = pd.Series(values, index=rows.index, dtype=frame[column.name].dtype)
            made.append(rows.astype(frame.dtypes.to_dict()))
    moved = _threshold_rows(estimator, contract, frame).astype(frame.dtypes.to_dict())
    whole = pd.concat([*made, moved], ignore_index=True).astype(frame.dtypes.to_dict())
    if _answers(estimator, contract, whole):
        return whole
    kept = [*(_answered(estimator, contract, rows, 1) for rows in made), _answered(estimator, contract, moved, 32)]
    return pd.concat(kept, ignore_index=True).astype(frame.dtypes.to_dict())


def _answered(estimator: Any, contract: Contract, rows: pd.DataFrame, smallest: int) -> pd.DataFrame:
    """The rows that the estimator answers; of those it refuses, `smallest` go together."""
    if _answers(estimator, contract, rows):
        return rows
    if len(rows) <= smallest:
        return rows.iloc[:0]
    half = len(rows) // 2
    return pd.concat([_answered(estimator, contract, part, smallest) for part in (rows[:half], rows[half:])])


def _answers(estimator: Any, contract: Contract, rows: pd.DataFrame) -> bool:
    if len(rows) == 0:
        return True
    try:
        predict_original(estimator, contract, rows)
    except (ValueError, TypeError, AttributeError, IndexError, KeyError):
        return False
    return True


@singledispatch
def thresholds(part: Any) -> list[Array]:
    """Thresholds of the trees of one estimator, float64; other kinds of trees are registered here."""
    if hasattr(part, "_predictors"):
        return [p.nodes["num_threshold"] for group in part._predictors for p in group]
    if hasattr(part, "tree_"):
        return [part.tree_.threshold[part.tree_.children_left != -1]]
    return []


def _neighbours(point: Any) -> list[Any]:
    """The value and the next ones below and above it, in its own precision: that is what is served."""
    kind = type(point)
    return [np.nextafter(point, kind(-np.inf)), np.nextafter(point, kind(np.inf)), point]


def _threshold_rows(estimator: Any, contract: Contract, frame: pd.DataFrame) -> pd.DataFrame:
    """Real rows with some numbers moved onto thresholds of trees, or to their neighbours."""
    members = list(parts(estimator)) or [estimator]
    found = [values for part in members for values in thresholds(known(part))]
    floats = [c for c in contract.columns if c.dtype == "float" and c.minimum is not None]
    if not found or not floats:
        return frame.iloc[:0]
    generator = np.random.default_rng(0)
    values = np.unique(np.concatenate(found).astype(contract.precision))
    values = generator.permutation(values[np.isfinite(values)])[: MOST_THRESHOLD_ROWS // 3]
    points = np.asarray([v for value in values for v in _neighbours(value)], np.float64)
    rows = frame.iloc[generator.integers(0, len(frame), len(points))].reset_index(drop=True)
    for column in floats:
        low, high = float(column.minimum or 0.0), float(column.maximum or 0.0)
        inside = (points >= low) & (points <= high) & (generator.random(len(points)) < 0.5)
        moved = rows[column.name].to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
        moved[inside] = points[inside]
        rows[column.name] = pd.Series(moved, index=rows.index).astype(frame[column.name].dtype)
    return rows


def _quantiles(values: pd.Series[Any]) -> Array:
    return np.asarray(np.quantile(values.dropna().to_numpy(dtype=np.float64), [0.1, 0.5, 0.9]))
