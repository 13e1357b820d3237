"""Named outcomes of predictions as columns: of several that were told of one name, the one received last counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["MOST_NAMES", "by_name", "counts", "most_frequent"]

MOST_NAMES: Final = 64
"""Columns that names become, the most frequent ones: names that a caller made of ids would be as many as its rows."""


def counts(table: pa.Table) -> dict[str, int]:
    """How often each name stands in rows of outcomes.

    >>> kind = pa.map_(pa.string(), pa.float64())
    >>> counts(pa.table({"_outcomes": pa.array([[("b", 1.0), ("a", 2.0)], [("a", 3.0)]], kind)}))
    {'b': 1, 'a': 2}
    """
    found = pc.value_counts(_pairs(table.column("_outcomes"))[0]).to_pylist()
    return {one["values"]: one["counts"] for one in found}


def most_frequent(counted: Mapping[str, int]) -> list[str]:
    """The names that become columns, in the order of the alphabet."""
    return sorted(sorted(counted, key=lambda name: (-counted[name], name))[:MOST_NAMES])


def by_name(
    table: pa.Table, ids: pa.Array | pa.ChunkedArray, names: Collection[str] | None = None
) -> dict[str, pa.Array]:
    """For each name the outcomes of these predictions, in their order; null where none was told.

    Args:
        table: rows of outcomes, with `_id`, `_outcomes`, `_received`, `_boot` and `_seq`.
        ids: predictions.
        names: which to return; by default all of the rows.
    """
    wanted = most_frequent(counts(table)) if names is None else sorted(names)
    newest = table.sort_by([(name, "descending") for name in ("_received", "_boot", "_seq")])
    keys, values, row = _pairs(newest.column("_outcomes"))
    about = newest.column("_id").combine_chunks()
    found = {}
    for name in wanted:
        mine = pc.equal(keys, name)
        known = about.take(row.filter(mine))
        # index_in gives the first match, which is the newest
        found[name] = values.filter(mine).take(pc.index_in(ids, value_set=known))
    return found


def _pairs(told: pa.ChunkedArray) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Every name with its number and the row it stands in."""
    # one array, whose offsets begin at 0
    whole = told.take(pa.array(range(len(told)), pa.int64())).combine_chunks()
    row = np.repeat(np.arange(len(whole)), np.diff(whole.offsets.to_numpy()))
    return whole.keys, whole.items, pa.array(row, pa.int64())
