"""The queue as the event loop of a serve process uses it: what waits for the disk does so in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from monitoring.alerting.metrics import ServeMetrics
from serving.jobs.job import STATES
from serving.jobs.queue import Queue, opened
from serving.settings import JobSettings

_P = ParamSpec("_P")
_T = TypeVar("_T")
UPLOADS = 4
"""Files that one process receives at once."""


class Desk:
    """Where jobs are handed in, asked about and counted."""

    def __init__(self, run: Path, settings: JobSettings, metrics: ServeMetrics) -> None:
        self.run = run
        self.settings = settings
        self.queue: Queue = opened(run, settings)
        self.uploads = asyncio.Semaphore(UPLOADS)
        self.woken = asyncio.Event()
        self.shared = Path(settings.folder).resolve()
        """The folder whose files jobs may name, where there is one."""
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, "jobs")
        self._seen: set[tuple[str, str]] = set()

    async def do(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Wait for something that the queue does."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **kwargs))

    async def count(self) -> None:
        """Take over what was counted, and look at how many jobs there are."""
        metrics = self._metrics
        for what, label, n in await self.do(self.queue.take_counts):
            if what == "attempts":
                metrics.job_attempts_total.labels(kind=label).inc(n)
            elif what == "ended":
                kind, _, state = label.partition(" ")
                metrics.jobs_ended_total.labels(kind=kind, state=state).inc(n)
            else:
                metrics.callbacks_total.labels(result=label).inc(n)
        found = await self.do(self.queue.tally)
        kinds = {kind for kind, _ in found} | {kind for kind, _ in self._seen}
        self._seen = set(found)
        for kind in kinds:
            for state in STATES:
                metrics.jobs.labels(kind=kind, state=state).set(found.get((kind, state), 0))

    def close(self) -> None:
        """Close the file."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self.queue.store.close()
