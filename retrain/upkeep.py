"""Upkeep of the event lake as the leader carries it out: a child at a time, never waited for."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from monitoring.alerting.metrics import WorkerMetrics
from monitoring.lake.upkeep_run import Job, Result, Spec
from registry.private import write_private
from retrain.places import Places
from retrain.process import Child

__all__ = ["Upkeep"]

SECONDS = 900.0
"""A round that takes as long is killed, which loses nothing; it ends by itself long before, at the next merge."""
FIRST_S = 60.0
"""The first round begins after this: what has just started has more urgent things to do."""
BUSY = 75
_log = logging.getLogger("perene.retrain")


@dataclass
class Upkeep:
    """Starts a round when one is due and counts what the last one did."""

    places: Places
    metrics: WorkerMetrics
    every_s: float
    _child: Child | None = field(default=None, init=False)
    _due: float = field(init=False)

    def __post_init__(self) -> None:
        self._due = time.monotonic() + min(self.every_s, FIRST_S)

    def tend(self, jobs: Callable[[], Sequence[Job]], *, quiet: bool) -> None:
        """Look after the round at work, or begin the next; `jobs` is asked only then."""
        if self._child is not None:
            status = self._child.poll()
            if status is None:
                return
            self._child = None
            self._conclude(status)
        if time.monotonic() < self._due or not quiet:
            return
        self._due = time.monotonic() + self.every_s
        self._begin(list(jobs()))

    def _begin(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        folder = self._folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").unlink(missing_ok=True)
        spec = Spec(str(self.places.lake), str(folder / "lock"), jobs, parent=os.getpid())
        write_private(folder / "spec.json", msgspec.json.encode(spec))
        arguments = ["monitoring.lake.upkeep_run", str(folder / "spec.json"), str(folder / "result.json")]
        self._child = Child.start(arguments, log=folder / "log.txt", seconds=SECONDS)

    def _conclude(self, status: int) -> None:
        path = self._folder / "result.json"
        if status == BUSY:
            return
        if status != 0 or not path.is_file():
            self.metrics.lake_upkeep_failures_total.inc()
            _log.warning("upkeep.failed: exit status %d; its log is %s", status, self._folder / "log.txt")
            return
        result = msgspec.json.decode(path.read_bytes(), type=Result)
        for model, files in result.merged.items():
            self.metrics.lake_files_merged_total.labels(model).inc(files)
        for model, kinds in result.expired.items():
            for kind, rows in kinds.items():
                self.metrics.lake_events_expired_total.labels(model, kind).inc(rows)
        if result.expired:
            _log.info(
                "upkeep.expired", extra={"events": {m: sum(kinds.values()) for m, kinds in result.expired.items()}}
            )
        if result.left:
            self._due = time.monotonic()
        self.metrics.lake_upkeep_last_success_timestamp_seconds.set(time.time())

    @property
    def _folder(self) -> Path:
        return self.places.home / "upkeep"

    def stop(self) -> None:
        """Kill a round on its way."""
        if self._child is not None:
            self._child.stop()
            self._child = None
