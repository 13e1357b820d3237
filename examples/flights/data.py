"""What the trainers learn from: flights whose outcome was known before the end of a window."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import pandas as pd

from examples.flights import source

__all__ = ["Span", "features", "load", "load_late"]

features: list[str] = [*source.STRINGS, *source.INTEGERS, *source.WEATHER]
"""Everything is known when the plane leaves the gate.

Left out on purpose: the month (trees cannot extrapolate to a month they never saw, and would hide the drift until
it is too late) and the delay at departure (it would answer `flight-late` by itself).
"""


class Span(Protocol):
    """A half-open span of event time, UTC: start <= at < end."""

    @property
    def start(self) -> datetime:
        """The first instant of the span."""
        ...

    @property
    def end(self) -> datetime:
        """The first instant after it."""
        ...


def load(window: Span) -> pd.DataFrame:
    """Features, `air_time` (minutes in the air), `_at` and `_label_at` of the flights of `window`."""
    return _load(window, "air_time")


def load_late(window: Span) -> pd.DataFrame:
    """Features, `late` (1: more than 15 minutes behind schedule at the gate), `_at` and `_label_at`."""
    return _load(window, "late")


def _load(window: Span, target: str) -> pd.DataFrame:
    table = source.flights()
    inside = (table["_at"] >= window.start) & (table["_at"] < window.end) & (table["_label_at"] < window.end)
    return table.loc[inside, [*features, target, "_at", "_label_at"]].reset_index(drop=True)
