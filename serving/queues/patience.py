"""Waiting for a candidate, but not for ever: after its part of the time the champion is asked instead."""

from __future__ import annotations

import asyncio
from typing import Final

from registry.errors import PereneError
from serving.queues.runner import Done, Outcome

LATE: Final = 0.25
"""A timer that is later than this part of its time says that the loop stood still, not that the model did."""


class CandidateLate(PereneError):
    """A version that is tried did not answer in its part of the time."""

    code = "candidate_late"


class Within:
    """Tells once: the outcome, or after some seconds that there was none. What comes later is not told."""

    __slots__ = ("_again", "_done", "_due", "_loop", "_seconds", "_timer", "told")

    def __init__(self, done: Done, seconds: float) -> None:
        self.told = False
        self._done = done
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._again = True
        self._wait(seconds)

    def __call__(self, outcome: Outcome, queue_s: float, infer_s: float, /) -> None:
        """The outcome came."""
        if not self.told:
            self.told = True
            self._timer.cancel()
            self._done(outcome, queue_s, infer_s)

    def gone(self) -> bool:
        """Whether nobody waits for the outcome any more."""
        return self.told

    def _wait(self, seconds: float) -> None:
        self._due = self._loop.time() + seconds
        self._timer = self._loop.call_later(seconds, self._over)

    def _over(self) -> None:
        late = self._loop.time() - self._due > LATE * self._seconds
        if late and self._again:  # the outcome may lie there and only have had no turn
            self._again = False
            self._wait(LATE * self._seconds)
            return
        self(CandidateLate("the candidate did not answer in its part of the time"), self._seconds, 0.0)
