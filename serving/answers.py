"""Answers kept under idempotency keys, in one SQLite file."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from registry.errors import StoreUnavailable

DAY_S: Final = 86_400.0
MOST: Final = 10_000
MOST_BYTES: Final = 64 << 20
MOST_OF_ONE: Final = 4 << 20
"""A larger answer is not kept: its repeat is answered anew."""
_TIDY_EVERY: Final = 512
_TIDY_BYTES: Final = 16 << 20
"""Answers, or bytes of them, after which the old ones are looked for: that reads the whole table."""
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
    """The file, opened by one process; for several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._kept = self._bytes = 0
        self._me = _alive(os.getpid())
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                self._database = self._connected()
            except sqlite3.DatabaseError:  # no database any more: what it kept is lost, which is no more than a repeat
                path.unlink(missing_ok=True)
                self._database = self._connected()
        except (OSError, sqlite3.Error) as error:
            raise _unavailable() from error

    def begin(self, caller: str, key: str, digest: bytes, now: float) -> Answer | Busy | Conflict | None:
        """What is known of the key; None: nothing, and the request is this caller's to answer, until `end`.

        Raises:
            StoreUnavailable: the file cannot be read or written.
        """
        with self._changing() as database:
            row = database.execute(
                "SELECT digest, at, holder, headers, body FROM answers WHERE caller = ? AND key = ?", (caller, key)
            ).fetchone()
            if row is not None and self._holds(row[1], row[2], now):
                if row[0] != digest:
                    return Conflict()
                return Answer(json.loads(row[3]), row[4]) if row[4] is not None else Busy()
            database.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, '', NULL)", (caller, key, digest, now, self._me)
            )
        return None

    def end(self, caller: str, key: str, answer: Answer | None, now: float) -> None:
        """Keep the answer; None: there is no good one, and a repeat is to be answered anew.

        Raises:
            StoreUnavailable: the file cannot be written.
        """
        with self._changing() as database:
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

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

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

    def _holds(self, at: float, holder: str, now: float) -> bool:
        """Whether a row still counts: a kept answer for a day, one under way as long as its process lives."""
        if not holder:
            return now - at < DAY_S
        return holder == self._me or _alive(int(holder.partition(".")[0])) == holder

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    yield self._database
                except BaseException:
                    self._database.execute("ROLLBACK")
                    raise
                self._database.execute("COMMIT")
            except sqlite3.Error as error:
                raise _unavailable() from error


def _alive(process: int) -> str:
    """A process by its number and the time of its start, for numbers come again; empty when there is none."""
    try:
        return f"{process}.{Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return f"{process}.0" if process == os.getpid() else ""


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable(
        "the answers kept under idempotency keys cannot be reached",
        where="Idempotency-Key",
        hint="send the request without the header, or see the disk of the server's home",
    )
