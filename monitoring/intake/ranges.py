"""The shipper's side of a spool file: choose a range, remember the choice, read it, delete it.

The chosen range is a row of the spool itself, committed before anything is written elsewhere. Rows are only ever
added behind the last one, so after a crash the same range holds the same rows and gives the same files.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

import msgspec

from monitoring.intake.spool import connect
from registry.contract import Contract

__all__ = ["Range", "SpoolReader"]

MAX_ROWS = 20_000
"""Most rows in one range: bounds the shipper's memory and how long its delete holds the write lock."""


@dataclass(frozen=True, slots=True)
class Range:
    """Sequence numbers first..last (both included) of one spool."""

    first: int
    last: int


class SpoolReader:
    """Reads and empties one spool file, whose writer may be alive in another process."""

    def __init__(self, path: Path) -> None:
        self.boot = path.stem
        self._db = connect(path)

    def seal(self, *, min_rows: int, max_age_s: float, now: float) -> Range | None:
        """The range to ship next: the one chosen before a crash, or a new one, or None when nothing is due.

        A range is due when about `min_rows` events wait or the oldest is older than `max_age_s` at `now` (unix
        seconds). Numbers are counted, not events: the newest block is one, and what was lost counts as well.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            chosen = self._chosen() or self._due(min_rows, max_age_s, now)
            if chosen is not None:
                self._db.execute("INSERT OR IGNORE INTO ranges VALUES (?, ?)", (chosen.first, chosen.last))
            self._db.execute("COMMIT")
        except sqlite3.Error:
            self._abandon()
            raise
        return chosen

    def _chosen(self) -> Range | None:
        row = self._db.execute("SELECT first, last FROM ranges ORDER BY first LIMIT 1").fetchone()
        return Range(*row) if row else None

    def _due(self, min_rows: int, max_age_s: float, now: float) -> Range | None:
        oldest = self._db.execute("SELECT seq, stored FROM events ORDER BY seq LIMIT 1").fetchone()
        if oldest is None:
            return None
        first, stored = oldest
        newest = self._db.execute("SELECT max(seq) FROM events").fetchone()[0]
        if now - stored < max_age_s and newest - first + 1 < min_rows:
            return None
        bound = (first + MAX_ROWS,)  # whole blocks: the last one may reach beyond
        return Range(first, self._db.execute("SELECT max(seq) FROM events WHERE seq < ?", bound).fetchone()[0])

    def rows(self, chosen: Range) -> list[tuple[int, bytes]]:
        """The rows of a range as (number of its first event, encoded event or block of them)."""
        query = "SELECT seq, body FROM events WHERE seq BETWEEN ? AND ? ORDER BY seq"
        return self._db.execute(query, (chosen.first, chosen.last)).fetchall()

    def contracts(self) -> dict[tuple[str, int], Contract]:
        """Contracts by (model, version) that the writer registered."""
        rows = self._db.execute("SELECT model, version, body FROM contracts ORDER BY model, version")
        return {(model, version): Contract.from_dict(msgspec.json.decode(body)) for model, version, body in rows}

    def delete(self, chosen: Range) -> None:
        """Forget a range whose files are safe in the lake: rows and choice in one transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.execute("DELETE FROM events WHERE seq BETWEEN ? AND ?", (chosen.first, chosen.last))
            self._db.execute("DELETE FROM ranges WHERE first = ?", (chosen.first,))
            self._db.execute("COMMIT")
        except sqlite3.Error:
            self._abandon()
            raise

    def _abandon(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def empty(self) -> bool:
        """Whether no event is left."""
        return self._db.execute("SELECT 1 FROM events LIMIT 1").fetchone() is None

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()
