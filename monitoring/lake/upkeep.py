"""Upkeep of the lake: many small files of a day become few, and days that are over their time go.

Killed at any moment nothing is lost: the new file is there before the old ones go, and readers take a row that lies
in both once, by (boot, seq). What a reader of bare Parquet sees twice in between goes with the next round: a merged
file says in its footer which spool ranges it holds.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from monitoring.lake.consumed import MERGED, spool_range, version_suffix, versions_of
from monitoring.lake.lake import Key, Lake, Range
from monitoring.lake.lake_tables import Kind

__all__ = ["KINDS", "Merge", "carry_out", "expired", "left_over", "merges"]

MOST_ROWS = 500_000
"""Rows of one merged file: bounds the memory of a merge."""
MOST_FILES = 1_000
"""Files of one merge: bounds its time."""
LEAST_FILES = 4
"""Fewer files of a day are not worth writing again."""
GROWING_FILES = 64
"""The same of a day that more files arrive for."""
KINDS: tuple[Kind, ...] = ("prediction", "shadow", "label", "outcome")


@dataclass(frozen=True, slots=True)
class Merge:
    """Files of one day, kind and set of versions that are to become one."""

    model: str
    kind: Kind
    files: tuple[Key, ...]
    rows: int

    @property
    def into(self) -> Key:
        """The file that takes their place; its name depends on theirs alone, so a repeat writes the same file."""
        digest = hashlib.sha256("\n".join(file.name for file in self.files).encode()).hexdigest()[:16]
        return self.files[0].parent / f"{MERGED}{digest}-{self.rows}{_version(self.files[0])}.parquet"


def merges(
    model: str, kind: Kind, files: Collection[Key], *, before: date, rows: Callable[[Key], int]
) -> Iterator[Merge]:
    """What is to be merged, as far as it fits into `MOST_ROWS` together.

    Args:
        model: name of the model.
        kind: what the files hold.
        files: those that nobody is still to read for the first time.
        before: the first day that files still arrive for: it takes more of them to be worth it.
        rows: rows of a file; not asked for a merged one, whose name says it.
    """
    days: dict[tuple[Key, str], list[Key]] = defaultdict(list)
    for file in sorted(files):
        days[file.parent, _version(file)].append(file)
    for (folder, _), group in days.items():
        least = LEAST_FILES if _day_of(folder) < before else GROWING_FILES
        if len(group) < least:
            continue
        for part, held in _parts(group, rows):
            if len(part) >= least:
                yield Merge(model, kind, tuple(part), held)


def carry_out(lake: Lake, merge: Merge, *, between: Callable[[Key], None] = lambda _: None) -> Key:
    """Write the merged file, and only then remove the old ones.

    Args:
        lake: where the files lie.
        merge: what is to be done.
        between: called with the new file, and before each old one goes; what it raises leaves the rest as it is.
    """
    held: list[Range] = []
    for file in merge.files:
        found = spool_range(file.name) if not _merged(file) else None
        held += lake.ranges(file) if found is None else [found]
    lake.merge(merge.model, merge.kind, merge.files, merge.into, ranges=_joined(held))
    for file in merge.files:
        between(merge.into)
        lake.storage.remove(file)
    return merge.into


def left_over(files: Collection[Key], ranges: Callable[[Key], Iterable[Range]]) -> list[Key]:
    """Files whose rows are in a merged one too: of an upkeep that was killed, or shipped again after a crash.

    Args:
        files: of one model and kind.
        ranges: what a merged file holds; asked only where there are others of its day and version.
    """
    days: dict[tuple[Key, str], list[Key]] = defaultdict(list)
    for file in sorted(files):
        days[file.parent, _version(file)].append(file)
    found = []
    for group in days.values():
        small = [(file, held) for file in group if not _merged(file) and (held := spool_range(file.name))]
        if not small or len(small) == len(group):
            continue
        safe = [held for file in group if _merged(file) for held in ranges(file)]
        found += [file for file, held in small if any(_inside(held, whole) for whole in safe)]
    return found


def expired(files: Collection[Key], *, keep: timedelta, today: date) -> list[Key]:
    """Files of days that are older than `keep`, by the time of their events.

    >>> files = [Key(f"model=m/kind=label/date=2026-01-{day}/a.parquet") for day in ("01", "31")]
    >>> expired(files, keep=timedelta(days=30), today=date(2026, 2, 1)) == files[:1]
    True
    """
    return [file for file in sorted(files) if _day_of(file.parent) < today - keep]


def _parts(files: Sequence[Key], rows: Callable[[Key], int]) -> Iterator[tuple[list[Key], int]]:
    """Files that fit together, in order, and their rows."""
    part: list[Key] = []
    held = 0
    for file in files:
        named = re.match(rf"{MERGED}[0-9a-f]+-(\d+)", file.name)
        size = int(named[1]) if named else rows(file)
        if part and (held + size > MOST_ROWS or len(part) == MOST_FILES):
            yield part, held
            part, held = [], 0
        part.append(file)
        held += size
    if part:
        yield part, held


def _joined(ranges: Iterable[Range]) -> list[Range]:
    """The same ranges, neighbours as one."""
    found: list[Range] = []
    for boot, first, last in sorted(ranges):
        if found and found[-1][0] == boot and found[-1][2] + 1 >= first:
            found[-1] = (boot, found[-1][1], max(last, found[-1][2]))
        else:
            found.append((boot, first, last))
    return found


def _inside(held: Range, whole: Range) -> bool:
    return held[0] == whole[0] and whole[1] <= held[1] and held[2] <= whole[2]


def _merged(file: Key) -> bool:
    return file.name.startswith(MERGED)


def _day_of(folder: Key) -> date:
    return date.fromisoformat(folder.name.removeprefix("date="))


def _version(file: Key) -> str:
    return version_suffix(versions_of(file.name))
