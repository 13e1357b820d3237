"""The SQLite file that the processes of a machine share: what a transaction has written is on disk when it returns."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from registry.errors import PereneError, StoreUnavailable
from serving.errors import StorageFull

FILE: Final = "jobs.db"
_NO_ROOM: Final = frozenset((27, 28, 122))
"""EFBIG, ENOSPC, EDQUOT."""
_SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, kind TEXT, model TEXT, version INTEGER, key TEXT, state TEXT, attempts INTEGER, due REAL,
    holder TEXT, idempotency TEXT, fingerprint TEXT, size INTEGER, reached INTEGER, total INTEGER, rows INTEGER,
    rejected INTEGER, error BLOB, callback TEXT, created REAL, started REAL, ended REAL, asked BLOB, answer BLOB
)""",  # what may be long comes last, so that the rest is read without it
    "CREATE INDEX IF NOT EXISTS kept ON jobs (size)",
    "CREATE INDEX IF NOT EXISTS due ON jobs (state, kind, due)",
    "CREATE INDEX IF NOT EXISTS owner ON jobs (key, state)",
    "CREATE UNIQUE INDEX IF NOT EXISTS repeats ON jobs (key, idempotency) WHERE idempotency != ''",
    """CREATE TABLE IF NOT EXISTS deliveries (
    id TEXT PRIMARY KEY, job TEXT, url TEXT, body BLOB, state TEXT, attempts INTEGER, due REAL, error TEXT, created REAL
) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS to_send ON deliveries (state, due)",
    "CREATE TABLE IF NOT EXISTS counts (what TEXT, label TEXT, n INTEGER, PRIMARY KEY (what, label)) WITHOUT ROWID",
)
"""Queue, callbacks, and what was counted and not yet taken over by a process that exports it."""


class Store:
    """The file, as one process uses it: made when first written to, opened anew after a failure. Threads share it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def exists(self) -> bool:
        """Whether there ever was a job here."""
        return self._database is not None or self.path.exists()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction; when the block has ended, it is on disk.

        Raises:
            StorageFull: the disk has no room; nothing was written.
            StoreUnavailable: the file cannot be read or written.
        """
        with self._lock, self._safely() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:  # a full disk has ended it already
                    database.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The file as it is now.

        Raises:
            StoreUnavailable: it cannot be read.
        """
        with self._lock, self._safely() as database:
            yield database

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._disconnect()

    @contextmanager
    def _safely(self) -> Iterator[sqlite3.Connection]:
        try:
            self._database = self._database or self._connected()
            yield self._database
        except sqlite3.Error as error:
            self._disconnect()  # what a connection holds after a failure is not to be trusted
            raise _worded(full=getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL) from error
        except OSError as error:
            self._disconnect()
            raise _worded(full=error.errno in _NO_ROOM) from error

    def _connected(self) -> sqlite3.Connection:
        made = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # autocommit: transactions are ours
        database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5.0)
        try:
            os.chmod(self.path, 0o600)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA secure_delete = ON")  # rows of callers do not stay in free pages
            for statement in _SCHEMA:
                database.execute(statement)
        except (sqlite3.Error, OSError):
            database.close()
            raise
        if made:
            sync_folder(self.path.parent)
        return database

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def sync_folder(folder: Path) -> None:
    """Names in it outlast a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def no_room(error: OSError) -> bool:
    """Whether the disk, or what this process may write of it, is full."""
    return error.errno in _NO_ROOM


def storage_full() -> StorageFull:
    """The refusal of what there is no room for."""
    return StorageFull(
        "there is no room to keep this", where="body", hint="try again after Retry-After, or have room made"
    )


def _worded(*, full: bool) -> PereneError:
    if full:
        return storage_full()
    return StoreUnavailable(
        "the queue of jobs cannot be reached", where="jobs", hint="see the disk of the server's home"
    )
