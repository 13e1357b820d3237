"""Label maturity: how long after its prediction a label comes, and which share of predictions has one by then.

Counts by the hour in which predictions were made, so that the states of two readers add up to that of one. A share
after a day is read off the hours that are a day old: what is younger has not had the time.
"""

from __future__ import annotations

import bisect
from typing import Any, Final

import msgspec

__all__ = ["HORIZONS", "Cohort", "Maturity", "facts", "forgot", "labelled", "merge", "predicted", "trim"]

HORIZONS: Final = {"1h": 3_600, "1d": 86_400, "7d": 604_800, "30d": 2_592_000}
"""Ages, in seconds, at which shares are told."""
EDGES: Final = (
    1, 10, 60, 300, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200,
    *(days * 86_400 for days in (1, 2, 3, 4, 5, 7, 10, 14, 21, 30, 45, 60, 90, 120, 180, 365)),
)  # fmt: skip
"""Upper ends of the bins of delays, in seconds; what comes later is in one more bin."""
DEPTH: Final = 24 * 42
"""Hours that are kept: the longest horizon, and 12 days that have reached it."""
_HOUR: Final = 3_600
_FORGOTTEN: Final = 0.01
"""An hour of which a larger share left memory without a label tells nothing about shares."""


class Cohort(msgspec.Struct, array_like=True):
    """Predictions of one hour: how many, how many were forgotten without a label, and labels by the bin of delay."""

    made: int = 0
    forgotten: int = 0
    delays: list[int] = msgspec.field(default_factory=lambda: [0] * (len(EDGES) + 1))


class Maturity(msgspec.Struct):
    """Cohorts by hours since 1970, as text."""

    cohorts: dict[str, Cohort] = {}


def predicted(state: Maturity, at: float) -> None:
    """Count a prediction that was made at `at` (unix seconds)."""
    _cohort(state, at).made += 1


def labelled(state: Maturity, at: float, delay: float) -> None:
    """Count the first label of a prediction made at `at`; a delay below 0, a clock's fault, is none."""
    _cohort(state, at).delays[bisect.bisect_left(EDGES, max(delay, 0.0))] += 1


def forgot(state: Maturity, at: float) -> None:
    """A prediction made at `at` left memory without a label: a label that it may yet get cannot be counted."""
    _cohort(state, at).forgotten += 1


def merge(left: Maturity, right: Maturity) -> Maturity:
    """The counts of both."""
    found = Maturity()
    for state in (left, right):
        for hour, cohort in state.cohorts.items():
            mine = found.cohorts.setdefault(hour, Cohort())
            mine.made += cohort.made
            mine.forgotten += cohort.forgotten
            mine.delays = [a + b for a, b in zip(mine.delays, cohort.delays, strict=True)]
    trim(found)
    return found


def trim(state: Maturity) -> None:
    """Keep the newest hours."""
    if len(state.cohorts) > DEPTH:
        state.cohorts = {hour: state.cohorts[hour] for hour in sorted(state.cohorts, key=int)[-DEPTH:]}


def facts(state: Maturity, now: float) -> dict[str, Any]:
    """Delays in seconds by which half and 95 % of the labels had come, and shares of predictions labelled by an age.

    A delay is the upper end of its bin, a year for all that is longer, None before the first label. A share is None
    while no hour is old enough.

    Args:
        state: the counts.
        now: the event clock, unix seconds.

    >>> seen = Maturity()
    >>> for minute in range(60):
    ...     predicted(seen, 60.0 * minute)
    >>> for minute in range(45):
    ...     labelled(seen, 60.0 * minute, 1_000.0 + 60 * minute)
    >>> found = facts(seen, 10_000)
    >>> found["p50_s"], found["labels"], round(found["within"]["1h"], 3), found["within"]["1d"]
    (3600.0, 45, 0.733, None)
    """
    total = [sum(counts) for counts in zip(*(c.delays for c in state.cohorts.values()), strict=True)]
    return {
        "labels": sum(total),
        "p50_s": _quantile(total, 0.5),
        "p95_s": _quantile(total, 0.95),
        "within": {name: _within(state, seconds, now) for name, seconds in HORIZONS.items()},
    }


def _cohort(state: Maturity, at: float) -> Cohort:
    hour = str(int(at // _HOUR))
    found = state.cohorts.get(hour)
    if found is None:
        found = state.cohorts[hour] = Cohort()
    return found


def _quantile(total: list[int], share: float) -> float | None:
    wanted, seen = share * sum(total), 0
    for number, count in enumerate(total):
        seen += count
        if count and seen >= wanted:
            return float(EDGES[min(number, len(EDGES) - 1)])
    return None


def _within(state: Maturity, seconds: int, now: float) -> float | None:
    made = known = 0
    last = EDGES.index(seconds)
    for hour, cohort in state.cohorts.items():
        if (int(hour) + 1) * _HOUR + seconds > now or cohort.forgotten > _FORGOTTEN * cohort.made:
            continue
        made += cohort.made
        known += sum(cohort.delays[: last + 1])
    return known / made if made else None
