"""A reference that knows the hour of the day: a window is compared with the hours that it holds itself.

A column that follows the clock differs from a reference of all hours in every window, and has not drifted. Where the
reference knows when its rows were, columns that depend on the hour keep a histogram of each (`seasons`). A pool's
reference is then the mixture of hours in which the pool's own rows came, and holds as many rows as that mixture does:
fewer for an hour than for a day, so that a test of one hour knows that it compares with little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from monitoring.drift.drift import Floats, cells
from monitoring.drift.windows import SCALES, Window
from registry.reference import HOURS


def matched(spec: dict[str, Any], hours: npt.ArrayLike) -> Floats:
    """The reference's cells [..., B] for rows that came in these hours [..., 24]; all hours where nothing is known."""
    whole = cells(spec, spec["counts"]).astype(np.float64)
    mix = np.asarray(hours, np.float64)
    seasons = spec.get("seasons")
    if seasons is None:
        return np.broadcast_to(whole, (*mix.shape[:-1], len(whole)))
    each = cells(spec, seasons).astype(np.float64)
    rows = each.sum(-1)
    share = mix / np.maximum(mix.sum(-1, keepdims=True), 1.0)
    # an hour that the reference has not seen stands for nothing: then all hours do
    covered = (share * (rows == 0)).sum(-1) == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(rows > 0, share / rows, 0.0)
        size = 1.0 / (share**2 / np.where(rows > 0, rows, np.inf)).sum(-1)
    usable = covered & (mix.sum(-1) > 0) & np.isfinite(size)
    found = (weight[..., None] * each).sum(-2) * np.where(usable, size, 0.0)[..., None]
    return np.where(usable[..., None], found, whole)


def pooled_hours(closed: Sequence[Window], scales: Sequence[int] = SCALES) -> npt.NDArray[np.int64]:
    """Rows by hour [S, 24] of the last windows of each scale; none where some window does not tell."""
    kept = [window.hours or [0] * HOURS for window in closed]
    found = np.array([np.array(kept[-scale:], np.int64).sum(axis=0) for scale in scales])
    blank = [any(not window.hours for window in closed[-scale:]) for scale in scales]
    found[np.array(blank, bool)] = 0
    return found
