"""How good a version is on the rows it was accepted on: metrics with intervals, overall and by slice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from registry.bootstrap import (
    LEVEL,
    classification_statistics,
    drawn_rows,
    intervals,
    percentiles,
    regression_statistics,
    resamples,
)
from registry.contract import Column, Contract
from registry.errors import ContractViolation
from registry.facts import Metric
from registry.loss import class_index
from registry.original import Answers
from registry.reference import bin_edges, numbers, texts

MIN_ROWS: Final = 100
"""A slice of fewer rows is shown, but marked as insufficient."""
TOP: Final = 20
FUNCTION_RESAMPLES: Final = 200
"""Of metrics that are functions of rows, each of which is a call."""
_METRIC: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,60}\Z")
Mask = npt.NDArray[np.bool_]


def build_baseline(
    contract: Contract,
    served: Answers,
    labels: npt.NDArray[Any] | None,
    frame: Any,
    *,
    slices: Sequence[str] = (),
    metrics: Mapping[str, float | Metric] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The `baseline` of the reference: `metrics` by name, each with value, low and high, and `slices`.

    Args:
        served: answers to the rows of `frame`.
        labels: as `registry.truth.checked_labels` returns them; without them only given values are kept.
        slices: columns; each value of a category (the 20 most frequent), each reference bin of a number.
        metrics: values, or functions of (labels, predictions); predictions of a classification are class values.

    Raises:
        ContractViolation: a slice is no stored column, a metric has no usable name, fails or gives no number.
    """
    given = dict(metrics or {})
    _check(contract, slices, given)
    found: dict[str, Any] = {
        "level": LEVEL,
        "seed": seed,
        "rows": len(served.values),
        "resamples": resamples(len(served.values)),
        "metrics": {},
        "slices": [],
    }
    if labels is not None:
        measure = _measures(contract, served, labels, given, seed)
        found["metrics"] = measure(np.ones(len(served.values), bool))
        for name in slices:
            column = next(c for c in contract.columns if c.name == name)
            for value, mask in parts(column, frame[name]):
                rows = int(mask.sum())
                found["slices"].append(
                    {
                        "column": name,
                        "value": value,
                        "rows": rows,
                        "sufficient": rows >= MIN_ROWS,
                        "metrics": measure(mask),
                    }
                )
    plain = {name: float(value) for name, value in given.items() if not callable(value)}
    found["metrics"] |= {name: {"value": value, "low": None, "high": None} for name, value in plain.items()}
    return found


def _check(contract: Contract, slices: Sequence[str], given: Mapping[str, float | Metric]) -> None:
    stored = {c.name for c in contract.columns if c.policy == "store"}
    for name in slices:
        if name not in stored:
            raise ContractViolation(
                f"slice '{name}' is no column of X whose values may be stored",
                where="slices",
                expected=", ".join(sorted(stored)[:10]),
                hint="name columns of X with the policy 'store'",
            )
    for name, value in given.items():
        if not _METRIC.match(name) or (not callable(value) and not _finite(value)):
            raise ContractViolation(
                "a metric needs a name and a finite value",
                where=f"metrics['{name[:60]}']",
                expected="letters, digits, _ . - in its name; a number or f(y, prediction)",
            )


def _measures(
    contract: Contract, served: Answers, labels: npt.NDArray[Any], given: Mapping[str, float | Metric], seed: int
) -> Callable[[Mask], dict[str, dict[str, float | None]]]:
    functions = {name: value for name, value in given.items() if callable(value)}
    if contract.output.kind == "regression":
        truth = labels[:, 0] if labels.ndim == 2 else labels
        answer = served.values[:, 0]
    else:
        index = class_index(contract.output, labels)
        classes = np.asarray(contract.output.classes)
        chosen = np.asarray(served.labels)
        truth, answer = classes[index], classes[chosen]

    def measure(mask: Mask) -> dict[str, dict[str, float | None]]:
        rows = int(mask.sum())
        if contract.output.kind == "regression":
            statistics = regression_statistics(truth[mask], answer[mask])
        else:
            probabilities = not contract.output.scores
            statistics = classification_statistics(
                index[mask], served.values[mask], chosen[mask], probabilities=probabilities
            )
        own = {name: _of_function(name, f, truth[mask], answer[mask], seed) for name, f in functions.items()}
        return intervals(statistics, rows, seed=seed) | own

    return measure


def _of_function(name: str, metric: Metric, truth: Any, answer: Any, seed: int) -> dict[str, float | None]:
    try:
        value = metric(truth, answer)
        drawn = [metric(truth[rows], answer[rows]) for rows in drawn_rows(len(truth), FUNCTION_RESAMPLES, seed=seed)]
        low, high = percentiles(np.asarray(drawn, np.float64))
        finite = _finite(value)
    # it is the caller's function: whatever it raises becomes an answer to the caller
    except Exception as error:
        raise ContractViolation(
            f"metric '{name}' fails on y and the predictions",
            where=f"metrics['{name}']",
            expected="f(y, prediction) -> float",
            got=type(error).__name__,
        ) from error
    return {"value": float(value) if finite else None, "low": low, "high": high}


def _finite(value: Any) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except (TypeError, ValueError):
        return False


def parts(column: Column, values: Any) -> Iterator[tuple[str, Mask]]:
    """Name and rows of each slice of one column that has rows."""
    if column.dtype == "string":
        data = texts(values)
        missing: Mask = np.array([value is None for value in data.tolist()], bool)
        levels, counts = np.unique(data[~missing].astype(str), return_counts=True)
        for position in np.lexsort((levels, -counts))[:TOP]:
            yield str(levels[position]), data == levels[position]
    else:
        data = numbers(values)
        missing = np.isnan(data)
        yield from _ranges(column, data)
    if missing.any():
        yield "null", missing


def _ranges(column: Column, data: npt.NDArray[np.float64]) -> Iterator[tuple[str, Mask]]:
    finite = np.isfinite(data)
    edges = np.asarray(bin_edges(np.sort(data[finite])))
    bins = np.searchsorted(edges, data, side="right")
    for position in range(len(edges) + 1):
        mask = finite & (bins == position)
        if not mask.any():
            continue
        low, high = float(data[mask].min()), float(data[mask].max())
        if column.dtype == "bool":
            yield str(bool(low)).lower(), mask
        else:
            yield f"{low:g}" if low == high else f"{low:g} to {high:g}", mask
