"""Which rows a retraining may learn from, and which it must keep for the judgement."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from registry.errors import ConfigInvalid

__all__ = ["EPOCH", "LONGEST", "NamedWindow", "Plan", "Window", "parse_duration", "plan", "ready_at"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SHORTEST = timedelta(days=8)
"""What a holdout is shortened to at most: with fewer days the gate cannot tell a good version from a lucky week."""
LONGEST = timedelta(days=36_500)
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(s|m|h|d|w)\s*$")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open span of event time, UTC: start <= at < end. This is what a user's loader receives."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class NamedWindow:
    """A training window and the setting it comes from."""

    name: str
    window: Window


@dataclass(frozen=True, slots=True)
class Plan:
    """Training windows, all ending where the holdout starts: no candidate ever saw a row it is judged on."""

    train: tuple[NamedWindow, ...]
    holdout: Window

    @property
    def span(self) -> Window:
        """Everything that has to be loaded once."""
        return Window(min(w.window.start for w in self.train), self.holdout.end)


def parse_duration(text: str | timedelta) -> timedelta:
    """Read "90d", "12h", "30m", "10s" or "2w".

    >>> parse_duration("36h")
    datetime.timedelta(days=1, seconds=43200)
    """
    if isinstance(text, timedelta):
        return text
    found = _DURATION.match(text)
    if found is None:
        raise ConfigInvalid(
            "a duration could not be read",
            expected="a number and one of s, m, h, d, w",
            got=text[:40],
            hint='write for example "14d" or "36h"',
        )
    seconds = float(found[1]) * _SECONDS[found[2]]
    if seconds > LONGEST.total_seconds():  # beyond it, dates that are counted from it are none
        raise ConfigInvalid("a duration is too long", expected="at most 36500d", got=text[:40])
    return timedelta(seconds=seconds)


def ready_at(
    drift_at: datetime, holdout: timedelta, maturity: timedelta, *, sample: timedelta = timedelta()
) -> datetime:
    """From when on a run can learn of a change: enough of it is known to judge on, and half as much to learn from."""
    return drift_at + max(1.5 * min(holdout, SHORTEST), 2 * sample) + maturity


def plan(
    specs: Sequence[str],
    now: datetime,
    *,
    holdout: timedelta,
    maturity: timedelta,
    drift_at: datetime | None = None,
    earliest: datetime | None = None,
) -> Plan:
    """Lay out the candidate windows before the last matured block.

    Soon after a change half of what came since then is learned from, and half judged on, though no less than
    `SHORTEST`: a whole holdout of the new world, and as much again to learn it from, would take too long.
    "since-drift" is left out before `ready_at`.
    Windows that come out equal are kept once, so that best-of-k does not pay for a duplicate.
    """
    end = now - maturity
    soon = "since-drift" in specs and drift_at is not None and ready_at(drift_at, holdout, maturity) <= now
    if soon and drift_at is not None:
        holdout = min(holdout, max((end - drift_at) / 2, SHORTEST))
    cut = end - holdout
    floor = earliest or EPOCH
    found: dict[Window, NamedWindow] = {}
    for spec in specs:
        if spec == "expanding":
            start = floor
        elif spec == "since-drift":
            if drift_at is None or not soon:
                continue
            start = max(drift_at, floor)
        else:
            start = max(cut - parse_duration(spec), floor)
        if start < cut:
            window = Window(start, cut)
            found.setdefault(window, NamedWindow(spec, window))
    if not found:
        fallback = Window(min(floor, cut - holdout), cut)
        found[fallback] = NamedWindow("expanding", fallback)
    return Plan(tuple(found.values()), Window(cut, end))
