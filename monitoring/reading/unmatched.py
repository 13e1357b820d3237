"""Labels without a prediction: which ids the event lake knows, and which labels name one that it does not.

A replica cannot know every id that another one gave out, so feedback takes any. What never finds its prediction is
counted by the worker and listed here; the lake keeps it either way.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Collection
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monitoring.lake import revisions
from monitoring.lake.lake import Key, Lake
from monitoring.lake.lake_tables import TIME

__all__ = ["known", "labels"]


def known(lake: Lake, model: str, identifiers: Collection[str]) -> set[str]:
    """Those of `identifiers` that a served prediction in the lake has, whenever it was made.

    Ids begin with the time at which they were made: the footer of a file tells which it can hold, and few files can.
    """
    left = set(identifiers)
    found: set[str] = set()
    looked: set[Key] = set()
    while left and (files := [key for key in lake.files(model, "prediction") if key not in looked]):
        for key in files:
            looked.add(key)
            # one that was merged since it was listed: what took its place is in the next listing
            with contextlib.suppress(FileNotFoundError):
                held = _held(lake, key, sorted(left))
                found.update(held)
                left.difference_update(held)
    return found


def labels(lake: Lake, model: str, *, since: datetime | None = None, unmatched: bool = False) -> pa.Table:
    """Every label of a model in order of receipt, with `_revision`; or only those whose prediction the lake has not.

    Args:
        lake: where they lie.
        model: name of the model.
        since: first moment, event time of the label.
        unmatched: only labels without a prediction.
    """
    found = revisions.in_order(lake.read(model, "label"))
    if since is not None:
        found = found.filter(pc.greater_equal(found.column("_at"), pa.scalar(since, TIME)))
    if unmatched:
        there = known(lake, model, found.column("_id").unique().to_pylist())
        found = found.filter(pc.invert(pc.is_in(found.column("_id"), pa.array(sorted(there), pa.string()))))
    return found


def _held(lake: Lake, key: Key, wanted: list[str]) -> list[str]:
    """Which of the ids one file has; its groups of rows are read only where their bounds let an id in."""
    values = pa.array(wanted, pa.string())
    found: list[str] = []
    with lake.storage.read(key) as source, pq.ParquetFile(source) as file:
        place = file.schema_arrow.names.index("_id")
        for number in range(file.metadata.num_row_groups):
            bounds = file.metadata.row_group(number).column(place).statistics
            if bounds is not None and bounds.has_min_max and not _between(wanted, bounds.min, bounds.max):
                continue
            ids = file.read_row_group(number, columns=["_id"]).column("_id")
            found += ids.filter(pc.is_in(ids, values)).to_pylist()
    return found


def _between(wanted: list[str], low: str, high: str) -> bool:
    first = bisect.bisect_left(wanted, low)
    return first < len(wanted) and wanted[first] <= high
