"""The monitor's decision on a whole stream: the detector itself, wherever it could possibly find anything.

A stream without drift is thousands of windows in which nothing is near a flag. `screen` looks at all of them in a few
array operations and leaves those that may be flagged; these are judged by `by_ladder`, as the monitor does.
`tests/unit/test_monitoring_simulation.py` holds that no window is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bench.monitoring.screen import may_be_flagged
from bench.monitoring.streams import Stream
from monitoring.drift.assess import by_ladder, discovery_rate
from monitoring.drift.detectors import Reading
from monitoring.drift.verdict import Flags, Rule, Verdict, advance
from monitoring.drift.windows import DEPTH, Window
from monitoring.settings import MonitoringSettings

HOUR = 3600.0


@dataclass
class Judged:
    """By window: flagged names, and names that one window confirms; then windows in which an episode began."""

    flagged: list[set[str]]
    sure: list[set[str]]
    episodes: list[int] = field(default_factory=list)


def judge_stream(stream: Stream, settings: MonitoringSettings, *, first_after: int | None = None) -> Judged:
    """Flags of every hourly window, and where drift became confirmed.

    Args:
        stream: reference and counts.
        settings: thresholds.
        first_after: stop at the first episode in this window or later.
    """
    windows = len(next(iter(stream.counts.values())))
    rate = discovery_rate([Window(0.0, HOUR)], settings.expected_days_between_false_alarms)
    wanted = may_be_flagged(stream, rate, settings.min_rows)
    found = Judged([set() for _ in range(windows)], [set() for _ in range(windows)])
    rule = Rule("confirmed", settings.confirm, settings.of, settings.clear)
    verdict = Verdict(state="ok")
    for t in range(windows):
        standing = verdict.state == rule.alarm
        if not (wanted[t] or standing or any(verdict.recent)):
            continue
        readings = _readings(stream, t, settings, verdict.held) if wanted[t] or standing else []
        found.flagged[t] = {r.column for r in readings if r.flagged}
        found.sure[t] = {r.column for r in readings if r.flagged and r.sure}
        unsettled = any(r.unsettled for r in readings)
        verdict = advance(verdict, Flags(found.flagged[t], found.sure[t], unsettled=unsettled), rule)
        if verdict.state == rule.alarm and not standing:
            found.episodes.append(t)
            if first_after is not None and t >= first_after:
                break
    return found


def _readings(stream: Stream, t: int, settings: MonitoringSettings, held: list[str]) -> list[Reading]:
    return by_ladder(stream.specs, ladder_at(stream, t), settings, alarmed=held)


def ladder_at(stream: Stream, t: int) -> list[Window]:
    """The closed windows that the monitor holds when window t closes; windows are hours of the day in turn."""
    hours = stream.n * np.eye(24, dtype=np.int64)
    return [
        Window(HOUR * at, HOUR * (at + 1), stream.n, _counts(stream, at), hours[at % 24].tolist())
        for at in range(max(t + 1 - DEPTH, 0), t + 1)
    ]


def _counts(stream: Stream, at: int) -> dict[str, list[int]]:
    return {name: rows[at].tolist() for name, rows in stream.counts.items()}
