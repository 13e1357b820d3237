"""Reports as the leader makes them: a child at a time, never waited for, each report once.

Which reports there are is in the ledger, so a worker that was killed, or another one, goes on where this one was.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from monitoring.alerting.metrics import WorkerMetrics
from monitoring.settings import MonitoringSettings
from monitoring.watching.findings import ALARMS
from registry.ledger import Ledger
from registry.private import addresses, write_private
from retrain.places import Places
from retrain.process import Child
from retrain.reports.report_spec import BUSY, EMPTY, EVIDENCE, LEASE_LOST, Kind, Spec

__all__ = ["Reports", "Task", "period"]

SECONDS: Final = 600.0
ATTEMPTS: Final = 3
PAUSE_S: Final = 30.0
"""Between two attempts; the second pause is twice as long."""
RECALLED: Final = 500
"""Newest findings among which alarms without a report are looked for when a worker begins."""
_log = logging.getLogger("perene.retrain")


@dataclass(frozen=True, slots=True)
class Task:
    """A report to make; bounds in event time."""

    kind: Kind
    key: str
    model: str
    version: int
    low: datetime | None = None
    high: datetime | None = None
    finding: int | None = None
    settings: MonitoringSettings = field(default_factory=MonitoringSettings)


@dataclass
class Reports:
    """A short queue of reports to make; the oldest gives way when it is full."""

    places: Places
    ledger: Ledger
    metrics: WorkerMetrics
    _queue: deque[Task] = field(default_factory=lambda: deque(maxlen=200), init=False)
    _known: dict[str, set[str]] = field(default_factory=dict, init=False)
    _failed: dict[tuple[str, str], int] = field(default_factory=dict, init=False)
    _not_before: float = field(default=0.0, init=False)
    _now: tuple[Task, Child] | None = field(default=None, init=False)

    def look(self, model: str, version: int, settings: MonitoringSettings, now: datetime | None) -> None:
        """Queue what is due by the model's clock, and once what a killed worker left."""
        if model not in self._known:
            rows = self.ledger.evidence(model, EVIDENCE, limit=4 * RECALLED)
            self._known[model] = {str(row.body.get("key")) for row in rows}
            self._recall(model, version, settings)
        if now is None:
            return
        if settings.daily_report:
            self._add(Task("daily", *period("daily", now, model, version), settings=settings))
        if settings.performance_report != "off":
            found = period(settings.performance_report, now, model, version)
            self._add(Task("performance", f"performance-{found[0]}", *found[1:], settings=settings))

    def ask(self, model: str, finding: int, version: int, at: datetime, settings: MonitoringSettings) -> None:
        """Queue a report on a finding."""
        self._add(Task("finding", f"finding-{finding}", model, version, None, at, finding, settings))

    def _recall(self, model: str, version: int, settings: MonitoringSettings) -> None:
        """Alarms about this version that no worker came to report on, oldest first; those with a report are known."""
        for row in reversed(self.ledger.evidence(model, "finding", limit=RECALLED)):
            at = datetime.fromisoformat(row.body["at"])
            if row.body["state"] in ALARMS and row.body["detail"].get("version") == version:
                self.ask(model, row.id, version, at, settings)

    def _add(self, task: Task) -> None:
        known = self._known.setdefault(task.model, set())
        if task.key not in known:
            known.add(task.key)
            self._queue.append(task)

    def tend(self, *, quiet: bool, token: int) -> None:
        """Look after the report at work, or begin the next when nothing more urgent needs the cores."""
        if self._now is not None:
            task, child = self._now
            status = child.poll()
            if status is None:
                return
            self._now = None
            self._conclude(task, status)
        if not self._queue or not quiet or time.monotonic() < self._not_before:
            return
        task = self._queue.popleft()
        self._now = task, self._begin(task, token)

    def _begin(self, task: Task, token: int) -> Child:
        tried = self._failed.get((task.model, task.key), 0)
        spec = Spec(
            kind=task.kind,
            key=task.key,
            model=task.model,
            version=task.version,
            home=str(self.places.home),
            bundle=str(self.places.bundle(task.model, task.version)),
            lake_url=self.places.lake_url,
            low=micros(task.low),
            high=micros(task.high),
            finding=task.finding,
            settings=task.settings.model_dump(mode="json"),
            last=tried + 1 >= ATTEMPTS,
            token=token,
            parent=os.getpid(),
        )
        self._spec.parent.mkdir(parents=True, exist_ok=True)
        path = self._spec
        write_private(path, msgspec.json.encode(spec))
        secrets = addresses(self.places.ledger, self.places.tracking)
        log = self.places.home / "logs" / "reports.txt"
        return Child.start(["retrain.reports.report_run", str(path)], log=log, seconds=SECONDS, secrets=secrets)

    @property
    def _spec(self) -> Path:
        """This worker's own: another's child may not have read its spec yet. No model's name begins with a dot."""
        return self.places.home / "reports" / f".spec-{os.getpid()}.json"

    def _conclude(self, task: Task, status: int) -> None:
        self._spec.unlink(missing_ok=True)
        key = (task.model, task.key)
        if status in (BUSY, LEASE_LOST):
            self._queue.append(task)
            self._not_before = time.monotonic() + 1.0
            return
        if status not in (0, EMPTY):
            self._failed[key] = tried = self._failed.get(key, 0) + 1
            if tried < ATTEMPTS:
                self._queue.append(task)
                self._not_before = time.monotonic() + PAUSE_S * tried
                return
            _log.warning(
                "report.failed: exit status %d; its log is logs/reports.txt", status,
                extra={"model": task.model, "report": task.key},
            )  # fmt: skip
        self._failed.pop(key, None)
        result = {0: "made", EMPTY: "empty"}.get(status, "failed")
        self.metrics.reports_total.labels(task.kind, result).inc()

    def stop(self) -> None:
        """Kill a report on its way, and forget what is queued: the ledger knows what there is."""
        if self._now is not None:
            self._now[1].stop()
            self._spec.unlink(missing_ok=True)
            self._now = None
        self._queue.clear()
        self._known.clear()


def period(every: str, now: datetime, model: str, version: int) -> tuple[str, str, int, datetime, datetime]:
    """Key, model, version and bounds of the last day, or week from Monday to Sunday, that is over.

    >>> found = period("weekly", datetime(2026, 11, 21, tzinfo=UTC), "m", 1)
    >>> found[0], found[3].date().isoformat(), found[4].date().isoformat()
    ('weekly-2026-11-09', '2026-11-09', '2026-11-16')
    """
    today: date = now.astimezone(UTC).date()
    days = 7 if every == "weekly" else 1
    end = today - timedelta(days=today.weekday()) if every == "weekly" else today
    low, high = (datetime(d.year, d.month, d.day, tzinfo=UTC) for d in (end - timedelta(days=days), end))
    return f"{every}-{low.date().isoformat()}", model, version, low, high


def micros(moment: datetime | None) -> int | None:
    """A time in microseconds since 1970."""
    return None if moment is None else int(moment.timestamp() * 1_000_000)
