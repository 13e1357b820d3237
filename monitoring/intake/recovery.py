"""After a spool's process died: what only its journal holds comes into the spool, and what is missing is counted.

Whoever calls holds the lock of the spool. All of it is one transaction, and the journal goes after it: killed at any
moment, it begins again, and finds by the high-water mark what is stored already.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from time import time

import msgspec

from monitoring.intake import losses
from monitoring.intake.entries import restored
from monitoring.intake.journal import SUFFIXES, Kind, Record, read_segment
from monitoring.intake.spool_file import connect
from registry.contract import Contract

__all__ = ["Recovered", "recover"]

_log = logging.getLogger("perene.monitoring.recovery")


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found: events brought back, numbers without an event, and those among them that nobody was promised.

    `lost` are the numbers that the spool gave out and that are neither stored nor `refused`: appends that were
    durable and whose caller was told no, or had no answer yet. `uncounted` of them the dead process had not counted.
    """

    events: int
    lost: int
    uncounted: int
    refused: int


@dataclass(frozen=True, slots=True)
class _Mark:
    high: int
    stored: int
    refused: int
    lost: int


def recover(path: Path) -> Recovered | None:
    """Bring the journal of a dead spool into the spool and remove it; None where there is none.

    Raises:
        sqlite3.Error, OSError: the disk refuses; everything is as it was.
    """
    segments = [file for suffix in SUFFIXES if (file := path.with_suffix(suffix)).exists()]
    if not segments:
        return None
    read = [read_segment(file) for file in segments]
    records = sorted((r for found, _ in read for r in found), key=lambda r: r.first)
    with contextlib.closing(connect(path)) as db:
        found = _replay(db, path, records, max(noted for _, noted in read) - 1)
    for file in segments:
        file.unlink(missing_ok=True)
    _log.info("recovery.done", extra={"spool": path.name, "events": found.events, "lost": found.lost})
    return found


def _replay(db: sqlite3.Connection, path: Path, records: list[Record], noted: int) -> Recovered:
    db.execute("BEGIN IMMEDIATE")
    mark = _Mark(*db.execute("SELECT high, stored, refused, lost FROM mark").fetchone())
    fresh = [r for r in records if r.first > mark.high]
    contracts = [msgspec.msgpack.decode(r.payload, type=tuple[str, int, bytes]) for r in records if not r.first]
    db.executemany("INSERT OR IGNORE INTO contracts VALUES (?, ?, ?)", contracts)
    known = db.execute("SELECT model, version, body FROM contracts")
    rows, events = restored(fresh, {(m, v): Contract.from_dict(msgspec.json.decode(body)) for m, v, body in known})
    stored = time()
    db.executemany("INSERT INTO events VALUES (?, ?, ?)", [(number, stored, body) for number, body in rows])
    high = max([mark.high, noted, *(r.first + r.count - 1 for r in fresh)])
    refused = mark.refused + sum(r.count for r in fresh if r.kind is Kind.DURABLE)
    lost = high - mark.stored - events - refused
    found = Recovered(events, lost, lost - mark.lost, refused)
    if found.uncounted > 0:
        # before the commit: a repeat writes the same file again, while without it nobody would ever know
        losses.leave(path, found.uncounted)
    db.execute(
        "UPDATE mark SET high = ?, stored = ?, refused = ?, lost = ?", (high, mark.stored + events, refused, lost)
    )
    db.execute("COMMIT")
    return found
