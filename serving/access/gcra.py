"""How often a key may ask: the generic cell rate algorithm, one number of state, as pure functions of the time.

The number is the theoretical arrival time: when a caller that kept exactly to its rate would be even. A caller may run
ahead of it by one second's allowance, which is the burst. What costs more than a whole burst passes when the caller is
even, and is then paid off: a rate of 1,000 rows a second takes a table of 10,000 rows every ten seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Rate:
    """So many units a second, on average; at least one at once."""

    per_second: float

    @property
    def burst(self) -> float:
        """Units that may come at once."""
        return max(1.0, self.per_second)


class Verdict(NamedTuple):
    """Whether it may pass; the time to keep (unchanged where it may not) and how long to wait for the same."""

    passes: bool
    tat: float
    wait_s: float = 0.0


def ask(rate: Rate, tat: float, now: float, cost: float) -> Verdict:
    """Decide on `cost` units at `now`, both times in seconds of one clock.

    >>> ask(Rate(2), tat=0.0, now=10.0, cost=1)
    Verdict(passes=True, tat=10.5, wait_s=0.0)
    >>> ask(Rate(2), tat=11.0, now=10.0, cost=1)
    Verdict(passes=False, tat=11.0, wait_s=0.5)
    """
    even = max(tat, now)
    ahead = (even - now) * rate.per_second + min(cost, rate.burst) - rate.burst
    if ahead > 1e-9:
        return Verdict(passes=False, tat=tat, wait_s=ahead / rate.per_second)
    return Verdict(passes=True, tat=even + cost / rate.per_second)


def left(rate: Rate, tat: float, now: float) -> int:
    """Whole units that would pass now."""
    return max(0, int(rate.burst - max(0.0, tat - now) * rate.per_second + 1e-9))


def settled(rate: Rate, tat: float, now: float, largest: float) -> float:
    """A `tat` that was kept, as far as it can be true: no further ahead than the largest cost can have put it.

    A clock that began anew, as at a boot, would keep a caller out for days otherwise.
    """
    return tat if tat <= now + (rate.burst + largest) / rate.per_second else now
