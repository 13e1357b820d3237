"""A queue with a thread: while the engine runs, requests gather; when it is done, all of them go as the next batch."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from time import perf_counter
from typing import Final

from registry.errors import PereneError
from serving.errors import Overloaded
from serving.queues.admission import Admission
from serving.queues.runner import Item, Outcome, Runner, tell

SWITCH_S: Final = 5e-4
"""For `sys.setswitchinterval`: an engine's thread that has an answer waits so long for the interpreter while the loop
has work. Python's five milliseconds are longer than most runs, and there are several such waits in each."""
SLOWER: Final = 4.0
"""A run may take so many times what runs took, before it counts as one that hangs."""


class EngineQueue:
    """Requests of one version that wait for its engine. Filled from one event loop, emptied by one thread.

    The thread is made for the first request, and ends when nobody holds the queue and nothing is in it any more.
    """

    def __init__(self, runner: Runner, admission: Admission, name: str) -> None:
        self._runner = runner
        self._admission = admission
        self._name = name
        self._lock = threading.Lock()
        self._waiting: deque[Item] = deque()
        self._rows = 0
        self._until = 0.0
        self._due = math.inf
        self.busy = False
        self._threads: ThreadPoolExecutor | None = None

    @property
    def requests(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def wait_s(self) -> float:
        """Seconds after which a new request would be started, as far as measured runs tell."""
        if not self.busy:
            return 0.0
        runs = ceil(self._rows / self._runner.most_rows) if self._runner.together else len(self._waiting)
        return max(0.0, self._until - perf_counter()) + self._runner.cost.of(self._rows, runs=runs)

    def overrun_s(self) -> float:
        """Seconds by which the run that is under way takes longer than it may."""
        return max(0.0, perf_counter() - self._due)

    def put(self, item: Item) -> None:
        """Wait for the engine; what comes in the same turn of the loop can still go along."""
        with self._lock:
            self._waiting.append(item)
            self._rows += len(item.rows)
            idle, self.busy = not self.busy, True
        if idle:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._start, loop)

    def close(self) -> None:
        """Let the thread go; a run that has begun is finished, what waits is dropped."""
        with self._lock:
            self._waiting.clear()
            self._rows = 0
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, self._name)
        with contextlib.suppress(RuntimeError):  # closed meanwhile: nobody waits
            self._threads.submit(self._serve, loop)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run whatever waits, until nothing does."""
        while batch := self._next():
            items, bounded = batch
            began = perf_counter()
            dropped = [(item, error) for item in items if (error := self._dropped(item, began)) is not None]
            if dropped:
                gone = {id(item) for item, _ in dropped}
                items = [item for item in items if id(item) not in gone]
            outcomes: list[Outcome] = self._runner.run(items, bounded=bounded) if items else []
            ended = perf_counter()
            told = [*items, *(item for item, _ in dropped)]
            try:
                loop.call_soon_threadsafe(tell, told, [*outcomes, *(error for _, error in dropped)], began, ended)
            except RuntimeError:  # the loop is closed: nobody waits
                return

    def _next(self) -> tuple[list[Item], bool] | None:
        with self._lock:
            if not self._waiting:
                self.busy = False
                self._due = math.inf
                return None
            items = self._runner.take(self._waiting)
            rows = sum(len(item.rows) for item in items)
            self._rows -= rows
            now, expected = perf_counter(), self._runner.cost.of(rows)
            self._until, self._due = now + expected, now + SLOWER * expected
            return items, bool(self._waiting)

    def _dropped(self, item: Item, now: float) -> PereneError | None:
        """Why a request is not run: nobody waits for it, or it has waited for longer than it may.

        A request may wait as long as its own rows take, where that is longer: large ones wait for large ones.
        """
        if item.gone():
            return Overloaded("nobody waits for this request", where="queue")
        waited = now - item.arrived
        if waited > max(self._admission.seconds, self._runner.cost.of(len(item.rows))):
            return self._admission.refusal("deadline", waited)
        return None
