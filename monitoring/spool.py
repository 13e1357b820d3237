"""The spool: one SQLite file per serve worker, where events wait on disk for the lake.

A spool is written by one process. It holds an advisory lock on `<boot>.lock` for as long as it lives, so the
shipper can tell a live spool from one whose process is gone. Loss is counted, never silent: a sequence number
that is missing from the lake was counted in `SpoolStats.lost` or answered with an error.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from time import time
from types import TracebackType
from typing import Any, cast

import msgspec

from monitoring.blocks import Answered, block_of_answers
from monitoring.events import Event, encoder
from monitoring.ids import uuid7
from registry.errors import StoreUnavailable

__all__ = ["SUFFIX", "Spool", "SpoolStats", "connect"]

SUFFIX = ".spool"
MAX_BACKLOG = 200_000
"""Events kept in memory while the disk refuses them (about 100 MB with 20 features)."""
_GROUP = 10_000
"""Most events in one transaction: bounds how long a durable append waits behind predictions."""
_PREDICTION_SHARE = 0.95
"""Share of `max_bytes` predictions may fill; the rest is kept for feedback."""

_SCHEMA = """
PRAGMA journal_mode = WAL;
BEGIN;
-- a row is one event, or a block of them under the number of its first
CREATE TABLE events (seq INTEGER PRIMARY KEY, stored REAL NOT NULL, body BLOB NOT NULL);
CREATE TABLE contracts (model TEXT, version INTEGER, body BLOB NOT NULL, PRIMARY KEY (model, version));
CREATE TABLE ranges (first INTEGER PRIMARY KEY, last INTEGER NOT NULL);
COMMIT;
"""

_log = logging.getLogger("perene.monitoring.spool")


def connect(path: Path) -> sqlite3.Connection:
    """Open an existing spool file; every commit is synced to disk before it returns."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=10, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _create(path: Path) -> None:
    """Make an empty spool appear complete or not at all: a shipper may look at any moment."""
    draft = path.with_suffix(".new")
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        connection.executescript(_SCHEMA)
    finally:
        connection.close()
    draft.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """Where a spool stands: bytes on disk, events in memory, and how many were stored, lost and refused."""

    bytes: int
    pending: int
    stored: int
    lost: dict[str, int]
    refused: int


class _Entry(msgspec.Struct, gc=False):
    """Events of one append, with consecutive sequence numbers; `done` is set for a durable one."""

    first: int
    events: Answered | Sequence[Event]
    done: Future[None] | None


class Spool:
    """Appends events in memory at once and commits them in groups from one background thread."""

    def __init__(self, path: Path, *, boot: str, lock: int, commit_interval_s: float, max_bytes: int) -> None:
        self.boot = boot
        self.path = path
        self._lock_file = lock
        self._interval = commit_interval_s
        self._max_bytes = max_bytes
        self._connection: sqlite3.Connection | None = connect(path)
        self._encoder = encoder()
        self._mutex = threading.Lock()
        self._queue: deque[_Entry] = deque()
        self._next = 1
        self._pending = 0
        self._bytes = 0
        self._stored = 0
        self._refused = 0
        self._lost: Counter[str] = Counter()
        self._contracts: deque[tuple[str, int, bytes]] = deque()
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="perene-spool", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, path: Path, *, commit_interval_s: float = 0.1, max_bytes: int = 1 << 30) -> Spool:
        """Start a new spool file in the folder `path`.

        Args:
            path: the spool folder, shared by all workers of a machine; made when missing.
            commit_interval_s: longest time an event waits in memory.
            max_bytes: size of this worker's file above which predictions are counted as lost.

        Raises:
            StoreUnavailable: the folder cannot be written.
        """
        boot = uuid7()
        file = path / f"{boot}{SUFFIX}"
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = os.open(file.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _create(file)
            return cls(file, boot=boot, lock=lock, commit_interval_s=commit_interval_s, max_bytes=max_bytes)
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(
                "the event spool cannot be opened", where=str(path), hint="make the folder writable, free some space"
            ) from error

    def register(self, model: str, version: int, contract: dict[str, Any]) -> None:
        """Keep the contract of a version beside its events; call it before the first of them is appended."""
        with self._mutex:
            self._contracts.append((model, version, msgspec.json.encode(contract)))

    def append(self, events: Answered | Sequence[Event]) -> None:
        """Take events, without waiting and without raising; what cannot be kept is counted as lost."""
        count = len(events)
        with self._mutex:
            first = self._next
            self._next = first + count
            reason = self._obstacle(_PREDICTION_SHARE)
            if reason:
                self._lost[reason] += count
                return
            self._queue.append(_Entry(first, events, None))
            self._pending += count

    def append_durable(self, events: Sequence[Event]) -> Future[None]:
        """Take events that must not be lost; the future resolves once they are synced to disk.

        The future fails with StoreUnavailable when the spool is full, closed or its disk refuses the write.
        """
        done: Future[None] = Future()
        kept = tuple(events)
        with self._mutex:
            reason = self._obstacle(1.0)
            if not reason:
                self._queue.append(_Entry(self._next, kept, done))
                self._next += len(kept)
                self._pending += len(kept)
        if reason:
            self._refuse(done, len(kept), StoreUnavailable(f"the event spool does not accept events: {reason}"))
        self._wake.set()
        return done

    def stats(self) -> SpoolStats:
        """A consistent picture of the counters."""
        with self._mutex:
            return SpoolStats(self._bytes, self._pending, self._stored, dict(self._lost), self._refused)

    def close(self) -> None:
        """Commit what is waiting and let the shipper have the file; later appends are counted as lost."""
        with self._mutex:
            self._closed = True
        self._wake.set()
        self._thread.join()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _obstacle(self, share: float) -> str:
        """Why an event cannot be taken now, or "" (the caller holds the mutex)."""
        if self._closed:
            return "closed"
        if self._bytes >= self._max_bytes * share:
            return "spool_full"
        return "backlog" if self._pending >= MAX_BACKLOG else ""

    def _refuse(self, done: Future[None], count: int, error: Exception) -> None:
        with self._mutex:
            self._refused += count
        if done.set_running_or_notify_cancel():
            done.set_exception(error)

    def _run(self) -> None:
        """Commit groups until closed; after a failed commit wait one interval and try again."""
        while True:
            self._wake.wait(self._interval)
            self._wake.clear()
            closing = self._closed
            while self._commit_group():
                pass
            if closing:
                break
        self._give_up()

    def _take(self) -> list[_Entry]:
        """The next group, without the mutex: only this thread takes, so appends never wait for it."""
        taken: list[_Entry] = []
        count = 0
        while self._queue and count < _GROUP:
            taken.append(self._queue.popleft())
            count += len(taken[-1].events)
        return taken

    def _commit_group(self) -> bool:
        """Commit one group; true when there was one and it is on disk."""
        taken = self._take()
        if not taken and not self._contracts:
            self._measure()
            return False
        rows, kept = self._encode(taken)
        try:
            self._write(rows)
        except (sqlite3.Error, OSError) as error:
            self._put_back(kept, error)
            return False
        count = sum(len(entry.events) for entry in kept)
        with self._mutex:
            self._stored += count
            self._pending -= count
        for entry in kept:
            if entry.done is not None and entry.done.set_running_or_notify_cancel():
                entry.done.set_result(None)
        self._measure()
        return bool(taken)

    def _encode(self, taken: list[_Entry]) -> tuple[list[tuple[int, float, bytes]], list[_Entry]]:
        """Rows to store and the entries they came from; an entry that cannot be written is dropped and counted."""
        rows: list[tuple[int, float, bytes]] = []
        kept: list[_Entry] = []
        stored = time()
        for together in _alike(taken):
            try:
                rows += [(seq, stored, body) for seq, body in self._encoded(together)]
            # any type may sit among features, and encoders raise what they like
            except Exception as error:
                if len(together) > 1:
                    alone = [self._encode([entry]) for entry in together]
                    rows += chain.from_iterable(made for made, _ in alone)
                    kept += chain.from_iterable(good for _, good in alone)
                else:
                    self._drop(together[0], error)
            else:
                kept += together
        return rows, kept

    def _encoded(self, entries: Sequence[_Entry]) -> list[tuple[int, bytes]]:
        """Entries that are alike, by the number of each row of the file."""
        answers = [entry.events for entry in entries if isinstance(entry.events, Answered)]
        if answers:
            block = block_of_answers([entry.first for entry in entries], answers)
            return [(entries[0].first, self._encoder.encode(block))]
        events = ((e.first + n, event) for e in entries for n, event in enumerate(cast("Sequence[Event]", e.events)))
        return [(number, self._encoder.encode(event)) for number, event in events]

    def _drop(self, entry: _Entry, error: Exception) -> None:
        with self._mutex:
            self._pending -= len(entry.events)
            if entry.done is None:
                self._lost["invalid"] += len(entry.events)
        if entry.done is not None:
            self._refuse(entry.done, len(entry.events), error)

    def _write(self, rows: list[tuple[int, float, bytes]]) -> None:
        """One transaction: contracts that are new, then events; on disk when it returns."""
        if self._connection is None:
            self._connection = connect(self.path)
        contracts = list(self._contracts)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR IGNORE INTO contracts VALUES (?, ?, ?)", contracts)
            self._connection.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            # What the cache of a connection holds after a failed sync is not to be trusted: start from the file.
            self._connection.close()
            self._connection = None
            raise
        for _ in contracts:
            self._contracts.popleft()

    def _put_back(self, kept: list[_Entry], error: Exception) -> None:
        """After a failed commit: durable appends are refused, the others wait for the next attempt, in order."""
        _log.error("spool.commit_failed", extra={"spool": self.path.name, "cause": str(error)})
        again = [entry for entry in kept if entry.done is None]
        refused = [(entry.done, len(entry.events)) for entry in kept if entry.done is not None]
        with self._mutex:
            self._queue.extendleft(reversed(again))
            self._pending -= sum(count for _, count in refused)
        for done, count in refused:
            self._refuse(done, count, StoreUnavailable("the event spool's disk refused the write"))

    def _measure(self) -> None:
        """Update the size: pages in use, not the file's length, since shipped pages are used again."""
        if self._connection is None:
            return
        try:
            pages = [
                self._connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            ]
        except sqlite3.Error:
            return  # the next commit meets the same trouble and reports it
        self._bytes = (pages[0] - pages[1]) * pages[2]

    def _give_up(self) -> None:
        """On close: what the disk still refuses is lost, and counted."""
        for entry in self._take_all():
            if entry.done is not None:
                self._refuse(entry.done, len(entry.events), StoreUnavailable("the event spool was closed"))
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _take_all(self) -> list[_Entry]:
        with self._mutex:
            left = list(self._queue)
            self._queue.clear()
            self._pending = 0
            self._lost["disk"] += sum(len(entry.events) for entry in left if entry.done is None)
            self._lost += Counter()  # drops zero counts
        return left


def _alike(entries: Iterable[_Entry]) -> list[list[_Entry]]:
    """Entries that become one block, in order; single events stay alone, and so do many rows that came by columns."""
    found: list[list[_Entry]] = []
    blocks: dict[tuple[str, int, bool], list[_Entry]] = {}
    for entry in entries:
        events = entry.events
        if not isinstance(events, Answered) or events.alone:
            found.append([entry])
            continue
        key = (events.contract.model, events.version, events.arm == "shadow")
        block = blocks.get(key)
        if block is None:
            block = blocks[key] = []
            found.append(block)
        block.append(entry)
    return found
