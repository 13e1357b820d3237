"""A column that tells the label: nearly always something that is known only after the fact."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from registry.contract import Output
from registry.errors import ContractViolation
from registry.loss import class_index

MAX_ROWS: Final = 10_000
MIN_ROWS: Final = 50
"""Fewer rows, or fewer of a class, are told apart by some column by chance."""
MIN_CLASS: Final = 20
REPEATS: Final = 10
"""Rows per distinct value from which "one label for each value" says something."""
CORRELATION: Final = 0.9999


def check_leakage(frame: pd.DataFrame, labels: npt.NDArray[Any] | None, output: Output, allowed: Sequence[str]) -> None:
    """Refuse rows in which a single column gives the label away.

    Args:
        labels: as `registry.truth.checked_labels` returns them; the first of several targets is looked at.
        allowed: columns for which this is known and right.

    Raises:
        ContractViolation: naming the columns.
    """
    if labels is None or len(labels) < MIN_ROWS:
        return
    kept = np.linspace(0, len(labels) - 1, min(MAX_ROWS, len(labels))).astype(int)
    rows = frame.iloc[kept]
    if output.kind == "regression":
        truth = (labels[:, 0] if labels.ndim == 2 else labels)[kept].astype(np.float64)
        if len(np.unique(truth)) < 2:
            return
    else:
        truth = class_index(output, labels)[kept].astype(np.float64)
        counts = np.sort(np.unique(truth, return_counts=True)[1])
        if len(counts) < 2 or counts[-2] < MIN_CLASS:
            return
    classes = output.kind == "classification"
    found = [str(name) for name in frame.columns if name not in allowed and _tells(rows[name], truth, classes=classes)]
    if found:
        quoted = ", ".join(f"'{name}'" for name in found[:5])
        raise ContractViolation(
            f"column {quoted} tells the label: it leaks the target",
            where=found[0],
            expected="columns that are known before the label is",
            hint=f"drop it and fit again; if it is known at prediction time, pass Facts(leakage_ok=[{quoted}])",
        )


def _tells(column: pd.Series[Any], truth: npt.NDArray[np.float64], *, classes: bool) -> bool:
    present = column.notna().to_numpy()
    if present.sum() < max(MIN_ROWS, 0.9 * len(truth)):
        return False
    values, known = column[present], truth[present]
    if len(np.unique(known)) < 2:
        return False
    codes, distinct = pd.factorize(values)
    if len(distinct) < 2:
        return False
    if len(known) >= REPEATS * len(distinct) and _constant_within(codes, len(distinct), known):
        return True
    if not pd.api.types.is_numeric_dtype(values):
        return False
    numbers = values.to_numpy(dtype=np.float64)
    if classes:
        return _separates(numbers, known)
    correlation = np.corrcoef(np.stack([rankdata(numbers), rankdata(known)]))[0, 1]
    return bool(abs(correlation) > CORRELATION)


def _constant_within(codes: npt.NDArray[Any], count: int, known: npt.NDArray[np.float64]) -> bool:
    """Whether each value of the column goes with one label only."""
    first = np.full(count, np.nan)
    first[codes[::-1]] = known[::-1]
    return bool((known == first[codes]).all())


def _separates(numbers: npt.NDArray[np.float64], known: npt.NDArray[np.float64]) -> bool:
    """Whether each class has a range of the numbers of its own."""
    ranges = sorted((numbers[known == k].min(), numbers[known == k].max()) for k in np.unique(known))
    return all(before[1] < after[0] for before, after in pairwise(ranges))
