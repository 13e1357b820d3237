"""The SQLite file of a spool: its tables, and how it is opened."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["SUFFIX", "connect", "create", "locked"]

SUFFIX = ".spool"
_SCHEMA = """
PRAGMA journal_mode = WAL;
BEGIN;
-- a row is one event, or a block of them under the number of its first
CREATE TABLE events (seq INTEGER PRIMARY KEY, stored REAL NOT NULL, body BLOB NOT NULL);
CREATE TABLE contracts (model TEXT, version INTEGER, body BLOB NOT NULL, PRIMARY KEY (model, version));
CREATE TABLE ranges (first INTEGER PRIMARY KEY, last INTEGER NOT NULL);
-- every number up to `high` is stored, lost or refused; the others count all events so far
CREATE TABLE mark (high INTEGER NOT NULL, stored INTEGER NOT NULL, refused INTEGER NOT NULL, lost INTEGER NOT NULL);
INSERT INTO mark VALUES (0, 0, 0, 0);
COMMIT;
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open an existing spool file; every commit is synced to disk, and what is deleted is wiped."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=10, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON").fetchone()
    return connection


def create(path: Path) -> None:
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


@contextmanager
def locked(path: Path, flags: int = 0) -> Iterator[bool]:
    """Try to hold the advisory lock of a file; yields whether it is ours. A dead holder holds nothing."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    except FileNotFoundError:
        yield True
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
