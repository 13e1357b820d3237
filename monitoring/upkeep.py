"""Upkeep of the lake: many small files of a day become few, and days that are over their time go.

Killed at any moment nothing is lost: the new file is there before the old ones go, and readers take a row that lies
in both once, by (boot, seq). What a reader of bare Parquet sees twice in between, it sees for a moment.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from monitoring.lake import Key, Lake
from monitoring.lake_tables import Kind

__all__ = ["Merge", "carry_out", "expired", "merges"]

MERGED = "merged-"
MOST_ROWS = 500_000
"""Rows of one merged file: bounds the memory of a merge."""
LEAST_FILES = 4
"""Fewer files of a day are not worth writing again."""
KINDS: tuple[Kind, ...] = ("prediction", "shadow", "label")


@dataclass(frozen=True, slots=True)
class Merge:
    """Files of one day, kind and version that are to become one."""

    model: str
    kind: Kind
    files: tuple[Key, ...]

    @property
    def into(self) -> Key:
        """The file that takes their place; its name depends on theirs alone, so a repeat writes the same file."""
        digest = hashlib.sha256("\n".join(file.name for file in self.files).encode()).hexdigest()[:16]
        return self.files[0].parent / f"{MERGED}{digest}{_version(self.files[0])}.parquet"


def merges(
    model: str, kind: Kind, files: Collection[Key], *, before: date, rows: Callable[[Key], int]
) -> Iterator[Merge]:
    """What is to be merged: files of days before `before`, as far as they fit into `MOST_ROWS` together.

    Args:
        model: name of the model.
        kind: what the files hold.
        files: those that nobody is still to read for the first time.
        before: the first day that is left alone: files may still arrive for it.
        rows: rows of a file.
    """
    days: dict[tuple[Key, str], list[Key]] = defaultdict(list)
    for file in sorted(files):
        if _day(file) < before:
            days[file.parent, _version(file)].append(file)
    for group in days.values():
        for part in _parts(group, rows):
            if len(part) >= LEAST_FILES:
                yield Merge(model, kind, tuple(part))


def carry_out(lake: Lake, merge: Merge, *, between: Callable[[Key], None] = lambda _: None) -> Key:
    """Write the merged file, tell whoever keeps track of files, and only then remove the old ones.

    Args:
        lake: where the files lie.
        merge: what is to be done.
        between: called with the new file while both are there; what it raises leaves both.
    """
    lake.merge(merge.model, merge.kind, merge.files, merge.into)
    between(merge.into)
    for file in merge.files:
        lake.storage.remove(file)
    return merge.into


def expired(files: Collection[Key], *, keep: timedelta, today: date) -> list[Key]:
    """Files of days that are older than `keep`, by the time of their events.

    >>> files = [Key(f"model=m/kind=label/date=2026-01-{day}/a.parquet") for day in ("01", "31")]
    >>> expired(files, keep=timedelta(days=30), today=date(2026, 2, 1)) == files[:1]
    True
    """
    return [file for file in sorted(files) if _day(file) < today - keep]


def _parts(files: Sequence[Key], rows: Callable[[Key], int]) -> Iterator[list[Key]]:
    part: list[Key] = []
    held = 0
    for file in files:
        size = rows(file)
        if part and held + size > MOST_ROWS:
            yield part
            part, held = [], 0
        part.append(file)
        held += size
    if part:
        yield part


def _day(file: Key) -> date:
    return date.fromisoformat(file.parent.name.removeprefix("date="))


def _version(file: Key) -> str:
    found = re.search(r"-v\d+(?=\.parquet$)", file.name)
    return found[0] if found else ""
