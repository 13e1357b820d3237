"""Who may join a queue: what cannot be answered in time is refused before any work is put into it.

Two things fill up: the engine's queue, whose length in seconds is known from measured runs, and the event loop itself,
whose length shows in how long its turn has lasted already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from prometheus_client import Counter

from serving.errors import Overloaded
from serving.settings import QueueSettings

LEARNED: Final = 0.2
"""Weight of the newest run in what is expected of the next."""
OUTLIER: Final = 2.0
"""A run counts as at most so many times slower than those before: one that was interrupted says nothing of others."""
USED: Final = 0.5
"""Share of `queue.seconds` that an expected wait may take: a run, the reply and a wrong guess need time, too."""
LIGHT_PATIENCE: Final = 50.0
"""A refusal costs half as much as a light model's answer: refusing many frees little time, and answers nobody."""
_MESSAGES: Final = {
    "queue_full": "too many requests wait for this model",
    "deadline": "the request could not be answered in time",
}


@dataclass
class Cost:
    """What a run of the engine takes: a part for the run and one for each row; measured at load and corrected since.

    >>> cost = Cost.measured({1: 0.002, 101: 0.012})
    >>> round(cost.of(51), 4)
    0.007
    """

    run_s: float
    row_s: float
    slower: float = 1.0

    @classmethod
    def measured(cls, seconds: Mapping[int, float]) -> Cost:
        """From seconds by number of rows: the smallest number and the largest."""
        few, many = min(seconds), max(seconds)
        row = max(0.0, (seconds[many] - seconds[few]) / (many - few)) if many > few else 0.0
        return cls(max(0.0, seconds[few] - few * row), row)

    def of(self, rows: int, *, runs: int = 1) -> float:
        """Seconds that `rows` take in so many runs."""
        return self.slower * (runs * self.run_s + rows * self.row_s)

    def learn(self, rows: int, seconds: float) -> None:
        """Take in what a run really took: other work on the machine makes every run slower."""
        expected = self.run_s + rows * self.row_s
        if expected > 0.0:
            self.slower += LEARNED * (min(seconds / expected, OUTLIER * self.slower) - self.slower)


class Turn:
    """How long the turn of the event loop has lasted, counted from the first request that was seen in it.

    A turn reads from every connection that has something to say. What it has not come to when the time is over that a
    request may wait is refused: looking at that as well would make all the others late. After a long turn the next one
    has half of that: what it reads has waited for the whole of the long one. A pause of the machine is no long turn.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = self._most = seconds
        self._began = 0.0
        self.last = 0.0
        """Seconds of the last turn that read a request."""

    def over(self, patience: float = 1.0) -> bool:
        """Whether this turn has taken in all that it can answer in time; `patience`: in so many times that time."""
        if self._began:
            return perf_counter() - self._began > self._most * patience
        self._began = perf_counter()
        asyncio.get_running_loop().call_soon(self._end)
        return False

    def _end(self) -> None:
        self.last = perf_counter() - self._began
        long = self.last > self._seconds * USED
        self._most = self._seconds * (USED if long else 1.0)
        self._began = 0.0


class Admission:
    """The bound of one version's queue."""

    def __init__(
        self, settings: QueueSettings, turn: Turn, refused: Callable[[str], Counter], *, patience: float = 1.0
    ) -> None:
        self.seconds = settings.seconds
        self._patience = patience
        self._most = settings.max_requests
        self._turn = turn
        self._refused = {reason: refused(reason) for reason in _MESSAGES}

    def check(self, waiting: int, wait_s: float) -> None:
        """Let a request in that finds `waiting` others and would be started after about `wait_s` seconds.

        Raises:
            Overloaded: the queue is full, or the request could not be answered in time.
        """
        if waiting >= self._most:
            raise self.refusal("queue_full", wait_s)
        if wait_s > self.seconds * USED or self._turn.over(self._patience):
            raise self.refusal("deadline", wait_s)

    def room(self, waiting: int, wait_s: float) -> bool:
        """Whether `check` would let a request in, as far as the queue goes; nothing is counted."""
        return waiting < self._most and wait_s <= self.seconds * USED

    @property
    def turn_s(self) -> float:
        """Seconds of the loop's last turn that read a request."""
        return self._turn.last

    def refusal(self, reason: str, wait_s: float) -> Overloaded:
        """A refusal, counted."""
        self._refused[reason].inc()
        error = Overloaded(_MESSAGES[reason], where="queue", hint="try again after Retry-After")
        error.retry_after_s = wait_s
        return error
