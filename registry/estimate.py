"""What a version's answers tell of its own quality, learnt on the reference's labelled rows: kept in `reference.json`.

Classification: a calibration curve (isotonic) of the probability, in fine bins, from which accuracy, F1, AUC and the
loss of unlabelled rows follow. Regression: the loss as a sum of what each column's bin and the prediction's bin add.
Both are estimated from counts alone, so that the state of monitoring stays counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from registry.contract import Output
from registry.reference import ABOVE, BELOW, FIRST_NUMBER, bins_of

__all__ = ["FINE", "MIN_ROWS", "SCORE", "build_estimate", "confidence", "isotonic"]

Floats = npt.NDArray[np.float64]
MIN_ROWS: Final = 1000
"""Labelled rows below which nothing is learnt: the curve would be noise."""
FINE: Final = 100
"""Bins of the calibration curve."""
SCORE: Final = "_score"
MOST_COLUMNS: Final = 40
RIDGE: Final = 5.0
"""Rows by which every bin's share of the loss is drawn to nothing."""


def build_estimate(
    output: Output, reference: Mapping[str, Any], frame: Any, predicted: Floats, index: Any, losses: Floats
) -> dict[str, Any] | None:
    """The `estimate` of a reference, None where there are too few labelled rows or nothing to learn from.

    Args:
        reference: the specs of columns and score, made from the same rows.
        frame: the rows, a frame or a mapping of arrays.
        predicted: predictions [N, 1], or probabilities [N, K].
        index: position of the true class of each row; of a regression anything.
        losses: bounded loss of each row, NaN where it is not known.
    """
    usable = np.isfinite(losses)
    if int(usable.sum()) < MIN_ROWS or output.scores:
        return None
    if output.kind == "regression":
        return _additive(reference, frame, predicted[:, 0], losses, usable)
    score, truth = confidence(predicted), np.asarray(index)
    positive = truth == (1 if predicted.shape[1] == 2 else np.argmax(predicted, axis=1))
    return _calibration(score[usable], positive[usable].astype(np.float64), losses[usable], two=predicted.shape[1] == 2)


def confidence(predicted: Floats) -> Floats:
    """Of two classes the probability of the second, of more that of the most probable one."""
    values = np.asarray(predicted, np.float64)
    return values[:, 1] if values.shape[1] == 2 else values.max(axis=1)


def isotonic(means: Floats, weights: Floats) -> Floats:
    """The nearest sequence that never falls, by weighted squares (pool adjacent violators).

    >>> isotonic(np.array([0.1, 0.4, 0.2, 0.6]), np.ones(4)).round(2).tolist()
    [0.1, 0.3, 0.3, 0.6]
    """
    blocks: list[list[float]] = []
    for mean, weight in zip(means.tolist(), weights.tolist(), strict=True):
        blocks.append([mean, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            last, before = blocks.pop(), blocks.pop()
            total = last[1] + before[1]
            blocks.append([(last[0] * last[1] + before[0] * before[1]) / total, total, last[2] + before[2]])
    return np.concatenate([np.full(int(size), mean) for mean, _, size in blocks])


def _calibration(score: Floats, positive: Floats, losses: Floats, *, two: bool) -> dict[str, Any]:
    edges = np.unique(np.quantile(score, np.arange(1, FINE) / FINE, method="inverted_cdf"))
    if two:
        edges = np.union1d(edges, [0.5])  # the class changes here
    bins = np.searchsorted(edges, score, side="right")
    rows = np.bincount(bins, minlength=len(edges) + 1).astype(np.float64)

    def mean(values: Floats) -> Floats:
        return np.bincount(bins, values, minlength=len(rows)) / np.maximum(rows, 1.0)

    held = rows > 0
    p = np.interp(np.arange(len(rows)), np.flatnonzero(held), isotonic(mean(positive)[held], rows[held]))
    first, second = mean(score), mean(score**2)
    loss = second - 2 * first * p + p if two else mean(losses)
    loss = np.interp(np.arange(len(rows)), np.flatnonzero(held), loss[held])
    return {
        "kind": "calibration",
        "two": two,
        "edges": edges.tolist(),
        "rows": rows.astype(int).tolist(),
        "p": p.tolist(),
        "loss": loss.tolist(),
        "sd": float(losses.std(ddof=1)),
    }


def _additive(
    reference: Mapping[str, Any], frame: Any, score: Floats, losses: Floats, usable: npt.NDArray[np.bool_]
) -> dict[str, Any] | None:
    specs = {**reference["columns"], SCORE: reference["score"]}
    y = losses[usable]
    base = float(y.mean())
    found = {}
    for name, spec in specs.items():
        bins = _inside(spec, bins_of(spec, score if name == SCORE else _column(frame, name))[usable])
        width = len(spec["counts"])
        rows = np.bincount(bins, minlength=width)
        gain = float((np.bincount(bins, y - base, minlength=width) ** 2 / (rows + RIDGE)).sum())
        found[name] = (gain, bins, width)
    names = sorted(found, key=lambda name: (-found[name][0], name))[:MOST_COLUMNS]
    starts = np.cumsum([0, *(found[name][2] for name in names)])
    gram, right = np.zeros((starts[-1], starts[-1])), np.zeros(starts[-1])
    for i, name in enumerate(names):
        for j in range(i, len(names)):
            wide = found[names[j]][2]
            both = np.bincount(found[name][1] * wide + found[names[j]][1], minlength=found[name][2] * wide)
            block = both.reshape(found[name][2], wide)
            gram[starts[i] : starts[i + 1], starts[j] : starts[j + 1]] = block
            gram[starts[j] : starts[j + 1], starts[i] : starts[i + 1]] = block.T
        right[starts[i] : starts[i + 1]] = np.bincount(found[name][1], y - base, minlength=found[name][2])
    weights = np.asarray(np.linalg.solve(gram + RIDGE * np.eye(len(gram)), right), np.float64)
    parts = {name: weights[starts[i] : starts[i + 1]] for i, name in enumerate(names)}
    rest = y - base - sum(parts[name][found[name][1]] for name in names)
    doubts = {name: _doubt(specs[name], parts[name], found[name][1], rest) for name in names}
    return {
        "kind": "additive",
        "base": base + float(rest.mean()),
        "columns": {name: _ends(specs[name], part).tolist() for name, part in parts.items()},
        "doubts": doubts,
        "rows": len(y),
        "sd": float(y.std(ddof=1)),
    }


def _inside(spec: Mapping[str, Any], bins: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Bins with those beyond the ends joined to the outermost: the reference holds hardly a row out there."""
    if not _numbers(spec):
        return bins
    last = len(spec["counts"]) - 1
    return np.where(bins == BELOW, FIRST_NUMBER, np.where(bins == ABOVE, last, bins))


def _ends(spec: Mapping[str, Any], values: Floats) -> Floats:
    """Values by cell, with those of the outermost bins beyond them too."""
    if not _numbers(spec):
        return values
    found = values.copy()
    found[BELOW], found[ABOVE] = values[FIRST_NUMBER], values[-1]
    return found


def _numbers(spec: Mapping[str, Any]) -> bool:
    return bool(spec["kind"] == "number" and len(spec["counts"]) > FIRST_NUMBER + 1)


def _doubt(spec: Mapping[str, Any], part: Floats, bins: npt.NDArray[Any], rest: Floats) -> dict[str, list[float]]:
    """How little is known of each cell's part: `variance` of it, `share` of rows that it was learnt at, and `step`.

    The variance is of three: noise of the cell's rows; what the ridge took from it, as its rows' mean residual shows;
    and of a cell that was rarely seen, that it may differ as much as the column's cells do. A step is by how much an
    outermost bin differs from the next: more rows out there lie further out too, which counts cannot tell.
    """
    width = len(part)
    rows = np.bincount(bins, minlength=width).astype(np.float64)
    held = np.maximum(rows, 1.0)
    left = np.bincount(bins, rest, minlength=width) / held
    noise = (np.bincount(bins, rest**2, minlength=width) + RIDGE * float((rest**2).mean())) / (rows + RIDGE)
    share = rows / rows.sum()
    apart = float(share @ part**2)
    variance = noise / (rows + RIDGE) + left**2 + (RIDGE / (rows + RIDGE)) ** 2 * apart
    step = np.zeros(width)
    if _numbers(spec):
        step[[FIRST_NUMBER, -1]] = abs(part[FIRST_NUMBER] - part[FIRST_NUMBER + 1]), abs(part[-1] - part[-2])
    told = {"variance": _ends(spec, variance), "share": share, "step": _ends(spec, step)}
    return {key: [float(f"{value:.4g}") for value in values] for key, values in told.items()}


def _column(frame: Any, name: str) -> npt.NDArray[Any]:
    from registry.reference import numbers, texts

    values = np.asarray(frame[name], dtype=object)
    strings = any(isinstance(value, str) for value in values[:1000])
    return texts(frame[name]) if strings else numbers(frame[name])
