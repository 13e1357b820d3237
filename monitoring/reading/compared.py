"""Rows to lay side by side: a model's first answers with its champion, and those of a window or the newest.

What the log hashes or drops is not read. Rows are read in slices, and never more are kept than are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from monitoring.lake.lake import Lake
from monitoring.lake.lake_tables import unify
from monitoring.reading.recorded import Recorded
from registry.contract import Contract

__all__ = ["LEAST", "ROWS", "Compared", "Window", "compared"]

ROWS: Final = 5_000
"""Rows on each side at most."""
LEAST: Final = ROWS // 10
"""Rows on each side below which nothing is compared."""
SCANNED: Final = 1_000_000
"""Rows among which the champion's first answers are looked for."""


@dataclass(frozen=True, slots=True)
class Window:
    """Bounds in event time, microseconds since 1970; without `low` the newest rows before `high`."""

    low: int | None
    high: int | None


@dataclass(frozen=True, slots=True)
class Compared:
    """Two tables of the columns that the log keeps, with `_at`; either may be empty."""

    reference: pa.Table
    current: pa.Table

    @property
    def enough(self) -> bool:
        """Whether both sides have rows that say something."""
        return bool(min(self.reference.num_rows, self.current.num_rows) >= LEAST)


def compared(
    lake: Lake, model: str, contract: Contract, version: int, window: Window, *, accepted: str | None = None
) -> Compared:
    """Read both sides.

    Args:
        lake: where events lie.
        model: name of the model.
        contract: whose stored columns are read.
        version: the champion: the reference are its first answers, where there are enough of them.
        window: the rows in question.
        accepted: end of the champion's own reference (ISO time): its answers are not looked for before it.
    """
    columns = [c.name for c in contract.columns if c.policy == "store"] + ["_version"]
    start = _micros(accepted)

    def before(low: int | None) -> pa.Table:
        first = None if low is not None and start is not None and start >= low else start
        return _earliest(Recorded(lake, model, low=first, high=low, columns=columns), version)

    if window.low is not None:
        current = _spread(Recorded(lake, model, low=window.low, high=window.high, columns=columns))
        return Compared(before(window.low), current)
    current = _newest(lake, model, columns, window.high, start)
    found = Compared(before(_first(current)), current)
    if not found.enough:  # a young model: halves of what there is
        rows = (found.reference.num_rows + current.num_rows) // 2
        current = current.slice(max(current.num_rows - rows, 0))
        found = Compared(before(_first(current)), current)
    return found


def _earliest(recorded: Recorded, version: int) -> pa.Table:
    """The first rows, of the version where it has enough."""
    own: list[pa.Table] = []
    all_of: list[pa.Table] = []
    seen = 0
    for table in recorded.slices():
        seen += table.num_rows
        if _rows(all_of) < ROWS:
            all_of.append(table.slice(0, ROWS))
        mine = table.filter(pc.equal(table.column("_version"), version))
        own.append(mine.slice(0, ROWS))
        if _rows(own) >= ROWS or seen >= SCANNED:
            break
    return _first_rows(own if _rows(own) >= LEAST else all_of)


def _newest(lake: Lake, model: str, columns: list[str], high: int | None, start: int | None) -> pa.Table:
    """The last rows before `high`; at most half of all, so that something is left to compare them with."""
    whole = Recorded(lake, model, low=start, high=high, columns=columns)
    if start is not None and whole.most() < 2 * LEAST:
        whole = Recorded(lake, model, low=None, high=high, columns=columns)
    wanted = min(ROWS, whole.most() // 2)
    files = whole.files()
    held, first = 0, None
    for key in reversed(files):
        held += lake.rows(key)
        first = key
        if held >= 2 * wanted:
            break
    if first is None or not wanted:
        return pa.table({})
    day = _micros(first.parent.name.removeprefix("date="))
    kept: list[pa.Table] = []
    for table in Recorded(lake, model, low=day, high=high, columns=columns).slices():
        kept.append(table)
        while _rows(kept[1:]) >= wanted:
            kept.pop(0)
    found = _whole(kept)
    return found.slice(max(found.num_rows - wanted, 0))


def _spread(recorded: Recorded) -> pa.Table:
    """Rows of the whole window, evenly spread."""
    step, kept, passed = max(-(-recorded.most() // ROWS), 1), [], 0
    for table in recorded.slices():
        places = range(-passed % step, table.num_rows, step)
        passed += table.num_rows
        kept.append(table.take(pa.array(places, pa.int64())))
    return _first_rows(kept)


def _first_rows(tables: list[pa.Table]) -> pa.Table:
    # a slice of a table without columns says that it has rows
    return _whole(tables).slice(0, min(ROWS, _rows(tables)))


def _whole(tables: list[pa.Table]) -> pa.Table:
    return unify(tables) if tables else pa.table({})


def _rows(tables: list[pa.Table]) -> int:
    return sum(table.num_rows for table in tables)


def _first(table: pa.Table) -> int | None:
    return int(pc.min(table.column("_at").cast(pa.int64())).as_py()) if table.num_rows else None


def _micros(text: str | None) -> int | None:
    """An ISO time, of UTC where it does not say, in microseconds since 1970; None where it is none."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    aware = found if found.tzinfo else found.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1_000_000)
