"""What alerts call too much, as numbers that an operator may set, and the pace at which rules are evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields

from registry.errors import ConfigInvalid

__all__ = ["Limits", "Pace", "limits_from"]

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True)
class Limits:
    """Numbers of the rules; `python -m monitoring.alerting.alerts --write FILE --set NAME=NUMBER` sets one."""

    slo_error_budget: float = 0.001
    """Share of requests that may fail through our fault: 99.9 % are answered."""
    slo_min_requests: float = 100
    """Requests in a rule's window below which a single error would be a burn."""
    error_ratio: float = 0.01
    """Share of one model's requests that may fail before somebody looks at it."""
    latency_p95_s: float = 0.25
    """The 95th percentile of answered predictions, in seconds; one of the histogram's bounds is exact."""
    overload_ratio: float = 0.01
    """Share of requests refused because they could not be answered in time."""
    worker_restarts: float = 2
    """In an hour; one is an accident."""
    alias_lag_s: float = 120
    """Seconds that a version the ledger names may take until it serves."""
    gpu_busy_ratio: float = 0.9
    """Share of time in which a GPU may work, over 15 minutes."""
    gpu_idle_ratio: float = 0.2
    """Share of time in which a GPU that models run on should work, over six hours."""
    gpu_memory_ratio: float = 0.95
    """Share of a GPU's memory that may be in use, by anybody."""
    cost_seconds_per_day: float = 86_400
    """Seconds of serving that one key may cost in a day; the default is one core that does nothing else."""
    spool_bytes: float = 256 * 2**20
    """Events on a server's disk that have not reached the lake; `serving.spool_max_bytes` is where loss begins."""
    upkeep_stale_s: float = 21_600
    """Seconds since the last completed round of upkeep of the event lake."""
    labels_late_s: float = 86_400
    """Seconds without a new label that are never late; else twice the time in which 95 % of labels came."""
    monitor_stale_s: float = 900
    """Seconds since a worker completed a turn over a model."""
    retrain_overdue_s: float = 1_209_600
    """Seconds, on the model's clock, for which brakes may hold a scheduled run: two weeks, twice the usual pause."""
    experiment_label_lag_s: float = 43_200
    """Trials of models whose labels usually take longer than this are left to their own limit of time."""
    srm_evalue: float = 1_000
    """Ville: exceeded with probability at most 1/1000 when the split is as asked."""


def limits_from(settings: Iterable[str]) -> Limits:
    """Limits with some of the numbers replaced, each given as NAME=NUMBER.

    Raises:
        ConfigInvalid: no such number, or a value that is none.
    """
    known = {field.name for field in fields(Limits)}
    found: dict[str, float] = {}
    for text in settings:
        name, _, value = text.partition("=")
        if name not in known:
            raise ConfigInvalid("no alert has such a number", where=name, expected=", ".join(sorted(known)))
        if not re.fullmatch(r"\d+(\.\d+)?(e[+-]?\d+)?", value):
            raise ConfigInvalid("the number of an alert is not one", where=name, expected="a number of 0 or more")
        found[name] = float(value)
    return Limits(**found)


@dataclass(frozen=True)
class Pace:
    """How fast time goes for the rules: a rehearsal divides every window and every wait by one factor.

    `least_s` keeps windows longer than a few scrapes, without which a rate sees nothing.

    >>> Pace().window("6h"), Pace(120, least_s=5).window("1h"), Pace(120, least_s=5).window("5m")
    ('6h', '30s', '5s')
    >>> Pace(120).wait("2m"), Pace(120).wait("0m")
    ('1s', '0s')
    """

    factor: float = 1.0
    least_s: float = 0.0

    def window(self, span: str) -> str:
        """A range or an offset, such as "5m"."""
        return span if self.factor == 1 else _span(max(_seconds(span) / self.factor, self.least_s))

    def wait(self, span: str) -> str:
        """How long an expression must hold before its alert fires."""
        return span if self.factor == 1 else _span(_seconds(span) / self.factor)


def _seconds(span: str) -> float:
    return float(span[:-1]) * _SECONDS[span[-1]]


def _span(seconds: float) -> str:
    return f"{seconds:g}s" if seconds == int(seconds) else f"{round(seconds * 1_000)}ms"
