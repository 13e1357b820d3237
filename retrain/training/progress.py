"""How far a run is and how long the rest may take, by the steps of earlier runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Final

from registry.ledger import Run
from retrain.training.spec import STEPS

__all__ = ["durations", "left", "reached", "usual"]

ENDS: Final = ("done", "failed", "abandoned", "cancelled")


def durations(rows: Sequence[Run]) -> dict[str, float]:
    """Seconds of each step, by the rows of one run, oldest first; of the last attempt that came through it.

    >>> from datetime import UTC
    >>> at = lambda s, step, status="running": Run("r", "m", status, step, {}, datetime(2026, 1, 1, tzinfo=UTC),
    ...     datetime(2026, 1, 1, 0, 0, s, tzinfo=UTC))
    >>> durations([at(0, "begin"), at(2, "train"), at(5, "train"), at(6, "gate"), at(9, "concluded", "done")])
    {'begin': 2.0, 'train': 4.0, 'gate': 3.0}
    """
    found: dict[str, float] = {}
    seen: set[str] = set()
    for row, following in pairwise(rows):
        if row.step == "begin":
            seen = set()  # a new attempt: what it does again is measured again
        if row.step == "waiting" or row.body.get("facts", {}).get("resumed"):
            continue
        if row.step not in seen:
            found[row.step] = 0.0
            seen.add(row.step)
        if following.step != "begin" or row.step == "begin":
            found[row.step] += (following.at - row.at).total_seconds()
    return found


def usual(runs: Sequence[Sequence[Run]]) -> dict[str, float]:
    """The median seconds of each step in runs that came to an answer."""
    ended = [durations(rows) for rows in runs if rows and rows[-1].status == "done"]
    return {step: median(times) for step in STEPS if (times := [d[step] for d in ended if step in d])}


def reached(rows: Sequence[Run]) -> int:
    """The number of the step at which a run is; those of `STEPS` before it are finished."""
    steps = [row.step for row in rows if row.step in STEPS]
    return STEPS.index(steps[-1]) if steps else 0


def left(rows: Sequence[Run], known: Mapping[str, float], now: datetime) -> float | None:
    """Seconds until the run's end if it is as quick as earlier ones; None when there were none."""
    if not known or not rows or rows[-1].status in ENDS:
        return None
    number = reached(rows)
    current = STEPS[number]
    since = next((r.at for r in rows if r.step == current), rows[-1].at)
    rest = max(known.get(current, 0.0) - (now - since).total_seconds(), 0.0)
    return rest + sum(known.get(step, 0.0) for step in STEPS[number + 1 :])
