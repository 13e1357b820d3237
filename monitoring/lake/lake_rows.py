"""Rows of the lake that belong to some predictions, found without holding all others in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["about"]

AT_ONCE: Final = 1_000_000
"""Rows that are looked through together: each look begins by making a set of the ids."""


def about(tables: Iterable[pa.Table], ids: pa.Array) -> Iterator[pa.Table]:
    """Of each table the rows whose `_id` is among `ids`, in the order of the tables."""
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        held.append(table)
        rows += table.num_rows
        if rows >= AT_ONCE:
            yield from _chosen(held, ids)
            held, rows = [], 0
    yield from _chosen(held, ids)


def _chosen(tables: Sequence[pa.Table], ids: pa.Array) -> Iterator[pa.Table]:
    names = pa.chunked_array([chunk for table in tables for chunk in table.column("_id").chunks], pa.string())
    wanted = pc.is_in(names, value_set=ids)
    first = 0
    for table in tables:
        yield table.filter(wanted.slice(first, table.num_rows))
        first += table.num_rows
