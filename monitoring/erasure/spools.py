"""Taking rows out of the spools of a home, beside living writers, while the shipper is held off.

A row of a spool is changed in place: numbers that other rows have stay theirs, and those of erased rows are missing
afterwards, which the receipt counts. What SQLite would leave behind in free pages and in its log is overwritten.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from monitoring.erasure.wanted import Wanted, identifiers, without
from monitoring.intake.blocks import Block, decode
from monitoring.intake.events import encoder
from monitoring.intake.journal import SUFFIXES, Kind, Record, read_segment
from monitoring.intake.recovery import recover
from monitoring.intake.spool_file import SUFFIX, connect, locked
from registry.errors import StoreUnavailable

__all__ = [
    "Found",
    "alive",
    "held",
    "ids_within",
    "is_id",
    "journals_clear",
    "names_model",
    "scrub",
    "settle",
    "spool_files",
    "spool_hits",
    "take_out",
]

WAIT_S = 60.0
"""How long the shipper may take to let go: one round, also towards a store that does not answer."""
_BUSY_S = 10.0
_FEW = 64
"""So many ids are faster to look for one by one."""
_ID_TEXT = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ID = re.compile(rf"(?=({_ID_TEXT.pattern}))".encode())
"""Looked for at every place: ids of a column lie one behind the other."""


@dataclass(frozen=True, slots=True)
class Found:
    """Rows of one file that are to go: how many, and what names just these rows."""

    rows: int
    key: str
    first: float = 0.0
    """When the earliest of them was received, unix seconds."""


@contextmanager
def held(lock: Path, who: str, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold a lock that a process of ours works under, so that it waits.

    Raises:
        StoreUnavailable: it does not let go in time.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"{who} does not pause", where=str(lock), hint="run the command again: it goes on where it was"
                    ) from None
                time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def spool_files(folder: Path) -> list[Path]:
    """The spools of a home."""
    return sorted(folder.rglob(f"*{SUFFIX}")) if folder.is_dir() else []


def names_model(path: Path, model: str) -> bool:
    """Whether a spool has ever had events of a model."""
    with closing(connect(path)) as db:
        return db.execute("SELECT 1 FROM contracts WHERE model = ?", (model,)).fetchone() is not None


def alive(path: Path) -> bool:
    """Whether somebody writes to a spool."""
    with locked(path.with_suffix(".lock")) as dead:
        return not dead


def settle(path: Path) -> None:
    """Bring what only the journal of a dead spool holds into the spool, where it can be found."""
    with locked(path.with_suffix(".lock")) as dead:
        if dead:
            recover(path)


def spool_hits(path: Path, wanted: Wanted) -> tuple[set[str], Found | None]:
    """Ids of the predictions that are to go, and what is to go of this spool."""
    ids: set[str] = set()
    rows, first, named = 0, float("inf"), hashlib.sha256()
    with closing(connect(path)) as db:
        for seq, body in db.execute("SELECT seq, body FROM events ORDER BY seq"):
            event = decode(body)
            hits = wanted.rows(event)
            ids.update(identifiers(event, hits))
            rows += len(hits)
            named.update(f"{seq}:{hits};".encode() if hits else b"")
            if hits:
                received = min(event.received) if isinstance(event, Block) else event.received
                first = min(first, received)
    return ids, Found(rows, named.hexdigest(), first) if rows else None


def take_out(path: Path, wanted: Wanted) -> int:
    """Take rows out of a spool, all or none; returns how many."""
    taken = 0
    encode = encoder().encode
    with closing(connect(path)) as db:
        db.execute("PRAGMA secure_delete = ON")
        db.execute("BEGIN IMMEDIATE")
        try:
            for seq, body in db.execute("SELECT seq, body FROM events ORDER BY seq").fetchall():
                event = decode(body)
                hits = wanted.rows(event)
                if not hits:
                    continue
                taken += len(hits)
                left = without(event, hits) if isinstance(event, Block) else None
                if left is None:
                    db.execute("DELETE FROM events WHERE seq = ?", (seq,))
                else:
                    db.execute("UPDATE events SET body = ? WHERE seq = ?", (encode(left), seq))
            db.execute("COMMIT")
        except (sqlite3.Error, msgspec.MsgspecError):
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    return taken


def scrub(path: Path) -> None:
    """Leave nothing of what was deleted in an SQLite file: not in free pages, not in its log.

    Raises:
        StoreUnavailable: somebody reads or writes it without a pause.
    """
    deadline = time.monotonic() + _BUSY_S
    with closing(sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)) as db:
        db.execute("PRAGMA secure_delete = ON")
        while True:
            try:
                if db.execute("PRAGMA freelist_count").fetchone()[0]:
                    db.execute("VACUUM")
                if db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0:
                    return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    "a file is in use without a pause, so its log cannot be emptied",
                    where=path.name,
                    hint="run the command again: it goes on where it was",
                )
            time.sleep(0.02)


def journals_clear(folder: Path, wanted: Wanted, *, wait_s: float = _BUSY_S) -> bool:
    """Whether no journal holds rows that are to go; a living writer wipes its own a moment after each commit."""
    deadline = time.monotonic() + wait_s
    while any(_journal_holds(path, wanted) for path in _journals(folder)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _journals(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in SUFFIXES] if folder.is_dir() else []


def _journal_holds(path: Path, wanted: Wanted) -> bool:
    try:
        if ids_within(path.read_bytes().rstrip(b"\0"), wanted.ids):
            return True
        records, _ = read_segment(path)
    except FileNotFoundError:  # its writer ended
        return False
    # single events are labels, which the ids above find
    return any(_theirs(record, wanted) for record in records)


def _theirs(record: Record, wanted: Wanted) -> bool:
    if record.kind is Kind.BLOCK:
        return bool(wanted.rows(decode(record.payload)))
    if record.kind is not Kind.ANSWERED:
        return False
    model, _, _, _, received, entity, *_ = msgspec.msgpack.decode(record.payload)
    return bool(model == wanted.model and wanted.theirs(entity, received))


def is_id(text: str) -> bool:
    """Whether this can be the id of a prediction."""
    return _ID_TEXT.fullmatch(text) is not None


def ids_within(data: bytes, ids: frozenset[str]) -> set[str]:
    """Which of these ids bytes hold, wherever."""
    if len(ids) <= _FEW:
        return {i for i in ids if i.encode() in data}
    return {found[1].decode() for found in _ID.finditer(data)} & ids
