"""The spool: one SQLite file per serve worker, where events wait on disk for the lake.

A spool is written by one process. It holds an advisory lock on `<boot>.lock` for as long as it lives, so the
shipper can tell a live spool from one whose process is gone. What is not committed yet lies in a journal that outlives
the process (`monitoring.intake.journal`). Loss is counted, never silent: a sequence number that is missing from the
lake was counted in `SpoolStats.lost`, counted by `monitoring.intake.recovery`, or answered with an error.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from time import time
from types import TracebackType
from typing import Any

import msgspec

from monitoring.intake import entries
from monitoring.intake.blocks import Answered
from monitoring.intake.entries import Entry
from monitoring.intake.events import Event
from monitoring.intake.ids import uuid7
from monitoring.intake.journal import SEGMENT_BYTES, Journal, Kind
from monitoring.intake.losses import Claims
from monitoring.intake.pseudonyms import Digest, plain
from monitoring.intake.spool_file import SUFFIX, connect, create
from registry.errors import StoreUnavailable

__all__ = ["SUFFIX", "Spool", "SpoolStats", "connect"]

MAX_BACKLOG = 200_000
"""Events kept in memory while the disk refuses them (about 100 MB with 20 features)."""
_GROUP = 10_000
"""Most events in one transaction: bounds how long a durable append waits behind predictions."""
_PREDICTION_SHARE = 0.95
"""Share of `max_bytes` predictions may fill; the rest is kept for feedback."""

_log = logging.getLogger("perene.monitoring.spool")


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """Where a spool stands: bytes on disk, events in memory, and how many were stored, lost and refused.

    `unjournaled` events found no room in the journal: they were at risk until their commit.
    """

    bytes: int
    pending: int
    stored: int
    lost: dict[str, int]
    refused: int
    unjournaled: int


class Spool:
    """Appends events in memory at once and commits them in groups from one background thread."""

    def __init__(
        self,
        path: Path,
        *,
        boot: str,
        lock: int,
        commit_interval_s: float,
        max_bytes: int,
        journal_bytes: int,
        digest: Digest,
    ) -> None:
        self.boot = boot
        self.path = path
        self._lock_file = lock
        self._interval = commit_interval_s
        self._max_bytes = max_bytes
        self._digest = digest
        self._connection: sqlite3.Connection | None = connect(path)
        self._mutex = threading.Lock()
        self._queue: deque[Entry] = deque()
        self._next = 1
        self._pending = 0
        self._bytes = 0
        self._stored = 0
        self._refused = 0
        self._unjournaled = 0
        self._taken = 0
        self._claims = Claims(path.parent)
        self._turned_down = 0
        """Events that had a number and were refused all the same."""
        self._lost: Counter[str] = Counter()
        self._contracts: deque[tuple[str, int, bytes]] = deque()
        self._wake = threading.Event()
        self._journal = Journal.create(path, size=journal_bytes, crowded=self._wake.set)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="perene-spool", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        commit_interval_s: float = 0.1,
        max_bytes: int = 1 << 30,
        journal_bytes: int = SEGMENT_BYTES,
        digest: Digest = plain,
    ) -> Spool:
        """Start a new spool file in the folder `path`.

        Args:
            path: the spool folder, shared by all workers of a machine; made when missing.
            commit_interval_s: longest time an event waits in memory.
            max_bytes: size of this worker's file above which predictions are counted as lost.
            journal_bytes: size of each of the journal's two files; with 0, events in memory die with the process.
            digest: makes pseudonyms of entities and of hashed columns.

        Raises:
            StoreUnavailable: the folder cannot be written.
        """
        boot = uuid7()
        file = path / f"{boot}{SUFFIX}"
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = os.open(file.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            create(file)
            return cls(
                file,
                boot=boot,
                lock=lock,
                commit_interval_s=commit_interval_s,
                max_bytes=max_bytes,
                journal_bytes=journal_bytes,
                digest=digest,
            )
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(
                "the event spool cannot be opened", where=str(path), hint="make the folder writable, free some space"
            ) from error

    def register(self, model: str, version: int, contract: dict[str, Any]) -> None:
        """Keep the contract of a version beside its events; call it before the first of them is appended."""
        body = msgspec.json.encode(contract)
        with self._mutex:
            self._contracts.append((model, version, body))
            self._journal.write(Kind.CONTRACT, 0, 0, msgspec.msgpack.encode((model, version, body)))

    def append(self, events: Answered | Sequence[Event]) -> None:
        """Take events, without waiting and without raising; what cannot be kept is counted as lost."""
        count = len(events)
        record = entries.record(events, self._digest) if self._journal.takes else None
        with self._mutex:
            first = self._next
            self._next = first + count
            reason = self._obstacle(_PREDICTION_SHARE)
            if reason:
                self._lost[reason] += count
                self._journal.note(self._next)
                return
            entry = Entry(first, events, None)
            if record is None:
                record = self._as_block(entry)
            if record is not None and self._journal.write(record[0], first, count, record[1]):
                entry.journaled = True
            else:
                self._journal.note(self._next)
                self._unjournaled += count
            self._queue.append(entry)
            self._pending += count

    def _as_block(self, entry: Entry) -> tuple[Kind, bytes] | None:
        """The record of many rows that came by columns is the very row of the file that they become."""
        if self._journal.takes:
            entry.body = entries.block(entry.first, entry.events, self._digest)
        return None if entry.body is None else (Kind.BLOCK, entry.body)

    def append_durable(self, events: Answered | Sequence[Event]) -> Future[None]:
        """Take events that must not be lost; the future resolves once they are synced to disk.

        The future fails with StoreUnavailable when the spool is full, closed or its disk refuses the write.
        """
        done: Future[None] = Future()
        answered = isinstance(events, Answered)
        kept = events if isinstance(events, Answered) else tuple(events)
        with self._mutex:
            reason = self._obstacle(_PREDICTION_SHARE if answered else 1.0)
            if not reason:
                self._queue.append(Entry(self._next, kept, done))
                self._journal.write(Kind.DURABLE, self._next, len(kept), b"")
                self._next += len(kept)
                self._pending += len(kept)
        if reason:
            self._refuse(done, len(kept), StoreUnavailable(f"the event spool does not accept events: {reason}"))
        self._wake.set()
        return done

    def stats(self) -> SpoolStats:
        """A consistent picture of the counters."""
        with self._mutex:
            counts = dict(self._lost)
            return SpoolStats(self._bytes, self._pending, self._stored, counts, self._refused, self._unjournaled)

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
            if crashed := self._claims.take():
                with self._mutex:
                    self._lost["crash"] += crashed
            if closing:
                break
        self._give_up()

    def _take(self) -> list[Entry]:
        """The next group; only this thread takes, so beyond the change of segments appends never wait for it."""
        with self._mutex:
            newest = self._queue[-1] if self._queue else None
            self._journal.turn(newest.first + len(newest.events) - 1 if newest else self._taken)
        taken: list[Entry] = []
        count = 0
        while self._queue and count < _GROUP:
            taken.append(self._queue.popleft())
            count += len(taken[-1].events)
        if taken:
            self._taken = max(self._taken, taken[-1].first + len(taken[-1].events) - 1)
        return taken

    def _commit_group(self) -> bool:
        """Commit one group; true when there was one and it is on disk."""
        taken = self._take()
        if not taken and not self._contracts:
            self._measure()
            return False
        kept = taken
        try:
            connection, known = self._file()
            rows, fresh = self._encode([entry for entry in taken if entry.first > known])
            kept = [entry for entry in taken if entry.first <= known] + fresh
            count = sum(len(entry.events) for entry in kept)
            self._write(connection, rows, count)
        except (sqlite3.Error, OSError) as error:
            self._put_back(kept, error)
            return False
        self._journal.settle(self._taken)
        with self._mutex:
            self._stored += count
            self._pending -= count
        for entry in kept:
            if entry.done is not None and entry.done.set_running_or_notify_cancel():
                entry.done.set_result(None)
        self._measure()
        return bool(taken)

    def _encode(self, taken: list[Entry]) -> tuple[list[tuple[int, float, bytes]], list[Entry]]:
        """Rows to store and the entries they came from; an entry that cannot be written is dropped and counted."""
        rows: list[tuple[int, float, bytes]] = []
        kept: list[Entry] = []
        stored = time()
        for together in entries.alike(taken):
            try:
                rows += [(seq, stored, body) for seq, body in entries.rows(together, self._digest)]
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

    def _drop(self, entry: Entry, error: Exception) -> None:
        with self._mutex:
            self._pending -= len(entry.events)
            if entry.done is None:
                self._lost["invalid"] += len(entry.events)
        if entry.done is not None:
            self._turned_down += len(entry.events)
            self._refuse(entry.done, len(entry.events), error)

    def _file(self) -> tuple[sqlite3.Connection, int]:
        """The file, and up to where it has everything: after trouble, a commit that was said to fail may be there."""
        if self._connection is not None:
            return self._connection, 0
        connection = connect(self.path)
        try:
            known: int = connection.execute("SELECT high FROM mark").fetchone()[0]
        except sqlite3.Error:
            connection.close()
            raise
        self._connection = connection
        return connection, known

    def _write(self, connection: sqlite3.Connection, rows: list[tuple[int, float, bytes]], count: int) -> None:
        """One transaction: contracts that are new, events, and how far this goes; on disk when it returns."""
        contracts = list(self._contracts)
        with self._mutex:
            mark = (self._taken, self._stored + count, self._turned_down, self._lost.total() - self._lost["crash"])
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR IGNORE INTO contracts VALUES (?, ?, ?)", contracts)
            connection.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)
            connection.execute("UPDATE mark SET high = ?, stored = ?, refused = ?, lost = ?", mark)
            connection.execute("COMMIT")
        except sqlite3.Error:
            # What the cache of a connection holds after a failed sync is not to be trusted: start from the file.
            connection.close()
            self._connection = None
            raise
        for _ in contracts:
            self._contracts.popleft()

    def _put_back(self, kept: list[Entry], error: Exception) -> None:
        """After a failed commit: durable appends are refused, the others wait for the next attempt, in order."""
        _log.error("spool.commit_failed", extra={"spool": self.path.name, "cause": str(error)})
        again = [entry for entry in kept if entry.done is None]
        refused = [(entry.done, len(entry.events)) for entry in kept if entry.done is not None]
        with self._mutex:
            self._queue.extendleft(reversed(again))
            self._pending -= sum(count for _, count in refused)
        self._turned_down += sum(count for _, count in refused)
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
        """On close: what the disk still refuses stays in the journal; what is not there is lost, and counted."""
        with self._mutex:
            left = list(self._queue)
            self._queue.clear()
            self._pending = 0
            self._lost["disk"] += sum(len(e.events) for e in left if e.done is None and not e.journaled)
            self._lost += Counter()  # drops zero counts
            self._journal.close(remove=not left)
        for entry in left:
            if entry.done is not None:
                self._refuse(entry.done, len(entry.events), StoreUnavailable("the event spool was closed"))
        if self._connection is not None:
            self._connection.close()
            self._connection = None
