"""Recorded predictions by their ids: what a model was asked, wherever the log has it by now."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monitoring.intake.blocks import Block, block_of_events, decode
from monitoring.intake.events import PredictionEvent
from monitoring.intake.spool import SUFFIX, connect
from monitoring.lake.lake import Key, Lake
from monitoring.reading.recorded import day_of, opened, settled

__all__ = ["Kept", "find"]

_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
_EARLIER_S: Final = 3_600.0
"""By how much a machine's clock may have gone back between the id of a prediction and its way to the disk."""
_LATEST_S: Final = 253_402_300_799.0
"""The end of the last year that a date can have: what claims to be younger was never given out."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the log has of a prediction: the version that answered, and the values of the columns that are kept."""

    version: int
    values: Mapping[str, Any]


def find(lake: Lake, spools: Path, model: str, ids: Iterable[str]) -> dict[str, Kept]:
    """Those of the predictions that are recorded. One that was answered a tenth of a second ago may not be yet.

    Args:
        lake: where they end up.
        spools: folder of the spools, where they wait for that.
        model: who answered.
        ids: of predictions; what is none is not found.

    Raises:
        StoreUnavailable: the lake cannot be read.
    """
    wanted = {identifier for identifier in ids if _ID.match(identifier) and _seconds(identifier) < _LATEST_S}
    if not wanted:
        return {}
    # spools before the lake: on their way rows are in both for a moment, and never in neither
    found = _waiting(spools, model, wanted)
    left = wanted - found.keys()
    return found | (settled(lambda: _shipped(lake, model, left)) if left else {})


def _seconds(identifier: str) -> float:
    """The time in a UUID of version 7."""
    return int(identifier[:8] + identifier[9:13], 16) / 1_000


def _waiting(spools: Path, model: str, wanted: set[str]) -> dict[str, Kept]:
    found: dict[str, Kept] = {}
    since = min(map(_seconds, wanted)) - _EARLIER_S
    for path in sorted(spools.rglob(f"*{SUFFIX}"), reverse=True) if spools.is_dir() else ():
        try:
            with closing(connect(path)) as database:
                found |= _in_spool(database, model, wanted - found.keys(), since)
        # it was emptied and removed meanwhile: the lake has its rows; or it is damaged, or none of ours
        except (sqlite3.DatabaseError, msgspec.MsgspecError):
            continue
        if len(found) == len(wanted):
            break
    return found


def _in_spool(database: sqlite3.Connection, model: str, wanted: set[str], since: float) -> dict[str, Kept]:
    columns = {
        version: [(c["name"], c["dtype"]) for c in msgspec.json.decode(body)["columns"]]
        for version, body in database.execute("SELECT version, body FROM contracts WHERE model = ?", (model,))
    }
    texts = [identifier.encode() for identifier in wanted]
    found: dict[str, Kept] = {}
    for (body,) in database.execute("SELECT body FROM events WHERE stored >= ? ORDER BY seq", (since,)):
        if not any(text in body for text in texts):
            continue
        event = decode(body)
        block = block_of_events([(0, event)]) if isinstance(event, PredictionEvent) else event
        if isinstance(block, Block) and block.model == model and not block.shadow and block.version in columns:
            found |= _of_block(block, columns[block.version], wanted)
    return found


def _of_block(block: Block, columns: Sequence[tuple[str, str]], wanted: set[str]) -> dict[str, Kept]:
    rows = [(row, identifier) for row, identifier in enumerate(block.ids) if identifier in wanted]
    cells = dict(zip(columns, block.features, strict=False))
    return {
        identifier: Kept(
            block.version,
            {name: _cell(held, row, kind) for (name, kind), held in cells.items() if held is not None},
        )
        for row, identifier in rows
    }


def _cell(held: Any, row: int, kind: str) -> Any:
    if not isinstance(held, bytes):
        return held[row]
    value = float(np.frombuffer(held, "<f8", 1, 8 * row)[0])
    if np.isnan(value):
        return None
    return bool(value) if kind == "bool" else int(value) if kind == "int" else value


def _shipped(lake: Lake, model: str, wanted: set[str]) -> dict[str, Kept]:
    days = {datetime.fromtimestamp(_seconds(identifier), UTC).date() for identifier in wanted}
    found: dict[str, Kept] = {}
    left = set(wanted)
    # by event time, which is that of the request unless the caller said another one
    for key in sorted(lake.files(model, "prediction"), key=lambda key: _away(key, days)):
        with opened(lake, key) as file:
            for row in _rows(file, left):
                values = {name: value for name, value in row.items() if not name.startswith("_")}
                found[row["_id"]] = Kept(row["_version"], values)
        left -= found.keys()
        if not left:
            break
    return found


def _away(key: Key, days: set[date]) -> int:
    return min(abs((day_of(key) - day).days) for day in days)


def _rows(file: pq.ParquetFile, wanted: set[str]) -> list[dict[str, Any]]:
    """Rows of these ids; of a file that has none, the footer is read and at most one column."""
    place = file.schema_arrow.names.index("_id")
    low, high = min(wanted), max(wanted)
    groups = []
    for number in range(file.num_row_groups):
        facts = file.metadata.row_group(number).column(place).statistics
        if facts is None or not facts.has_min_max or (facts.min <= high and facts.max >= low):
            groups.append(number)
    if not groups:
        return []
    hits = pc.is_in(file.read_row_groups(groups, columns=["_id"]).column("_id"), value_set=pa.array(sorted(wanted)))
    if not pc.any(hits).as_py():
        return []
    rows: list[dict[str, Any]] = file.read_row_groups(groups).filter(hits).to_pylist()
    return rows
