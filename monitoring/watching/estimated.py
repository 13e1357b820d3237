"""Quality without labels: what the version's answers, and the rows' places, say of the loss that labels would show.

Always called *estimated*: it holds as long as the relation of answers to truth is that of the reference, which is what
concept drift breaks. So it warns, and never proves; only labels do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitoring.drift.verdict import Flags
from monitoring.drift.windows import Window

__all__ = ["FINE", "Estimate", "counted", "estimate", "flags"]

FINE: Final = "_fine"
"""Key of the fine counts of probabilities in a window; inputs have no names that start with an underscore."""
BAND: Final = 2.576
"""Standard errors on each side of a 99 % band."""
NAME: Final = "estimated loss"


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated bounded loss with a 99 % band, and other metrics where a calibration curve gives them."""

    loss: float
    lower: float
    upper: float
    rows: int
    metrics: dict[str, float]


def counted(curve: Mapping[str, Any] | None, confidences: npt.NDArray[np.float64]) -> list[int] | None:
    """Fine counts of the champion's probabilities; None where the reference has no curve."""
    if curve is None or curve["kind"] != "calibration":
        return None
    values = confidences[np.isfinite(confidences)]
    bins = np.searchsorted(np.asarray(curve["edges"]), values, side="right")
    return [int(count) for count in np.bincount(bins, minlength=len(curve["rows"]))]


def estimate(curve: Mapping[str, Any], counts: Mapping[str, Sequence[int]]) -> Estimate | None:
    """The estimate for a window's (or a pool's) counts; None where it has no rows."""
    if curve["kind"] == "calibration":
        return _calibrated(curve, np.asarray(counts.get(FINE, ()), np.float64))
    return _added(curve, counts)


def flags(curve: Mapping[str, Any], closed: Sequence[Window], level: float) -> Flags:
    """A flag where the whole band lies above `level`, the loss that the version is still allowed."""
    found = estimate(curve, closed[-1].counts)
    return Flags({NAME} if found is not None and found.lower > level else ())


def _calibrated(curve: Mapping[str, Any], w: npt.NDArray[np.float64]) -> Estimate | None:
    n = float(w.sum())
    if not n:
        return None
    share, rows = w / n, np.maximum(np.asarray(curve["rows"], np.float64), 1.0)
    p, m = np.asarray(curve["p"]), float(sum(curve["rows"]))
    loss = float(share @ np.asarray(curve["loss"]))
    # the curve was learnt on m rows; where the window holds more of a bin than the reference, it is known less well
    leverage = float((share**2 / (rows / m)).sum()) / m
    return _banded(curve, loss, n, leverage, _confusion(curve, share, p))


def _added(curve: Mapping[str, Any], counts: Mapping[str, Sequence[int]]) -> Estimate | None:
    loss, spread, n, unseen = float(curve["base"]), 0.0, 0.0, 0.0
    for name, parts in curve["columns"].items():
        w = np.asarray(counts[name], np.float64)
        n = max(n, float(w.sum()))
        if w.sum():
            share = w / w.sum()
            loss += float(share @ np.asarray(parts))
            more = _doubtful(curve, name, share)
            spread += more[0]
            unseen += more[1]
    if not n:
        return None
    variance = float(curve["sd"]) ** 2
    leverage = 1.0 / float(curve["rows"]) + (spread / variance if variance else 0.0)
    return _banded(curve, min(max(loss, 0.0), 1.0), n, leverage, {}, unseen=unseen)


def _doubtful(curve: Mapping[str, Any], name: str, share: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Variance of what a column adds, and how far it may lie off because rows moved outwards in its end bins."""
    if "doubts" not in curve:  # a reference made before there were any
        return float(curve["sd"]) ** 2 * float((share**2).sum()) / float(curve["rows"]), 0.0
    doubt = curve["doubts"][name]
    moved = share - np.asarray(doubt["share"])
    step = np.asarray(doubt["step"])
    return float(moved**2 @ np.asarray(doubt["variance"])), float(np.maximum(moved, 0.0) @ step)


def _banded(
    curve: Mapping[str, Any], loss: float, n: float, leverage: float, metrics: dict[str, float], *, unseen: float = 0.0
) -> Estimate:
    error = BAND * float(curve["sd"]) * float(np.sqrt(1.0 / n + leverage)) + unseen
    return Estimate(loss, loss - error, loss + error, int(n), metrics)


def _confusion(curve: Mapping[str, Any], share: Any, p: Any) -> dict[str, float]:
    """Accuracy, and of two classes F1 and AUC, from the expected confusion."""
    if not curve["two"]:
        return {"accuracy": float(share @ p)}
    chosen = np.concatenate(([False], np.asarray(curve["edges"]) >= 0.5))
    positive, negative = share * p, share * (1 - p)
    hit = float(positive[chosen].sum())
    found = {"accuracy": hit + float(negative[~chosen].sum())}
    if positive.sum() > 0 and negative.sum() > 0:
        wrong = float(negative[chosen].sum()) + float(positive[~chosen].sum())
        found["f1"] = 2 * hit / (2 * hit + wrong) if hit + wrong else 0.0
        below = np.cumsum(negative) - negative / 2
        found["roc_auc"] = float((positive * below).sum() / (positive.sum() * negative.sum()))
    return found
