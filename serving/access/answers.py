"""Answers kept under idempotency keys, in one SQLite file."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from registry.errors import StoreUnavailable
from serving.access.alive import alive

DAY_S: Final = 86_400.0
MOST: Final = 10_000
MOST_BYTES: Final = 64 << 20
MOST_OF_ONE: Final = 4 << 20
"""A larger answer is not kept: its repeat is answered anew."""
_TIDY_EVERY: Final = 512
_TIDY_BYTES: Final = 16 << 20
"""Answers, or bytes of them, after which the old ones are looked for: that reads the whole table."""
REST_S: Final = 1.0
"""After a failure the file is left alone for so long: who waits behind one that took seconds is refused at once."""
_DAMAGED: Final = frozenset((sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT))
_TABLE: Final = """CREATE TABLE IF NOT EXISTS answers (
    caller TEXT, key TEXT, digest BLOB, at REAL, holder TEXT, headers TEXT, body BLOB, PRIMARY KEY (caller, key)
) WITHOUT ROWID"""
_TIDY: Final = """DELETE FROM answers WHERE (caller, key) IN (SELECT caller, key FROM (
    SELECT caller, key, at, row_number() OVER newest AS place, sum(length(body)) OVER newest AS bytes
    FROM answers WHERE body IS NOT NULL WINDOW newest AS (ORDER BY at DESC, caller, key)
) WHERE at < ? OR place > ? OR bytes > ?)"""


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer: its headers and its body."""

    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Busy:
    """The request with this key is being answered."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The key came with another request."""


class Answers:
    """The file, as one process uses it: opened when it is first needed, and anew after a failure. Threads share it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._rest_until = 0.0
        self._kept = self._bytes = 0
        self._me = alive(os.getpid())
        self._under_way: set[tuple[str, str]] = set()
        self._ended: set[tuple[str, str]] = set()
        """Requests whose end could not be written: their rows still say that they are under way."""

    def begin(self, caller: str, key: str, digest: bytes, now: float) -> Answer | Busy | Conflict | None:
        """What is known of the key; None: nothing, and the request is this caller's to answer, until `end`.

        Raises:
            StoreUnavailable: the file cannot be read or written.
        """
        with self._changing() as database:
            row = database.execute(
                "SELECT digest, at, holder, headers, body FROM answers WHERE caller = ? AND key = ?", (caller, key)
            ).fetchone()
            if row is not None and self._holds((caller, key), row[1], row[2], now):
                if row[0] != digest:
                    return Conflict()
                return Answer(json.loads(row[3]), row[4]) if row[4] is not None else Busy()
            database.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, '', NULL)", (caller, key, digest, now, self._me)
            )
            self._under_way.add((caller, key))
        return None

    def end(self, caller: str, key: str, answer: Answer | None, now: float) -> None:
        """Keep the answer; None: there is no good one, and a repeat is to be answered anew.

        Raises:
            StoreUnavailable: the file cannot be written.
        """
        try:
            with self._changing() as database:
                self._end(database, caller, key, answer, now)
        except StoreUnavailable:
            with self._lock:
                self._ended.add((caller, key))
            raise
        finally:
            self._under_way.discard((caller, key))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._disconnect()

    def _end(self, database: sqlite3.Connection, caller: str, key: str, answer: Answer | None, now: float) -> None:
        if answer is None or len(answer.body) > MOST_OF_ONE:
            database.execute("DELETE FROM answers WHERE caller = ? AND key = ?", (caller, key))
            return
        database.execute(
            "UPDATE answers SET at = ?, holder = '', headers = ?, body = ? WHERE caller = ? AND key = ?",
            (now, json.dumps(dict(answer.headers)), answer.body, caller, key),
        )
        self._kept += 1
        self._bytes += len(answer.body)
        if self._kept >= _TIDY_EVERY or self._bytes >= _TIDY_BYTES:
            self._kept = self._bytes = 0
            database.execute(_TIDY, (now - DAY_S, MOST, MOST_BYTES))

    def _opened(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            return self._connected()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in _DAMAGED:  # as of one that is locked, or of a full disk
                raise
        # no database any more: what it kept is lost, which is no more than a repeat
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(f"{self._path.name}{suffix}").unlink(missing_ok=True)
        return self._connected()

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _connected(self) -> sqlite3.Connection:
        # autocommit: transactions are ours
        database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=2.0)
        try:
            os.chmod(self._path, 0o600)
            database.execute("PRAGMA journal_mode = WAL")
            # a machine that stops loses some; a process that is killed loses none
            database.execute("PRAGMA synchronous = OFF")
            database.execute(_TABLE)
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _holds(self, request: tuple[str, str], at: float, holder: str, now: float) -> bool:
        """Whether a row still counts: a kept answer for a day, one under way as long as its process lives."""
        if not holder:
            return now - at < DAY_S
        if holder == self._me:
            return request in self._under_way
        return alive(int(holder.partition(".")[0])) == holder

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if time.monotonic() < self._rest_until:
                raise _unavailable()
            try:
                database = self._database = self._database or self._opened()
                database.execute("BEGIN IMMEDIATE")
                try:
                    ended = [(*request, self._me) for request in self._ended]
                    database.executemany("DELETE FROM answers WHERE caller = ? AND key = ? AND holder = ?", ended)
                    yield database
                except BaseException:
                    if database.in_transaction:  # a full disk has ended it already
                        database.execute("ROLLBACK")
                    raise
                database.execute("COMMIT")
                self._ended.clear()
            except (OSError, sqlite3.Error) as error:
                # what a connection holds after a failure is not to be trusted: start from the file
                self._disconnect()
                self._rest_until = time.monotonic() + REST_S
                raise _unavailable() from error


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable(
        "the answers kept under idempotency keys cannot be reached",
        where="Idempotency-Key",
        hint="send the request without the header, or see the disk of the server's home",
    )
