"""The nightly test of the gates as the leader carries it out: a child when nothing else runs, never waited for."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from monitoring.alerting.metrics import WorkerMetrics
from registry.ledger import Ledger
from registry.private import write_private
from retrain.gates.self_test_run import Result, Spec
from retrain.places import Places
from retrain.process import Child
from retrain.settings import RetrainSettings

__all__ = ["EVIDENCE", "SelfTests"]

EVIDENCE: Final = "gate_self_test"
SECONDS: Final = 600.0
FIRST_S: Final = 300.0
"""A worker that has just started has more urgent things to do."""
AGAIN_S: Final = 3_600.0
"""Before a test that broke is tried again."""
_log = logging.getLogger("perene.retrain")


@dataclass
class SelfTests:
    """Tests the gates of each model that is retrained, a day after the last time; the ledger knows when that was."""

    places: Places
    ledger: Ledger
    metrics: WorkerMetrics
    _asked: dict[str, Spec] = field(default_factory=dict, init=False)
    _every: dict[str, float] = field(default_factory=dict, init=False)
    _due: dict[str, float] = field(default_factory=dict, init=False)
    _now: tuple[Spec, Child] | None = field(default=None, init=False)
    _started: float = field(default_factory=time.monotonic, init=False)

    def look(self, model: str, version: int, settings: RetrainSettings, now: datetime) -> None:
        """Take note of a model; `now` is by its own clock, and decides which holdout is its newest."""
        if settings.gates.self_test_hours <= 0:
            self._asked.pop(model, None)
            return
        self._every[model] = settings.gates.self_test_hours * 3_600
        self._asked[model] = Spec(
            model=model,
            version=version,
            home=str(self.places.home),
            lake_url=self.places.lake_url,
            now=now,
            settings=settings.model_dump(mode="json"),
            seed=int(time.time()) // 86_400,
        )
        if model not in self._due:
            self._due[model] = self._started + FIRST_S
            self._recall(model)

    def _recall(self, model: str) -> None:
        """What the last test found, and how long the next has time."""
        rows = self.ledger.evidence(model, EVIDENCE, limit=60)
        told = next((row.body["result"] for row in rows if row.body["result"] != "not told"), "right")
        self.metrics.gate_blind.labels(model).set(told == "blind")
        if rows:
            left = timedelta(seconds=self._every[model]) - (datetime.now(UTC) - _aware(rows[0].at))
            self._due[model] = max(self._due[model], time.monotonic() + left.total_seconds())

    def tend(self, *, quiet: bool, token: int) -> None:
        """Look after the test at work, or begin one that is due when nothing else needs the cores."""
        if self._now is not None:
            spec, child = self._now
            status = child.poll()
            if status is None:
                return
            self._now = None
            self._conclude(spec, status, token)
        if not quiet:
            return
        ready = [model for model, due in self._due.items() if due <= time.monotonic() and model in self._asked]
        if ready:
            self._begin(self._asked[min(ready, key=self._due.__getitem__)])

    def _begin(self, spec: Spec) -> None:
        folder = self._folder(spec.model)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").unlink(missing_ok=True)
        write_private(folder / "spec.json", msgspec.json.encode(msgspec.structs.replace(spec, parent=os.getpid())))
        arguments = ["retrain.gates.self_test_run", str(folder / "spec.json")]
        self._now = spec, Child.start(arguments, log=folder / "log.txt", seconds=SECONDS)
        self._due[spec.model] = time.monotonic() + self._every[spec.model]

    def _conclude(self, spec: Spec, status: int, token: int) -> None:
        model, path = spec.model, self._folder(spec.model) / "result.json"
        if status != 0 or not path.is_file():
            self._due[model] = time.monotonic() + min(AGAIN_S, self._every[model])
            self.metrics.gate_self_tests_total.labels(model, "failed").inc()
            _log.warning("gates.self_test_failed: exit status %d", status, extra={"model": model})
            return
        found = msgspec.json.decode(path.read_bytes(), type=Result)
        body: dict[str, Any] = {
            "subject": EVIDENCE,
            "version": spec.version,
            "at": spec.now.isoformat(),
            "seed": spec.seed,
            **msgspec.to_builtins(found),
        }
        self.ledger.record_evidence(model, EVIDENCE, body, token=token)
        self.metrics.gate_self_tests_total.labels(model, found.result.replace(" ", "_")).inc()
        if found.result != "not told":  # what could not be tested again is still as it was found
            self.metrics.gate_blind.labels(model).set(found.result == "blind")
        if found.result == "blind":
            _log.error("gates.blind: %s", found.why, extra={"model": model})

    def _folder(self, model: str) -> Path:
        return self.places.home / "gates" / model

    def stop(self) -> None:
        """Kill a test on its way, and forget what is due: the ledger knows."""
        if self._now is not None:
            self._now[1].stop()
            self._now = None
        self._asked.clear()
        self._due.clear()


def _aware(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)
