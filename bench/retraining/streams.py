"""Streams whose drift is known: an abrupt change, a gradual one, worlds that come back, and none at all.

Generators of our own, in the manner of those that the literature uses (SEA: Street and Kim 2001; a rotating
hyperplane: Hulten, Spencer and Domingos 2001). A tenth of the labels is wrong, so nobody is right more than 90 %.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["A_DAY", "BEGIN", "KINDS", "stream"]

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
A_DAY = 250
NOISE = 0.1
KINDS = ("none", "abrupt", "gradual", "recurring")
Floats = npt.NDArray[np.float64]


def stream(kind: str, *, days: int, first: int, seed: int) -> pd.DataFrame:
    """`days` days of rows: `x0` to `x4`, the class `y`, `_at`, and `_label_at` half a day later.

    Until day `first` there is one world. Then, in a span cut in three: abrupt, another world at each cut; gradual, a
    world that turns by a little every day; recurring, a second world and the first one by turns, six of them.
    """
    generator = np.random.default_rng(seed)
    n = days * A_DAY
    x = generator.random((n, 5))
    day = np.arange(n) / A_DAY
    y = np.where(generator.random(n) < NOISE, 1, 0) ^ (_score(kind, x, day, days, first, generator) > 0)
    at = pd.Series(pd.to_datetime([BEGIN + timedelta(days=float(d)) for d in day], utc=True))
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(5)])
    return frame.assign(y=y.astype(int), _at=at, _label_at=at + timedelta(hours=12))


def _score(kind: str, x: Floats, day: Floats, days: int, first: int, generator: np.random.Generator) -> Floats:
    """The side of a plane through the middle of the cube on which each row lies."""
    worlds = generator.normal(size=(4, 5))
    worlds[1] = _turned(worlds[0], worlds[1], np.pi / 3)
    worlds[2] = _turned(worlds[1], worlds[2], np.pi / 3)
    after = np.clip((day - first) / (days - first), 0.0, 1.0)
    if kind == "gradual":
        far = _turned(worlds[0], worlds[3], np.pi / 2)
        angle = after * np.pi * 0.75
        base = worlds[0] / np.linalg.norm(worlds[0])
        weights = np.cos(angle)[:, None] * base + np.sin(angle)[:, None] * far
        return np.asarray(((x - 0.5) * weights).sum(axis=1))
    index = {
        "none": np.zeros(len(x), int),
        "abrupt": np.minimum((after * 3).astype(int), 2),
        "recurring": (after * 6).astype(int) % 2,
    }[kind]
    return np.asarray(((x - 0.5) * worlds[index]).sum(axis=1))


def _turned(old: Floats, towards: Floats, angle: float) -> Floats:
    """A unit vector at this angle from `old`, in the plane of both."""
    base = old / np.linalg.norm(old)
    side = towards - (towards @ base) * base
    found: Floats = np.cos(angle) * base + np.sin(angle) * side / np.linalg.norm(side)
    return found
