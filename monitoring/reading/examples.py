"""Example rows of a finding: which rows lie in the cells that hold more than they did, and what these rows say.

A finding itself keeps counts. Ids are told where a report is made, and values only on its page, which an erasure takes
away; columns that the log hashes or drops are never looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from monitoring.lake.lake import Lake
from monitoring.reading import tables
from monitoring.reading.recorded import Recorded
from registry.contract import Contract
from registry.reference import bin_name, bins_of

__all__ = ["MOST", "Example", "examples"]

MOST: Final = 5


@dataclass(frozen=True, slots=True)
class Example:
    """One row: `cell` is what it has in common with the others, `row` its stored values."""

    id: str
    at: str
    column: str
    cell: str
    row: dict[str, Any]

    def named(self) -> dict[str, str]:
        """Without values: what may be kept."""
        return {"id": self.id, "at": self.at, "column": self.column}


def examples(
    lake: Lake, model: str, contract: Contract, specs: Mapping[str, dict[str, Any]], finding: Mapping[str, Any]
) -> list[Example]:
    """At most five rows of a finding's window, of its columns in turn.

    Args:
        lake: where events lie.
        model: name of the model.
        contract: of the champion.
        specs: the reference's columns.
        finding: body of its row in the ledger.
    """
    detail = finding["detail"]
    stored = [column.name for column in contract.columns if column.policy == "store"]
    # a fault of data quality is called column:fault
    flagged = dict.fromkeys(name if name in specs else name.rpartition(":")[0] for name in detail.get("flagged", ()))
    wanted = [name for name in flagged if name in specs and name in stored]
    span = detail.get("window")
    if not wanted or span is None:
        return []
    low, high = (int(datetime.fromisoformat(span[end]).timestamp() * 1_000_000) for end in ("start", "end"))
    recorded = Recorded(lake, model, low=low, high=high + 1, columns=[*stored, "_id"])
    rows = next(recorded.slices(), None)
    if rows is None:
        return []
    found = [(name, *_most_more(specs[name], rows, name)) for name in wanted if name in rows.column_names]
    # in turn: the first row of each column, then the second of each
    order = [(name, cell, int(at[k])) for k in range(MOST) for name, cell, at in found if k < len(at)][:MOST]
    return [_example(rows, place, name, cell, stored) for name, cell, place in order]


def _most_more(spec: dict[str, Any], rows: pa.Table, name: str) -> tuple[str, npt.NDArray[np.int64]]:
    """The cell whose share has grown most, and its newest rows first."""
    bins = bins_of(spec, tables.feature(rows, name, spec["kind"]))
    now, before = np.bincount(bins, minlength=len(spec["counts"])), np.asarray(spec["counts"], np.float64)
    grown = now / max(now.sum(), 1) - before / max(before.sum(), 1.0)
    cell = int(np.argmax(grown))
    return bin_name(spec, cell), np.flatnonzero(bins == cell)[::-1]


def _example(rows: pa.Table, place: int, name: str, cell: str, stored: Sequence[str]) -> Example:
    one = rows.slice(place, 1).to_pylist()[0]
    at = one["_at"].astimezone(UTC).isoformat(timespec="seconds")
    return Example(str(one["_id"]), at, name, cell, {column: one.get(column) for column in stored})
