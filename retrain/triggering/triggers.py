"""When to retrain: reasons pull, brakes hold. A pure decision on what the ledger holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

__all__ = ["Facts", "PastRun", "Trigger", "backoff", "breaker_open", "decide"]

Outcome = Literal["candidate", "refused", "error"]

#: Refused gates stretch the cooldown by 2, 4, 8 and not further.
MAX_BACKOFF = 8
#: Runs that end in an error, one after the other, before nobody tries again without a human.
BREAKER = 3


@dataclass(frozen=True, slots=True)
class PastRun:
    """One finished run, `at` on the model's clock: a candidate came out, the gates refused, or it broke."""

    at: datetime
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the decision looks at. Times are on the model's clock (event time in a fast-forward replay)."""

    now: datetime
    running: bool
    in_trial: bool
    data_quality: str
    performance: str
    schedule_due: datetime | None
    requested_at: datetime | None
    request_reason: str
    labels: int
    past: Sequence[PastRun]  # newest first, since the breaker was last closed
    decided_at: datetime | None = None  # when the last trial ended


@dataclass(frozen=True, slots=True)
class Trigger:
    """`reason` is None when nothing is to be done; `why` always says what held or pulled."""

    reason: str | None
    why: str


def backoff(past: Sequence[PastRun]) -> int:
    """Factor on the cooldown: doubles with each consecutive run without a candidate, up to 8."""
    failed = 0
    for run in past:
        if run.outcome == "candidate":
            break
        failed += 1
    return int(min(2**failed, MAX_BACKOFF))


def breaker_open(past: Sequence[PastRun]) -> bool:
    """Whether the last runs all broke. Closing it by hand makes the caller forget the runs before."""
    return len(past) >= BREAKER and all(run.outcome == "error" for run in past[:BREAKER])


def decide(facts: Facts, *, cooldown: timedelta, min_labels: int) -> Trigger:
    """Choose a reason, then let the brakes speak. A human passes cooldown, not the data brakes."""
    reason, why = _reason(facts)
    if reason is None:
        return Trigger(None, why)
    held = _brake(facts, cooldown, min_labels, manual=reason in ("manual", "freshness"))
    return Trigger(None, f"{why}; held: {held}") if held else Trigger(reason, why)


def _reason(facts: Facts) -> tuple[str | None, str]:
    if facts.requested_at is not None:
        return facts.request_reason, "requested"
    if facts.performance == "confirmed":
        return "performance", "realised performance is confirmed worse than the reference"
    if facts.schedule_due is not None and facts.schedule_due <= facts.now:
        return "schedule", f"the schedule was due at {facts.schedule_due.isoformat()}"
    return None, "nothing is due"


def _brake(facts: Facts, cooldown: timedelta, min_labels: int, *, manual: bool) -> str:
    if facts.running:
        return "a run is on its way"
    if facts.in_trial:
        return "a trial is on its way"
    if facts.data_quality == "broken":
        return "the data quality is broken"
    if facts.labels < min_labels:
        return f"{facts.labels} labels of {min_labels} needed"
    if manual:
        return ""
    if breaker_open(facts.past):
        return f"the breaker is open after {BREAKER} broken runs"
    ends = [facts.past[0].at] if facts.past else []
    if facts.decided_at is not None:
        ends.append(facts.decided_at)
    until = max(ends) + cooldown * backoff(facts.past) if ends else None
    if until is not None and facts.now < until:
        return f"cooling down until {until.isoformat()}"
    return ""
