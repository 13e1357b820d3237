"""Taking rows out of the files of a lake: each is replaced by one without them, under the same name, or removed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monitoring.erasure.wanted import Wanted
from monitoring.lake.lake import Key, Lake
from monitoring.lake.lake_tables import Kind

__all__ = ["KINDS", "Change", "file_digest", "lake_hits", "rewrite"]

KINDS: tuple[Kind, ...] = ("prediction", "shadow", "label", "outcome")
_COLUMNS = ("_id", "_entity", "_received")
_LOOKS = 20


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one file: digests (sha256) before and after, none after when nothing is left of it."""

    kind: Kind
    file: str
    rows: int
    before: str
    after: str | None


def lake_hits(lake: Lake, wanted: Wanted, kind: Kind) -> Iterator[tuple[Key, pa.Table]]:
    """Files that hold rows that are to go, with id, entity and arrival of these rows.

    Files that appear or are merged meanwhile are looked at too: the reading ends once nothing new is listed.
    """
    seen: set[Key] = set()
    for _ in range(_LOOKS):
        fresh = [key for key in lake.files(wanted.model, kind) if key not in seen]
        if not fresh:
            return
        for key in fresh:
            seen.add(key)
            try:
                table = _narrow(lake, key)
            except FileNotFoundError:  # merged meanwhile, and what it was merged into is listed next
                continue
            hits = table.filter(wanted.hits(table))
            if hits.num_rows:
                yield key, hits


def rewrite(lake: Lake, wanted: Wanted, plan: Callable[[Change], None]) -> None:
    """Take the rows out of every file; whoever calls holds off upkeep.

    Args:
        lake: where the files lie.
        wanted: what is to go.
        plan: told of each change before it is made.
    """
    for kind in KINDS:
        for key, _ in list(lake_hits(lake, wanted, kind)):
            try:
                with lake.storage.read(key) as source:
                    data = source.read()
            except FileNotFoundError:  # another machine's upkeep: the next look finds what became of it
                continue
            table = pq.read_table(pa.BufferReader(data))
            hits = wanted.hits(table)
            left = table.filter(pc.invert(hits))
            made = lake.encoded(key, left) if left.num_rows else None
            gone = table.num_rows - left.num_rows
            plan(Change(kind, str(key), gone, _sha256(data), None if made is None else _sha256(made)))
            if made is None:
                lake.storage.remove(key)
            else:
                lake.storage.write(key, made)


def file_digest(lake: Lake, key: Key) -> str | None:
    """sha256 of a file; None when there is none."""
    try:
        with lake.storage.read(key) as source:
            return _sha256(source.read())
    except FileNotFoundError:
        return None


def _sha256(data: bytes | pa.Buffer) -> str:
    return hashlib.sha256(data).hexdigest()


def _narrow(lake: Lake, key: Key) -> pa.Table:
    with lake.storage.read(key) as source, pq.ParquetFile(source) as file:
        return file.read(columns=[name for name in file.schema_arrow.names if name in _COLUMNS])
