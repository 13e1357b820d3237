"""Metrics as functions of row weights, so that a thousand resamples are a few matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Statistic = Callable[[Weights], Floats]
"""Values [R] of a metric for weights [R, N]: how often each row is in each of R resamples."""

RESAMPLES: Final = 1_000
CELLS: Final = 2_000_000
"""Weights held at once."""
MAX_DRAWS: Final = 20_000_000
"""Beyond 20,000 rows there are fewer resamples, never under 200."""
LEVEL: Final = 0.95
ECE_BINS: Final = 10


def resamples(rows: int) -> int:
    """How many resamples are drawn of so many rows."""
    return max(200, min(RESAMPLES, MAX_DRAWS // max(rows, 1)))


def intervals(statistics: dict[str, Statistic], rows: int, *, seed: int = 0) -> dict[str, dict[str, float | None]]:
    """Value of each metric with the 95 % percentile interval of its bootstrap; None where it is not defined."""
    whole = np.ones((1, rows))  # float64: the value itself is exact, the interval need not be
    drawn: dict[str, list[Floats]] = {name: [] for name in statistics}
    for weights in _weights(rows, resamples(rows), seed):
        for name, statistic in statistics.items():
            drawn[name].append(statistic(weights))
    found: dict[str, dict[str, float | None]] = {}
    for name, statistic in statistics.items():
        value = float(statistic(whole)[0])
        low, high = percentiles(np.concatenate(drawn[name]))
        found[name] = {"value": value if np.isfinite(value) else None, "low": low, "high": high}
    return found


def percentiles(values: Floats) -> tuple[float | None, float | None]:
    """The interval; None when fewer than nine of ten resamples have a value."""
    finite = values[np.isfinite(values)]
    if len(finite) < 0.9 * len(values) or not len(finite):
        return None, None
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def drawn_rows(rows: int, count: int, *, seed: int = 0) -> Iterator[npt.NDArray[np.int64]]:
    """Positions of each resample, for metrics that are functions of rows."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield generator.integers(0, rows, rows)


def regression_statistics(truth: Floats, predicted: Floats) -> dict[str, Statistic]:
    """mae, rmse, median_ae, r2 and bias (prediction minus truth).

    >>> found = intervals(regression_statistics(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 3.0])), 3)
    >>> [round(found[name]["value"], 3) for name in ("mae", "rmse", "median_ae", "r2", "bias")]
    [0.667, 0.816, 1.0, 0.571, 0.0]
    """
    error = predicted - truth
    centred = truth - truth.mean()
    return {
        "mae": _mean(np.abs(error)),
        "rmse": lambda w: np.sqrt(_mean(error**2)(w)),
        "median_ae": _median(np.abs(error)),
        "r2": _r2(error, centred),
        "bias": _mean(error),
    }


def classification_statistics(
    index: npt.NDArray[np.int64], shares: Floats, chosen: npt.NDArray[np.int64], *, probabilities: bool
) -> dict[str, Statistic]:
    """log_loss, brier, ece and (of two classes) roc_auc of probabilities [N, K]; accuracy of `chosen` always."""
    right = (chosen == index).astype(np.float64)
    found: dict[str, Statistic] = {"accuracy": _mean(right)}
    if not probabilities:
        return found
    own = shares[np.arange(len(index)), index]
    truth = (index[:, None] == np.arange(shares.shape[1])).astype(np.float64)
    found["log_loss"] = _mean(-np.log(np.clip(own, 1e-7, 1.0)))
    found["brier"] = _mean(((shares - truth) ** 2).sum(axis=1) / 2.0)
    found["ece"] = _ece(shares.max(axis=1), (shares.argmax(axis=1) == index).astype(np.float64))
    if shares.shape[1] == 2:
        found["roc_auc"] = _auc(shares[:, 1], index == 1)
    return found


def _weights(rows: int, count: int, seed: int) -> Iterator[Weights]:
    generator = np.random.default_rng(seed)
    block = max(1, min(count, CELLS // rows))
    for start in range(0, count, block):
        size = min(block, count - start)
        cells = generator.integers(0, rows, (size, rows)) + (np.arange(size) * rows)[:, None]
        yield np.bincount(cells.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float32)


def _mean(values: Floats) -> Statistic:
    # centred, so that float32 sums lose nothing of a mean far from zero
    centre = float(values.mean())
    offset = values - centre
    return lambda w: centre + np.asarray(w @ offset.astype(w.dtype), np.float64) / w.shape[1]


def _r2(error: Floats, centred: Floats) -> Statistic:
    parts = np.stack([error**2, centred, centred**2], axis=1)
    scale = max(float(np.abs(parts).max()), 1e-300) if parts.size else 1.0
    matrix = parts / scale

    def statistic(w: Weights) -> Floats:
        squares, first, second = (np.asarray(w @ matrix.astype(w.dtype), np.float64) * scale / w.shape[1]).T
        spread = second - first**2
        return np.where(spread > 0.0, 1.0 - squares / np.where(spread > 0.0, spread, 1.0), np.nan)

    return statistic


def _median(values: Floats) -> Statistic:
    order = np.argsort(values, kind="stable")
    ranked = values[order]

    def statistic(w: Weights) -> Floats:
        below = np.cumsum(w[:, order], axis=1)
        rows = w.shape[1]
        low = (below < rows / 2).sum(axis=1)
        high = (below < rows / 2 + 0.5).sum(axis=1)
        return np.asarray((ranked[low] + ranked[np.minimum(high, rows - 1)]) / 2.0)

    return statistic


def _ece(confidence: Floats, right: Floats) -> Statistic:
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    matrix = ((confidence - right)[:, None] * (bins[:, None] == np.arange(ECE_BINS))).astype(np.float64)
    return lambda w: np.asarray(np.abs(w @ matrix.astype(w.dtype)).sum(axis=1), np.float64) / w.shape[1]


def _auc(score: Floats, positive: npt.NDArray[np.bool_]) -> Statistic:
    order = np.argsort(score, kind="stable")
    truth = positive[order].astype(np.float64)
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])

    def statistic(w: Weights) -> Floats:
        ordered: npt.NDArray[Any] = w[:, order]
        ups = np.add.reduceat(ordered * truth, starts, axis=1)
        downs = np.add.reduceat(ordered * (1 - truth), starts, axis=1)
        below = np.cumsum(downs, axis=1) - downs / 2.0
        pairs = ups.sum(axis=1) * downs.sum(axis=1)
        return np.where(pairs > 0, (ups * below).sum(axis=1) / np.where(pairs > 0, pairs, 1.0), np.nan)

    return statistic
