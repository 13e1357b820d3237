"""One model's monitor, fed from the lake; its state and the clock of the model live in one row of the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monitoring.lake.consumed import Consumed
from monitoring.lake.lake import Key, Lake
from monitoring.lake.lake_tables import TIME, Kind
from monitoring.reading import unmatched
from monitoring.reading.tables import arrivals
from monitoring.settings import MonitoringSettings
from monitoring.watching.findings import Finding
from monitoring.watching.maturity import facts
from monitoring.watching.monitor import Monitor
from monitoring.watching.state import MonitorState
from registry.bundle import Bundle
from registry.errors import ConfigInvalid, StoreUnavailable
from registry.ledger import Ledger

__all__ = ["Watch", "label_facts", "saved_snapshot"]

WATCHED: tuple[Kind, ...] = ("prediction", "label")
#: Lake files folded in one tick at most, so that a long backlog does not delay the lease or another model.
FILES_PER_TICK = 64
#: The event clock is this quantile of the latest events' times: a few strays do not move it.
RECENT = 101
QUANTILE = 0.9
#: Newest findings that those of a turn are compared with: more than a turn that a crash cut off can have made.
RECORDED = 1_000
#: Seconds between looks for given-up labels in the lake, for each hour that labels are parked.
SWEEP_S = 60.0
#: Events further ahead of the clock than this are strays: logged in the lake, no part of any window.
STRAY = timedelta(days=30)


class _Saved(msgspec.Struct):
    monitor: bytes = b""
    version: int = 0
    recent: list[float] = []
    started: float = 0.0
    labels: int = 0
    unmatched: int = 0
    looked: float = 0.0
    label_at: float = 0.0


def label_facts(ledger: Ledger, model: str) -> dict[str, Any] | None:
    """How long labels take, what is parked and what was given up, as of the worker's last turn; None before it."""
    body = ledger.load_state(f"worker:{model}")
    saved = msgspec.msgpack.decode(body, type=_Saved) if body else _Saved()
    if not saved.monitor:
        return None
    try:
        book = msgspec.msgpack.decode(saved.monitor, type=MonitorState).book
    except msgspec.DecodeError:  # of another version of Perene
        return None
    parked = len(book.orphans) + len(book.given_up)
    return {**facts(book.maturity, book.watermark), "parked": parked, "unmatched": saved.unmatched}


def saved_snapshot(ledger: Ledger, model: str, champion: Bundle, settings: MonitoringSettings) -> dict[str, Any]:
    """What the monitor of this champion knew at the worker's last turn; empty when there is none of it."""
    body = ledger.load_state(f"worker:{model}")
    saved = msgspec.msgpack.decode(body, type=_Saved) if body else _Saved()
    try:
        return Monitor.restore(saved.monitor, champion.contract, champion.reference, settings).snapshot()
    except ConfigInvalid:  # none yet, of another champion, or of another version of Perene
        return {}


@dataclass
class Watch:
    """Events in, findings out. A deterministic fold: after a crash the same files give the same findings again."""

    model: str
    ledger: Ledger
    lake: Lake
    settings: MonitoringSettings
    monitor: Monitor | None = field(default=None, init=False)
    saved: Consumed | None = field(default=None, init=False)
    """The files that are folded, as the ledger knows it: they may be merged or removed."""
    _saved: _Saved = field(default_factory=_Saved, init=False)
    _loaded: bool = field(default=False, init=False)

    @property
    def labels(self) -> int:
        """Labels seen so far."""
        return self._state().labels

    @property
    def unmatched(self) -> int:
        """Labels whose prediction did not come while they were parked, nor is in the lake."""
        return self._state().unmatched

    @property
    def label_at(self) -> float:
        """When the newest label was received, unix seconds; 0 before the first."""
        return self._state().label_at

    def now(self) -> datetime | None:
        """The model's event clock; None before the first event.

        Not the newest event: one request sent with today's date in the middle of a replay of 2013 would carry
        every cooldown and holdout of the model off with it.
        """
        recent = self._saved.recent
        return datetime.fromtimestamp(float(np.quantile(recent, QUANTILE)), UTC) if recent else None

    def started(self) -> datetime | None:
        """The first event time seen: where a schedule begins to count."""
        return datetime.fromtimestamp(self._saved.started, UTC) if self._saved.started else None

    def feed(self, champion: Bundle, version: int, *, token: int) -> list[Finding]:
        """Fold in the files that arrived; record findings, then the state, both under the leader's token."""
        monitor = self._monitor(champion, version)
        if self.saved is None and self._saved.version:
            self._save(token)  # what is left to the former champion must not grow when this turn, or the worker, fails
        listed = {kind: self.lake.files(self.model, kind) for kind in WATCHED}
        predictions, labels = (self._fresh(monitor, listed[kind]) for kind in WATCHED)
        if not predictions and not labels:
            return []
        monitor.settle_consumed(name for files in listed.values() for name in self._names(files))
        made = self.lake.read(self.model, "prediction", files=predictions)
        known = self.lake.read(self.model, "label", files=labels)
        try:
            self._remember(made)
            made, known = self._in_stream(made), self._in_stream(known)
            findings = monitor.observe(made, known, all_made=len(predictions) < FILES_PER_TICK)
            monitor.mark_consumed(self._names([*predictions, *labels]))
            self._record(findings, token)
            self._clock(made, known)
            self._settle(monitor)
            self._save(token)
        except BaseException:  # a detector failed, or the ledger is away: what is half folded in is begun anew
            self.monitor, self._loaded = None, False
            raise
        return findings

    def _state(self) -> _Saved:
        """What the ledger keeps of this model, read once."""
        if not self._loaded:
            body = self.ledger.load_state(f"worker:{self.model}")
            self._saved = msgspec.msgpack.decode(body, type=_Saved) if body else _Saved()
            self._loaded = True
        return self._saved

    def _monitor(self, champion: Bundle, version: int) -> Monitor:
        self._state()
        if self.monitor is not None and self.monitor.version == version:
            return self.monitor
        if self._saved.version == version and self._saved.monitor:
            try:
                self.monitor = Monitor.restore(
                    self._saved.monitor, champion.contract, champion.reference, self.settings
                )
                self.saved = self.monitor.consumed
                return self.monitor
            except ConfigInvalid:
                self._saved.monitor = b""  # another format or reference: begin anew
        first = self._saved.version == 0
        self.monitor = Monitor.start(self.model, version, champion.contract, champion.reference, self.settings)
        if not first:  # what came before belongs to the former champion's watch
            self.monitor.inherit(self._saved.monitor)
            files = [*self.lake.files(self.model, "prediction"), *self.lake.files(self.model, "label")]
            self.monitor.mark_consumed(self._names(files))
        self.saved = None
        return self.monitor

    def _fresh(self, monitor: Monitor, files: list[Key]) -> list[Key]:
        seen = monitor.consumed
        return list(islice((file for file in files if self._name(file) not in seen), FILES_PER_TICK))

    def _name(self, file: Key) -> str:
        return "/".join(file.parts[-3:])  # kind=…/date=…/file: unique within the model

    def _names(self, files: list[Key]) -> list[str]:
        return [self._name(f) for f in files]

    def _record(self, findings: list[Finding], token: int) -> None:
        """Append those that were not recorded before a crash that lost the state after them."""
        if not findings:
            return
        known = [row.body for row in self.ledger.evidence(self.model, "finding", limit=len(findings) + RECORDED)]
        for body in (finding.to_dict() for finding in findings):
            if body not in known:
                self.ledger.record_evidence(self.model, "finding", body, token=token)

    def _remember(self, made: pa.Table) -> None:
        """Keep the times of the latest events, in the order in which they were received."""
        times = made.sort_by([("_received", "ascending"), ("_seq", "ascending")]).column("_at").cast(pa.int64())
        self._saved.recent = [*self._saved.recent, *(micros / 1e6 for micros in times.to_pylist())][-RECENT:]

    def _in_stream(self, table: pa.Table) -> pa.Table:
        now = self.now()
        return table if now is None else table.filter(pc.less(table.column("_at"), pa.scalar(now + STRAY, TIME)))

    def _clock(self, made: pa.Table, known: pa.Table) -> None:
        if made.num_rows:
            first = pc.min(made.column("_at").cast(pa.int64())).as_py() / 1e6
            self._saved.started = min(self._saved.started, first) if self._saved.started else first
        self._saved.labels += int(known.num_rows)
        if known.num_rows:
            self._saved.label_at = max(self._saved.label_at, float(arrivals(known).max()))

    def _settle(self, monitor: Monitor) -> None:
        """Look for the predictions of labels that were given up: most answered another version, or long ago.

        The lake is read for it, so not at every turn; what cannot be read now is looked for later.
        """
        ids = monitor.given_up
        full = len(ids) >= self.settings.max_pending / 2
        if not ids or (monitor.received - self._saved.looked < self.settings.park_hours * SWEEP_S and not full):
            return
        try:
            there = unmatched.known(self.lake, self.model, ids)
        except (OSError, pa.ArrowException, StoreUnavailable):
            return
        self._saved.looked = monitor.received
        self._saved.unmatched += len(set(ids) - there) + monitor.settled(frozenset(ids))

    def _save(self, token: int) -> None:
        if self.monitor is None:
            return
        self._saved.monitor, self._saved.version = self.monitor.state(), self.monitor.version
        self.ledger.save_state(f"worker:{self.model}", msgspec.msgpack.encode(self._saved), token=token)
        self.saved = self.monitor.consumed

    def snapshot(self) -> dict[str, Any]:
        """Facts for gauges and triggers; empty before the first feed."""
        return self.monitor.snapshot() if self.monitor is not None else {}
