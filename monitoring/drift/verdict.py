"""From flags in single windows to a state: pure bookkeeping shared by drift and data quality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain

import msgspec

from monitoring.watching.findings import Severity, State


@dataclass(frozen=True, slots=True)
class Rule:
    """`confirm` flags of one name among the last `of` windows alarm; `clear` calm windows in a row end it."""

    alarm: State
    confirm: int
    of: int
    clear: int


@dataclass(frozen=True, slots=True)
class Flags:
    """What one window says: flagged names, names so bad that one window is enough, and what else matters."""

    names: Collection[str] = ()
    immediate: Collection[str] = ()
    unsettled: bool = False
    """Nearly a flag: not calm, so a confirmed state stands."""
    odd: bool = False
    """Something of another kind, worth watching: it neither alarms nor keeps an alarm up."""


class Verdict(msgspec.Struct):
    """A state with the flags it was reached on, newest window last."""

    state: State = "insufficient"
    severity: Severity = "none"
    recent: list[list[str]] = []
    calm: int = 0
    held: list[str] = []
    """Names that the alarm rests on, since it began: only they can keep it up without a flag."""

    @property
    def confirmed(self) -> list[str]:
        """Names flagged most often in the recent windows, most often first."""
        return [name for name, _ in Counter(sorted(chain.from_iterable(self.recent))).most_common()]


def advance(verdict: Verdict, flags: Flags, rule: Rule) -> Verdict:
    """The verdict after one more window.

    A name must repeat itself: two columns flagged once each are two coincidences, not a confirmation.
    """
    recent = [*verdict.recent, sorted({*flags.names, *flags.immediate})][-rule.of :]
    counts = Counter(chain.from_iterable(recent))
    alarming = {*flags.immediate, *(name for name, times in counts.items() if times >= rule.confirm)}
    if verdict.state == rule.alarm:
        restless = bool(flags.names or flags.immediate or flags.unsettled)
        calm = 0 if restless else verdict.calm + 1
        if calm < rule.clear:
            return Verdict(rule.alarm, verdict.severity, recent, calm, sorted({*verdict.held, *alarming}))
        return Verdict("watch" if flags.odd else "ok", "none", [], 0)
    if alarming:
        return Verdict(rule.alarm, verdict.severity, recent, 0, sorted(alarming))
    return Verdict("watch" if any(recent) or flags.unsettled or flags.odd else "ok", "none", recent, 0)
