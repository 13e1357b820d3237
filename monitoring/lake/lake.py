"""The event lake: typed Parquet files in folders that DuckDB, Polars and Spark read as they are, on disk or in S3.

`root/model=M/kind=prediction|shadow|label/date=YYYY-MM-DD/<boot>-<first>-<last>[-v<version>…].parquet`: the name says
which spool rows a file holds, and of which versions, so writing the same range again replaces the same files. The date
is event time.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monitoring.intake.blocks import Block, block_of_events
from monitoring.intake.events import Event, LabelEvent, PredictionEvent
from monitoring.lake.consumed import version_suffix
from monitoring.lake.encodings import options
from monitoring.lake.lake_rows import about
from monitoring.lake.lake_tables import (
    TIME,
    Kind,
    empty_table,
    label_table,
    micros,
    outcome_table,
    prediction_table,
    together,
    unify,
)
from monitoring.lake.outcomes import by_name
from monitoring.lake.revisions import numbered
from monitoring.lake.storage import Key, Storage
from monitoring.lake.tombstones import Tombstones
from registry.contract import Contract
from registry.errors import StoreUnavailable

__all__ = ["Key", "Lake", "Range"]

Moment = datetime | float | None
"""A bound of a reading: an aware datetime, unix seconds, or none."""
Range = tuple[str, int, int]
"""Boot, first and last number of spool rows."""
_RANGES = b"perene.ranges"
"""Where a merged file keeps its ranges, in its footer."""
_LISTINGS = 8
"""How often a reader lists files anew that vanish under it, with pauses that double from 10 ms."""
_Part = tuple[str, Kind, str]
"""Model, kind and day, which have one file, or a few."""
_TOLD: Final = ("label", "outcome")
"""Kinds that come of feedback."""


class Lake:
    """Reads and writes the files below one root: a path, or a URL such as `s3://bucket/prefix`."""

    def __init__(self, root: Path | str) -> None:
        self.storage = Storage(root)
        self.tombstones = Tombstones(self.storage)

    def write(
        self,
        rows: Sequence[tuple[int, Event | Block]],
        *,
        boot: str,
        first: int,
        last: int,
        contracts: Mapping[tuple[str, int], Contract],
    ) -> list[Key]:
        """Write one spool range; the files and their names depend on nothing but the arguments.

        Each file appears whole under its name and is synced to disk, with its folder, before this returns. The versions
        that answered on one day are in one file: half a range would look like a split of the traffic that nobody asked
        for.
        """
        parts = _parts(rows)
        newest = {model: contracts[model, version] for model, version in sorted(contracts)}
        written = []
        # predictions before labels: whoever sees a label must find what it is about
        for part in sorted(parts, key=lambda part: (part[1] in _TOLD, part)):
            model, kind, day = part
            if kind == "label":
                files = {"": label_table(parts[part], boot, newest.get(model))}
            elif kind == "outcome":
                files = {"": outcome_table(parts[part], boot)}
            else:
                blocks = _blocks(parts[part])
                tables = {n: prediction_table(blocks[n], boot, contracts.get((model, n))) for n in sorted(blocks)}
                files = {version_suffix(versions): table for versions, table in together(tables)}
            for suffix, table in files.items():
                key = _folder(model, kind) / f"date={day}" / f"{boot}-{first}-{last}{suffix}.parquet"
                if self._put(key, model, table):
                    written.append(key)
        return written

    def _put(self, key: Key, model: str, table: pa.Table) -> bool:
        """Write a table without what is erased; once more, if an erasure began meanwhile. False: nothing is left."""
        while True:
            erased = self.tombstones.of(model)
            hits = erased.hits(table)
            if (found := erased.by_subject(model, table.filter(hits))) is not None:
                self.tombstones.add(found)  # their shadows and labels come later, and say no subject
                continue
            left = table.filter(pc.invert(hits))
            if left.num_rows or not table.num_rows:
                self.storage.write(key, _parquet(left))
            else:
                self.storage.remove(key)
            if erased.names.issuperset(self.tombstones.names(model)):
                return bool(left.num_rows)

    def encoded(self, key: Key, table: pa.Table) -> pa.Buffer:
        """The bytes of a file of this name with these rows."""
        return _parquet(table)

    def models(self) -> list[str]:
        """Names of the models that have events."""
        return sorted(unquote(f.removeprefix("model=")) for f in self.storage.folders() if f.startswith("model="))

    def files(self, model: str, kind: Kind) -> list[Key]:
        """All files of one kind, oldest day first."""
        return [key for key in self.storage.files(_folder(model, kind)) if key.suffix == ".parquet"]

    def rows(self, key: Key) -> int:
        """Rows of a file, by its footer."""
        with self.storage.read(key) as source, pq.ParquetFile(source) as file:
            return int(file.metadata.num_rows)

    def ranges(self, key: Key) -> list[Range]:
        """The spool ranges that a merged file holds, by its footer; of any other file none."""
        with self.storage.read(key) as source, pq.ParquetFile(source) as file:
            found = (file.metadata.metadata or {}).get(_RANGES)
        return [(boot, first, last) for boot, first, last in json.loads(found)] if found else []

    def merge(self, model: str, kind: Kind, files: Sequence[Key], into: Key, *, ranges: Sequence[Range] = ()) -> None:
        """Write the rows of several files, each (`_boot`, `_seq`) once and in the order of time, into one more.

        Raises:
            StoreUnavailable: one of the files is gone, or cannot be read; nothing is written.
        """
        table = self.read(model, kind, files=files)
        self._put(into, model, table.replace_schema_metadata({_RANGES: json.dumps(ranges)}))

    def read(
        self,
        model: str,
        kind: Kind,
        *,
        since: Moment = None,
        until: Moment = None,
        columns: Sequence[str] | None = None,
        files: Iterable[Key] | None = None,
        ids: pa.ChunkedArray | None = None,
    ) -> pa.Table:
        """Rows with since <= `_at` < until, each (`_boot`, `_seq`) once, sorted by (`_at`, `_seq`).

        Args:
            model: name of the model.
            kind: what to read.
            since: first moment, event time.
            until: moment after the last.
            columns: columns to return; those that no file has are left out.
            files: read only these, as returned by `files`.
            ids: read only rows that are about these predictions.
        """
        low, high = _bound(since, 0), _bound(until, None)
        needed = None if columns is None else {*columns, "_at", "_boot", "_seq", *(("_id",) if ids is not None else ())}
        tables = self._loaded(model, kind, files, low, high, needed, ids)
        table = _once(_between(unify([empty_table(kind).select(_known(kind, needed)), *tables]), low, high))
        return table if columns is None else table.select([c for c in columns if c in table.column_names])

    def joined(
        self, model: str, *, since: Moment = None, until: Moment = None, outcomes: Collection[str] | None = None
    ) -> pa.Table:
        """Served predictions with `_label`, `_label_at` (the last of `_label_revisions`) and `_shadow_*`, or null.

        Where outcomes were told, there is a column `_outcome_<name>` for each of their names, or of those in `outcomes`
        alone. The bounds are those of the prediction; what belongs to it is found wherever it lies.
        """
        served = self.read(model, "prediction", since=since, until=until)
        label_columns = ["_id", "_label", "_at", "_received", "_boot", "_seq"]
        labels = numbered(self.read(model, "label", columns=label_columns, ids=served.column("_id")))
        shadow_columns = ["_id", "_prediction", "_probabilities", "_version", "_received", "_boot", "_seq"]
        shadows = self.read(model, "shadow", columns=shadow_columns, ids=served.column("_id"))
        served = _attach(served, labels, {"_label": "_label", "_at": "_label_at", "_revision": "_label_revisions"})
        names = {name: f"_shadow{name}" for name in ("_prediction", "_probabilities", "_version")}
        served = _attach(served, shadows, names)
        told = self.read(model, "outcome", ids=served.column("_id"))
        for name, values in by_name(told, served.column("_id"), outcomes).items():
            served = served.append_column(f"_outcome_{name}", values)
        return served

    def _loaded(
        self,
        model: str,
        kind: Kind,
        files: Iterable[Key] | None,
        low: int | None,
        high: int | None,
        needed: set[str] | None,
        ids: pa.ChunkedArray | None,
    ) -> list[pa.Table]:
        """Tables of the files that may hold rows between the bounds.

        A file that vanished since it was listed was merged, so its rows are in one that was there before it went: they
        are found by listing anew.
        """
        given = None if files is None else list(files)
        for attempt in range(_LISTINGS):
            listed = self.files(model, kind) if given is None else given
            try:
                found = (self._load(key, needed, low, high) for key in listed if _overlaps(key, low, high))
                return list(found if ids is None else about(found, ids.combine_chunks()))
            except FileNotFoundError as error:
                if given is not None or attempt == _LISTINGS - 1:
                    raise StoreUnavailable(
                        "a file of the event lake is gone", where="lake_url", hint="list the files again"
                    ) from error
                time.sleep(0.01 * 2**attempt)
        raise AssertionError

    def _load(self, key: Key, needed: set[str] | None, low: int | None, high: int | None) -> pa.Table:
        """The row groups that may hold rows between the bounds."""
        with self.storage.read(key) as source, pq.ParquetFile(source) as file:
            names = None if needed is None else [name for name in file.schema_arrow.names if name in needed]
            groups = [n for n in range(file.num_row_groups) if _holds(file.metadata.row_group(n), low, high)]
            return file.read_row_groups(groups, columns=names).replace_schema_metadata(None)


def _folder(model: str, kind: Kind) -> Key:
    return Key(f"model={quote(model, safe='')}", f"kind={kind}")


def _parts(rows: Iterable[tuple[int, Event | Block]]) -> dict[_Part, list[tuple[int, Any]]]:
    """Events, and blocks of one day, by the file that they belong to."""
    parts: dict[_Part, list[tuple[int, Any]]] = defaultdict(list)
    for number, event in rows:
        if isinstance(event, LabelEvent):
            if event.outcomes:
                parts[event.model, "outcome", _day(event.at)].append((number, event))
            if event.label is not None or not event.outcomes:
                parts[event.model, "label", _day(event.at)].append((number, event))
        elif isinstance(event, PredictionEvent):
            parts[event.model, _kind(shadow=event.arm == "shadow"), _day(event.at)].append((number, event))
        else:
            for day, block in _days(event):
                parts[event.model, _kind(shadow=event.shadow), day].append((number, block))
    return parts


def _kind(*, shadow: bool) -> Kind:
    return "shadow" if shadow else "prediction"


def _days(block: Block) -> list[tuple[str, Block]]:
    """The requests of each day."""
    if _day(min(block.at)) == _day(max(block.at)):
        return [(_day(block.at[0]), block)]
    requests: dict[str, list[int]] = defaultdict(list)
    for number, at in enumerate(block.at):
        requests[_day(at)].append(number)
    return [(day, block.only(numbers)) for day, numbers in requests.items()]


def _blocks(part: Sequence[tuple[int, Any]]) -> dict[int, list[Block]]:
    """All of a part as blocks, by version; single events of one become one."""
    found: dict[int, list[Block]] = defaultdict(list)
    single: dict[int, list[tuple[int, PredictionEvent]]] = defaultdict(list)
    for number, event in part:
        if isinstance(event, Block):
            found[event.version].append(event)
        else:
            single[event.version].append((number, event))
    for version, events in single.items():
        found[version].append(block_of_events(events))
    return found


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(micros(seconds) // 1_000_000, UTC).date().isoformat()


def _parquet(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options(table))
    return sink.getvalue()


def _bound(moment: Moment, default: int | None) -> int | None:
    """A bound as microseconds since 1970."""
    if moment is None:
        return default
    return micros(moment.timestamp() if isinstance(moment, datetime) else moment)


def _overlaps(key: Key, low: int | None, high: int | None) -> bool:
    """Whether the day in the folder's name can hold rows between the bounds."""
    day = date.fromisoformat(key.parent.name.removeprefix("date="))
    start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000
    return (high is None or start < high) and (low is None or start + 86_400_000_000 > low)


def _holds(group: pq.RowGroupMetaData, low: int | None, high: int | None) -> bool:
    """Whether a row group can hold rows between the bounds, by what its footer says of `_at`."""
    for number in range(group.num_columns if low or high is not None else 0):
        column = group.column(number)
        if column.path_in_schema == "_at" and column.statistics is not None and column.statistics.has_min_max:
            first, last = (micros(moment.timestamp()) for moment in (column.statistics.min, column.statistics.max))
            return (high is None or first < high) and last >= (low or 0)
    return True


def _known(kind: Kind, needed: set[str] | None) -> list[str]:
    """Our own columns among the needed ones."""
    return [name for name in empty_table(kind).column_names if needed is None or name in needed]


def _between(table: pa.Table, low: int | None, high: int | None) -> pa.Table:
    times = table.column("_at")
    if low:
        table = table.filter(pc.greater_equal(times, pa.scalar(low, TIME)))
    if high is not None:
        table = table.filter(pc.less(table.column("_at"), pa.scalar(high, TIME)))
    return table


def _once(table: pa.Table) -> pa.Table:
    """Each (`_boot`, `_seq`) once, sorted by (`_at`, `_seq`) and then boot."""
    if not table.num_rows:
        return table
    if not _sorted(table):
        table = table.sort_by([("_at", "ascending"), ("_seq", "ascending"), ("_boot", "ascending")])
    boots = table.column("_boot").combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    # one number for the pair: sequence numbers stay far below 2**40 within a boot
    _, first = np.unique((boots << 40) | table.column("_seq").to_numpy(), return_index=True)
    return table if len(first) == table.num_rows else table.take(pa.array(np.sort(first)))


def _sorted(table: pa.Table) -> bool:
    """Whether rows are in order already, as merged files are: moving all columns takes longer than to look."""
    at = np.diff(table.column("_at").cast(pa.int64()).to_numpy())
    return bool(np.all((at > 0) | ((at == 0) & (np.diff(table.column("_seq").to_numpy()) > 0))))


def _attach(served: pa.Table, others: pa.Table, names: Mapping[str, str]) -> pa.Table:
    """Add columns of the latest row of `others` with the same `_id`."""
    newest = others.sort_by([(name, "descending") for name in ("_received", "_boot", "_seq")])
    # index_in gives the first match, which is the newest revision.
    found = pc.index_in(served.column("_id"), value_set=newest.column("_id").combine_chunks())
    for name, new in names.items():
        served = served.append_column(new, newest.column(name).take(found))
    return served
