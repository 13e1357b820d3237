"""Revisions are counted as somebody would who reads the labels one by one."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from monitoring.lake.revisions import in_order, numbered

ROWS = st.tuples(st.sampled_from("ab"), st.sampled_from([1.0, 2.0, None]), st.integers(0, 3), st.sampled_from("xy"))


def table(rows: list[tuple[str, float | None, int, str]]) -> pa.Table:
    """Labels with sequence numbers as they come."""
    columns: dict[str, Any] = {
        "_id": pa.array([row[0] for row in rows], pa.string()),
        "_label": pa.array([row[1] for row in rows], pa.float64()),
        "_received": pa.array([row[2] for row in rows], pa.int64()),
        "_boot": pa.array([row[3] for row in rows], pa.string()),
        "_seq": pa.array(range(len(rows)), pa.int64()),
    }
    return pa.table(columns)


@given(st.lists(ROWS, max_size=12))
def test_they_are_counted_in_order_of_receipt(rows: list[tuple[str, float | None, int, str]]) -> None:
    """Any labels, in any order: each that differs from the one before it of the same prediction is one more."""
    wanted: dict[int, int] = {}
    last: dict[str, tuple[float | None, int]] = {}
    for number in sorted(range(len(rows)), key=lambda n: (rows[n][2], rows[n][3], n)):
        name, label = rows[number][:2]
        before = last.get(name)
        count = 1 if before is None else before[1] + (before[0] != label)
        last[name], wanted[number] = (label, count), count
    made = numbered(table(rows))
    assert made.column("_revision").to_pylist() == [wanted[n] for n in range(len(rows))]
    told = in_order(table(rows))
    assert told.column("_seq").to_pylist() == sorted(range(len(rows)), key=lambda n: (rows[n][2], rows[n][3], n))


def test_text_labels_and_none_at_all() -> None:
    """Classes are compared as text; an empty table has the column too."""
    two = table([("a", 1.0, 0, "x"), ("a", 1.0, 1, "x")]).set_column(1, "_label", pa.array(["yes", "no"]))
    assert numbered(two).column("_revision").to_pylist() == [1, 2]
    assert numbered(table([])).column("_revision").to_pylist() == []
