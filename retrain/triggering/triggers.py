"""When to retrain: reasons pull, brakes hold. A pure decision on what the ledger holds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

__all__ = ["Brake", "Facts", "PastRun", "Trigger", "backoff", "breaker_open", "decide", "next_attempt"]

Outcome = Literal["candidate", "refused", "error", "void"]
Brake = Literal["run", "trial", "full", "quality", "labels", "breaker", "cooldown"]
DEFAULT = frozenset({"performance", "alert"})

#: Refused gates stretch the cooldown by 2, 4, 8 and not further.
MAX_BACKOFF = 8
#: Runs that end in an error, one after the other, before nobody tries again without a human.
BREAKER = 3


@dataclass(frozen=True, slots=True)
class PastRun:
    """One finished run, `at` on the model's clock: a candidate came out, the gates refused, or it broke.

    A void one was cancelled or repeats another: it moves the clock and teaches nothing.
    """

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
    full: bool = False  # as many runs of all models are on their way as may be
    estimated: str = "insufficient"
    alert: str = ""  # an alert that asks for a run, by name
    learned: int = 0  # labels that were there when the last run began, or that the champion was fitted on
    fresh: int = 0  # labels since then
    ready_at: datetime | None = None  # when there is enough to learn of the time since performance got worse
    patience: timedelta | None = None  # by then a holdout is all new: harm waits no longer for another attempt


@dataclass(frozen=True, slots=True)
class Trigger:
    """`reason` is None when nothing is to be done; `why` always says what held or pulled."""

    reason: str | None
    why: str
    brake: Brake | None = None
    next_at: datetime | None = None  # on the model's clock; None when an event, not a time, decides


def backoff(past: Sequence[PastRun]) -> int:
    """Factor on the cooldown: doubles with each consecutive run without a candidate, up to 8."""
    failed = 0
    for run in past:
        if run.outcome == "candidate":
            break
        failed += run.outcome != "void"
    return int(min(2**failed, MAX_BACKOFF))


def breaker_open(past: Sequence[PastRun]) -> bool:
    """Whether the last runs all broke. Closing it by hand makes the caller forget the runs before."""
    counted = [run for run in past if run.outcome != "void"]
    return len(counted) >= BREAKER and all(run.outcome == "error" for run in counted[:BREAKER])


def next_attempt(
    past: Sequence[PastRun],
    cooldown: timedelta,
    decided_at: datetime | None = None,
    *,
    longest: timedelta | None = None,
) -> datetime | None:
    """From when on a trigger may begin a run; None when it may already. `longest` bounds the wait, not the cooldown."""
    ends = [past[0].at] if past else []
    if decided_at is not None:
        ends.append(decided_at)
    wait = cooldown * backoff(past)
    if longest is not None:
        wait = min(wait, max(longest, cooldown))
    return max(ends) + wait if ends else None


def decide(
    facts: Facts,
    *,
    cooldown: timedelta,
    min_labels: int,
    triggers: Collection[str] = DEFAULT,
    volume: float = 0.2,
) -> Trigger:
    """Choose a reason, then let the brakes speak. A human passes cooldown, not the data brakes."""
    reason, why = _reason(facts, triggers, volume)
    if reason is None:
        return Trigger(None, why, next_at=facts.schedule_due)
    # a refusal speaks of the rows it was made on: once as many are new, it is no reason to leave a harm alone
    longest = facts.patience if reason in ("performance", "alert") else None
    until = next_attempt(facts.past, cooldown, facts.decided_at, longest=longest)
    brake, held = _brake(facts, until, min_labels, manual=reason in ("manual", "freshness"))
    if brake is None:
        return Trigger(reason, why)
    at = until if brake == "cooldown" else None
    return Trigger(None, f"{why}; held: {held}", brake, at)


def _reason(facts: Facts, triggers: Collection[str], volume: float) -> tuple[str | None, str]:
    if facts.requested_at is not None:
        return facts.request_reason, "requested"
    if facts.alert and "alert" in triggers:
        return "alert", f"the alert {facts.alert} asks for it"
    harmed = facts.performance == "confirmed" and "performance" in triggers
    if harmed and (facts.ready_at is None or facts.ready_at <= facts.now):
        return "performance", "realised performance is confirmed worse than the reference"
    if facts.schedule_due is not None and facts.schedule_due <= facts.now:
        return "schedule", f"the schedule was due at {facts.schedule_due.isoformat()}"
    if "volume" in triggers and facts.learned > 0 and facts.fresh >= volume * facts.learned:
        return "volume", f"{facts.fresh} labelled rows are new, beside {facts.learned}"
    if "estimated" in triggers and facts.estimated == "confirmed":
        return "estimated", "estimated performance is confirmed worse; labels have not said so yet"
    if harmed and facts.ready_at is not None:
        return None, f"performance is confirmed worse; until {facts.ready_at.isoformat()} there is too little to learn"
    return None, "nothing is due"


def _brake(facts: Facts, until: datetime | None, min_labels: int, *, manual: bool) -> tuple[Brake | None, str]:
    if facts.running:
        return "run", "a run is on its way"
    if facts.in_trial:
        return "trial", "a trial is on its way"
    if facts.full:
        return "full", "runs of other models are on their way, as many as may be at once"
    if facts.data_quality == "broken":
        return "quality", "the data quality is broken"
    if facts.labels < min_labels:
        return "labels", f"{facts.labels} labels of {min_labels} needed"
    if manual:
        return None, ""
    if breaker_open(facts.past):
        return "breaker", f"the breaker is open after {BREAKER} broken runs"
    if until is not None and facts.now < until:
        return "cooldown", f"cooling down until {until.isoformat()}"
    return None, ""
