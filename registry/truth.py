"""The labels given with real rows, checked against what the estimator answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from registry.contract import Output
from registry.errors import ContractViolation
from registry.loss import class_index


def checked_labels(output: Output, y: Any, rows: int, *, of: str = "y") -> npt.NDArray[Any] | None:
    """Numbers [N] or [N, T], or labels [N] of `output`; None when there are none.

    Args:
        rows: how many rows the labels belong to.
        of: what the caller calls them.

    Raises:
        ContractViolation: another number of labels, nulls, numbers that are not finite, unknown classes.
    """
    if y is None:
        return None
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.ravel()
    wanted = (rows, len(output.targets)) if output.targets else (rows,)
    if labels.shape[:1] != (rows,):
        raise ContractViolation(
            f"X and {of} have different lengths",
            where=of,
            expected=f"{rows} labels",
            got=f"{len(np.atleast_1d(labels))}",
        )
    if labels.shape != wanted:
        raise ContractViolation(
            f"{of} has another shape than the estimator's answers",
            where=of,
            expected=str(list(wanted)),
            got=str(list(labels.shape)),
        )
    return _numbers(labels, of) if output.kind == "regression" else _classes(output, labels, of)


def _numbers(labels: npt.NDArray[Any], of: str) -> npt.NDArray[Any]:
    try:
        numbers = np.where(pd.isna(labels), np.nan, labels).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ContractViolation(
            f"{of} holds something else than numbers, but the estimator is a regressor",
            where=of,
            hint="convert the labels to numbers, or log a classifier",
        ) from error
    bad = int((~np.isfinite(numbers)).sum())
    if bad:
        raise ContractViolation(
            f"{of} holds {bad} values that are not finite numbers (null or infinite)", where=of, hint="drop those rows"
        )
    return numbers


def _classes(output: Output, labels: npt.NDArray[Any], of: str) -> npt.NDArray[Any]:
    nulls = int(np.asarray(pd.isna(labels)).sum())
    if nulls:
        raise ContractViolation(f"{of} holds {nulls} nulls", where=of, hint="drop the rows whose label is unknown")
    if labels.dtype == bool and output.classes == (0, 1) and not isinstance(output.classes[0], bool):
        labels = labels.astype(np.int64)  # libraries that number the classes themselves keep no booleans
    unknown = int((class_index(output, labels) < 0).sum())
    if unknown:
        raise ContractViolation(
            f"{of} holds {unknown} labels that the estimator does not know",
            where=of,
            expected=f"its {len(output.classes)} classes",
            hint="fit on rows of every class, or drop the rows of the others",
        )
    return labels
