"""The event lake: Parquet files typed by the contract, `model=…/kind=…/date=…/`, written once and never changed.

A file's name is made of the boot and the range of sequence numbers it holds, so writing a range again after a crash
replaces the file by itself, and a reader removes duplicates by (boot, seq).
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monitoring.events import Event, LabelEvent, PredictionEvent, value_text
from registry.contract import Column, Contract, Output
from registry.names import check_name

__all__ = ["Kind", "Lake", "label_schema", "prediction_schema"]

Kind = Literal["prediction", "shadow", "label"]
KINDS: Final[tuple[Kind, ...]] = ("prediction", "shadow", "label")
_TIME = pa.timestamp("us", tz="UTC")
_ORIGIN = [("_boot", pa.string()), ("_seq", pa.int64())]
_TYPES = {"float": pa.float64(), "int": pa.int64(), "bool": pa.bool_(), "string": pa.string()}
_CACHED_FILES = 4_000


def prediction_schema(contract: Contract) -> pa.Schema:
    """Columns of predictions and shadow answers: the contract's own, then ours with a leading underscore."""
    answer = pa.float64() if contract.output.kind == "regression" else pa.string()
    return pa.schema(
        [
            *((column.name, _type(column)) for column in contract.columns),
            ("_id", pa.string()),
            ("_at", _TIME),
            ("_received", _TIME),
            ("_model", pa.string()),
            ("_version", pa.int32()),
            ("_arm", pa.string()),
            ("_entity", pa.string()),
            ("_prediction", answer),
            ("_probabilities", pa.list_(pa.float32())),
            ("_latency_ms", pa.float32()),
            ("_key", pa.string()),
            *_ORIGIN,
        ]
    )


def label_schema(contract: Contract | None) -> pa.Schema:
    """Columns of labels; without a contract the label is kept as text."""
    number = contract is not None and contract.output.kind == "regression"
    return pa.schema(
        [
            ("_id", pa.string()),
            ("_label", pa.float64() if number else pa.string()),
            ("_at", _TIME),
            ("_received", _TIME),
            *_ORIGIN,
        ]
    )


class Lake:
    """Reads and writes the lake under `root`. Tables come back sorted by event time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._cache: OrderedDict[str, pa.Table] = OrderedDict()

    def models(self) -> list[str]:
        """Models that have events."""
        return sorted(path.name.removeprefix("model=") for path in self.root.glob("model=*"))

    def files(self, model: str, kind: Kind) -> list[Path]:
        """Every file of a kind, by date and then by name: in the order of writing for one boot."""
        return sorted((self.root / f"model={check_name(model)}" / f"kind={kind}").glob("date=*/*.parquet"))

    def write(
        self,
        kind: Kind,
        contract: Contract | None,
        boot: str,
        span: tuple[int, int],
        rows: Sequence[tuple[int, Event]],
    ) -> list[Path]:
        """Write events of one model and version as one file per date of event time; returns the files.

        Each file is complete and on disk before it appears under its name. `span` is the first and last sequence
        number of the range that `rows` were taken from.
        """
        by_date: dict[str, list[tuple[int, Event]]] = {}
        for seq, event in rows:
            by_date.setdefault(datetime.fromtimestamp(event.at, UTC).date().isoformat(), []).append((seq, event))
        model = check_name(rows[0][1].model)
        written: list[Path] = []
        for date, part in by_date.items():
            version = "" if kind == "label" else f"-v{getattr(part[0][1], 'version', 0)}"
            folder = self.root / f"model={model}" / f"kind={kind}" / f"date={date}"
            path = folder / f"{boot}-{span[0]}-{span[1]}{version}.parquet"
            _store(_table(kind, contract, boot, part), path)
            written.append(path)
        return written

    def read(
        self,
        model: str,
        kind: Kind,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        columns: Sequence[str] | None = None,
        files: Iterable[Path] | None = None,
    ) -> pa.Table:
        """Events with since <= `_at` < until, each once, by event time and sequence number.

        Args:
            model: whose events.
            kind: predictions, shadow answers or labels.
            since: inclusive bound of event time, aware.
            until: exclusive bound of event time, aware.
            columns: only these columns.
            files: only these files, as `files` gave them.
        """
        chosen = [p for p in (self.files(model, kind) if files is None else files) if _may_hold(p, since, until)]
        if not chosen:
            return _empty(kind).select(columns) if columns else _empty(kind)
        table = pa.concat_tables([self._load(path) for path in chosen], promote_options="permissive")
        table = _distinct(_between(table, since, until)).sort_by([("_at", "ascending"), ("_seq", "ascending")])
        return table.select(columns) if columns else table

    def joined(self, model: str, *, since: datetime | None = None, until: datetime | None = None) -> pa.Table:
        """Served predictions with `_label`, `_label_at` (the last revision; null if none came) and, where a shadow
        answered too, `_shadow_prediction`, `_shadow_probabilities` and `_shadow_version`."""
        table = self.read(model, "prediction", since=since, until=until)
        labels = self.read(model, "label", since=since).sort_by([("_received", "descending"), ("_seq", "descending")])
        shadows = self.read(model, "shadow", since=since, until=until)
        table = _attach(table, labels, {"_label": "_label", "_at": "_label_at"})
        names = ("_prediction", "_probabilities", "_version")
        return _attach(table, shadows, {name: f"_shadow{name}" for name in names})

    def _load(self, path: Path) -> pa.Table:
        """A file never changes under its name, so what was read once is kept."""
        key = str(path)
        table = self._cache.get(key)
        if table is None:
            with pq.ParquetFile(path) as file:
                table = file.read()
            self._cache[key] = table
            if len(self._cache) > _CACHED_FILES:
                self._cache.popitem(last=False)
        return table


def _attach(table: pa.Table, other: pa.Table, names: dict[str, str]) -> pa.Table:
    """Left join on `_id` with the first matching row of `other`."""
    position = pc.index_in(table.column("_id"), value_set=other.column("_id").combine_chunks())
    for source, name in names.items():
        table = table.append_column(name, other.column(source).take(position))
    return table


def _table(kind: Kind, contract: Contract | None, boot: str, rows: Sequence[tuple[int, Event]]) -> pa.Table:
    if kind == "label":
        return _labels(contract, boot, [(seq, e) for seq, e in rows if isinstance(e, LabelEvent)])
    if contract is None:
        raise ValueError("predictions cannot be typed without their contract")
    return _predictions(contract, boot, [(seq, e) for seq, e in rows if isinstance(e, PredictionEvent)])


def _labels(contract: Contract | None, boot: str, rows: Sequence[tuple[int, LabelEvent]]) -> pa.Table:
    schema = label_schema(contract)
    number = pa.types.is_floating(schema.field("_label").type)
    events = [event for _, event in rows]
    data = {
        "_id": [e.prediction_id for e in events],
        "_label": [float(e.label) if number else value_text(e.label) for e in events],
        "_at": [_micros(e.at) for e in events],
        "_received": [_micros(e.received) for e in events],
        "_boot": [boot] * len(rows),
        "_seq": [seq for seq, _ in rows],
    }
    return pa.table(data, schema=schema)


def _predictions(contract: Contract, boot: str, rows: Sequence[tuple[int, PredictionEvent]]) -> pa.Table:
    events = [event for _, event in rows]
    number = contract.output.kind == "regression"
    data: dict[str, Any] = {
        # a shadow answer carries no features: its served twin has them
        column.name: [e.features[i] if e.features else None for e in events]
        for i, column in enumerate(contract.columns)
    }
    data |= {
        "_id": [e.id for e in events],
        "_at": [_micros(e.at) for e in events],
        "_received": [_micros(e.received) for e in events],
        "_model": [e.model for e in events],
        "_version": [e.version for e in events],
        "_arm": [e.arm for e in events],
        "_entity": [e.entity for e in events],
        "_prediction": [e.prediction if number else value_text(e.prediction) for e in events],
        "_probabilities": [e.probabilities for e in events],
        "_latency_ms": [e.latency_ms for e in events],
        "_key": [e.key for e in events],
        "_boot": [boot] * len(rows),
        "_seq": [seq for seq, _ in rows],
    }
    return pa.table(data, schema=prediction_schema(contract))


def _type(column: Column) -> pa.DataType:
    return _TYPES[column.dtype] if column.policy == "store" else pa.string()


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _store(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _may_hold(path: Path, since: datetime | None, until: datetime | None) -> bool:
    date = path.parent.name.removeprefix("date=")
    after = since is None or date >= since.astimezone(UTC).date().isoformat()
    return after and (until is None or date <= until.astimezone(UTC).date().isoformat())


def _between(table: pa.Table, since: datetime | None, until: datetime | None) -> pa.Table:
    at = table.column("_at")
    if since is not None:
        table = table.filter(pc.greater_equal(at, pa.scalar(since, _TIME)))
        at = table.column("_at")
    if until is not None:
        table = table.filter(pc.less(at, pa.scalar(until, _TIME)))
    return table


def _distinct(table: pa.Table) -> pa.Table:
    """Each (boot, seq) once."""
    boots = table.column("_boot").combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    keys = boots.astype(np.int64) << 44 | table.column("_seq").to_numpy()
    _, first = np.unique(keys, return_index=True)
    return table if len(first) == len(keys) else table.take(pa.array(np.sort(first)))


def _empty(kind: Kind) -> pa.Table:
    nothing = Contract("none", (), Output("regression"))
    return (label_schema(nothing) if kind == "label" else prediction_schema(nothing)).empty_table()
