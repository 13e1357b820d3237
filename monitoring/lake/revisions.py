"""Revisions of labels: of several labels of one prediction the one received last is the truth, and each is kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["in_order", "numbered"]

_ORDER = ("_received", "_boot", "_seq")
"""Receipt; of labels that one moment received, the order of the process that took them."""


def in_order(labels: pa.Table) -> pa.Table:
    """Labels with `_revision`, in order of receipt."""
    return numbered(labels).sort_by([(name, "ascending") for name in _ORDER])


def numbered(labels: pa.Table) -> pa.Table:
    """The same rows with `_revision`: 1 for the first label of a prediction, one more with each that says otherwise.

    The same label sent again is the same revision.

    >>> rows = {"_id": ["a", "b", "a", "a"], "_label": [1.0, 5.0, 1.0, 2.0], "_received": [1, 1, 2, 3]}
    >>> numbered(pa.table(rows | {"_boot": ["x"] * 4, "_seq": [1, 2, 3, 4]})).column("_revision").to_pylist()
    [1, 1, 1, 2]
    """
    ids = _codes(labels, "_id")
    found = np.ones(len(ids), np.int64)
    several = np.flatnonzero(np.bincount(ids, minlength=1)[ids] > 1) if len(ids) else np.array([], np.int64)
    if len(several):
        rows = several[_by_receipt(labels.take(pa.array(several)), ids[several])]
        first = np.r_[True, np.diff(ids[rows]) != 0]
        says = _codes(labels, "_label")[rows]
        new = first | np.r_[True, np.diff(says) != 0]
        count = np.cumsum(new)
        # counted from the first label of each prediction
        found[rows] = count - np.repeat(count[first], np.diff(np.r_[np.flatnonzero(first), len(rows)])) + 1
    return labels.append_column("_revision", pa.array(found))


def _by_receipt(labels: pa.Table, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    ranked = pa.table({"ids": ids} | {name: labels.column(name) for name in _ORDER})
    keys = [(name, "ascending") for name in ("ids", *_ORDER)]
    return np.asarray(pc.sort_indices(ranked, keys).to_numpy(), np.int64)


def _codes(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    """Each value's number; null is a value like another."""
    encoded = table.column(name).combine_chunks().dictionary_encode(null_encoding="encode")
    return np.asarray(encoded.indices.to_numpy(zero_copy_only=False), np.int64)
