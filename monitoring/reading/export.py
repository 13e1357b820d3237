"""Events of a model as one file, written a slice at a time; it has its name when it is whole and on disk."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from monitoring.lake.lake import Lake
from monitoring.lake.lake_tables import TIME
from monitoring.lake.outcomes import by_name
from monitoring.reading.recorded import Newest, Recorded, outcome_names
from registry.errors import ConfigInvalid, PereneError

__all__ = ["ExportRefused", "export"]

FORMATS: Final = (".parquet", ".csv")
_SHADOW: Final = ("_prediction", "_probabilities", "_version")
Report = Callable[[int, int], None]
"""Told how many rows are written, of at most how many."""


class ExportRefused(PereneError):
    """Events that could not be put into the file; there is none."""

    code = "export_refused"


class _Sink(Protocol):
    def write(self, table: pa.Table) -> None: ...
    def close(self) -> None: ...


def export(
    lake: Lake,
    model: str,
    out: Path,
    *,
    low: int | None,
    high: int | None,
    labelled: bool = False,
    report: Report = lambda *_: None,
) -> int:
    """Write predictions with low <= `_at` < high, oldest first; returns how many.

    Args:
        lake: where they are.
        model: name of the model.
        out: the new file; its ending, .parquet or .csv, says the format.
        low: first moment, in microseconds since 1970; none is all.
        high: moment after the last.
        labelled: add label and shadow answer, null where there is none.
        report: told of progress.

    Raises:
        ConfigInvalid: the name has another ending, its folder is not there, or it is taken.
        ExportRefused: the disk is full or refuses.
    """
    _check(out)
    recorded = Recorded(lake, model, low=low, high=high)
    most, written = recorded.most(), 0
    beside = _Beside(lake, model) if labelled else None
    schema = beside.schema(recorded.schema()) if beside else recorded.schema()
    try:
        with _draft(out) as file:
            make = _csv_sink if out.suffix.lower() == ".csv" else _parquet_sink
            with closing(make(file, schema)) as sink:
                for table in recorded.slices():
                    sink.write(_as(beside.added(table) if beside else table, schema))
                    written += table.num_rows
                    report(written, most)
    except OSError as error:
        raise ExportRefused(
            f"{out}: it cannot be written ({error.strerror or type(error).__name__})", where="--out", hint="make room"
        ) from error
    return written


class _Beside:
    """Labels and shadow answers of predictions."""

    def __init__(self, lake: Lake, model: str) -> None:
        self._lake, self._model = lake, model
        self._labels = Newest(lake, model, "label", ["_label", "_at"])
        self._shadows = Newest(lake, model, "shadow", _SHADOW)
        self._outcomes = Newest(lake, model, "outcome", ["_outcomes"])
        self._names = outcome_names(lake, model)

    def schema(self, served: pa.Schema) -> pa.Schema:
        answer = served.field("_prediction").type
        more = [("_label", answer), ("_label_at", TIME), ("_label_revisions", pa.int64())]
        more += [(f"_shadow{name}", served.field(name).type) for name in _SHADOW]
        more += [(f"_outcome_{name}", pa.float64()) for name in self._names]
        return pa.schema([*served, *(pa.field(name, kind) for name, kind in more)])

    def added(self, table: pa.Table) -> pa.Table:
        ids = table.column("_id").combine_chunks()
        labels, shadows = self._labels.of(ids), self._shadows.of(ids)
        more = {"_label": labels["_label"], "_label_at": labels["_at"]}
        more["_label_revisions"] = labels["_revision"]
        more |= {f"_shadow{name}": shadows[name] for name in _SHADOW}
        told = by_name(self._outcomes.rows(ids), ids, self._names) if self._names else {}
        more |= {f"_outcome_{name}": values for name, values in told.items()}
        for name, values in more.items():
            table = table.append_column(name, values)
        return table


class _CsvSink:
    """Rows as CSV in UTF-8: lists as JSON, for CSV has none."""

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._file = file
        self._lists = [field.name for field in schema if pa.types.is_nested(field.type)]
        head = io.StringIO(newline="")
        csv.writer(head, lineterminator="\n").writerow(schema.names)
        file.write(head.getvalue().encode())

    def write(self, table: pa.Table) -> None:
        for name in self._lists:
            texts = [None if value is None else json.dumps(value) for value in table.column(name).to_pylist()]
            table = table.set_column(table.column_names.index(name), name, pa.array(texts, pa.string()))
        arrow_csv.write_csv(table, self._file, arrow_csv.WriteOptions(include_header=False))

    def close(self) -> None:
        self._file.flush()


def _parquet_sink(file: IO[bytes], schema: pa.Schema) -> _Sink:
    sink: _Sink = pq.ParquetWriter(file, schema, compression="zstd")
    return sink


def _csv_sink(file: IO[bytes], schema: pa.Schema) -> _Sink:
    return _CsvSink(file, schema)


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same rows with all columns of the file."""
    columns = [
        table.column(field.name).cast(field.type, safe=False)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _check(out: Path) -> None:
    if out.suffix.lower() not in FORMATS:
        raise ConfigInvalid(f"{out}: neither Parquet nor CSV", where="--out", expected=" or ".join(FORMATS))
    if not out.parent.is_dir():
        raise ConfigInvalid(f"{out.parent}: there is no such folder", where="--out", hint="make it first")
    _refuse_existing(out)


def _refuse_existing(out: Path) -> None:
    if os.path.lexists(out):
        raise ConfigInvalid(f"{out}: exists already", where="--out", hint="move it away, or choose another name")


@contextmanager
def _draft(out: Path) -> Iterator[IO[bytes]]:
    """A file that gets the name when all went well, and is gone when not; one that a crash left is written over."""
    draft = out.with_name(f".{out.name}.draft")
    draft.unlink(missing_ok=True)
    try:
        with draft.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _refuse_existing(out)
        draft.rename(out)
    finally:
        draft.unlink(missing_ok=True)
    handle = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
