"""Rows of a CSV file, a few thousand at once.

Blocks of whole records are read by PyArrow, each column as what the contract says. That way only says yes: a block
that it does not take is read again as texts, by the rules of the CSV dialect, which say row by row what is wrong.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np

from registry.contract import Column
from serving.batch.arrow_cells import spelled_cells
from serving.batch.chunk import Chunk, Place
from serving.batch.columns import check_columns
from serving.batch.csv_scan import BLOCK, are_plain_quotes, csv_refused, record_ends, scan
from serving.batch.input_file import InputFile
from serving.decode import Decoder
from serving.dialects.csv_rows import NULLS
from serving.dialects.tabular import Cells

_TRUE: Final = ["true", "True", "TRUE", "1", "1.0"]
_FALSE: Final = ["false", "False", "FALSE", "0", "0.0"]
_LEAST: Final = 4096
_MOST_RECORD: Final = 16 * 1024 * 1024
"""Bytes that a row may have; a longer one is most likely a quote that was never closed."""


class CsvFile:
    """A CSV file in UTF-8 with a header, whose lines and quotes hold.

    Raises:
        BatchRefused: they do not, there are no rows, or its columns do not fit.
    """

    def __init__(self, file: InputFile, decoder: Decoder, keep: Sequence[str]) -> None:
        self._input = file
        self._columns = decoder.contract.columns
        self._keep = tuple(keep)
        self.coerced = True
        self._names, self._first_byte, self._first_line = scan(file)
        check_columns(file.path, self._names, decoder, keep)
        self.total = file.size

    @property
    def schema(self) -> list[str]:
        """The names of the columns, in order."""
        return self._names

    @property
    def kept_types(self) -> Mapping[str, Any]:
        """What is kept of a CSV file is text, as it is written there."""
        import pyarrow as pa

        return dict.fromkeys(self._keep, pa.string())

    def close(self) -> None:
        """There is nothing to let go of."""

    def reached(self, place: Place) -> int:
        """Bytes before a place."""
        return place.byte

    def chunks(self, start: Place, rows: int) -> Iterator[Chunk]:
        """All rows from a place on.

        Raises:
            BatchRefused: a line cannot be read as CSV at all.
        """
        place = start if start.byte else Place(0, self._first_byte, self._first_line)
        size = BLOCK
        while data := self._records(place, rows, size):
            # the next ones are most likely as long
            size = min(2 * BLOCK, len(data) + len(data) // 4 + _LEAST)
            chunk = self._chunk(data, place)
            place = chunk.after
            if chunk.count:
                yield chunk
            del chunk

    def _records(self, place: Place, rows: int, size: int) -> bytes:
        """The bytes of at most so many whole records; the last one of a file may lack its line feed.

        Args:
            place: where the first one begins.
            rows: how many at most.
            size: bytes to look at first.
        """
        while True:
            data = os.pread(self._input.fd, size, place.byte)
            ends = record_ends(data)
            if len(ends) >= rows:
                return data[: int(ends[rows - 1])]
            if len(data) < size:  # the end of the file
                return data
            if len(ends):
                return data[: int(ends[-1])]
            if size > _MOST_RECORD:
                hint = "look for a quote that is not closed"
                raise csv_refused(self._input, place.line, "a row longer than 16 MiB", "a row on each line", hint)
            size *= 2

    def _chunk(self, data: bytes, place: Place) -> Chunk:
        block = _Block(self._input, data, place.line)
        made = self._fast(data) or self._slow(block)
        cells, kept, count, unusable = made
        after = Place(place.row + count, place.byte + len(data), place.line + data.count(b"\n"))
        return Chunk(place.row, count, cells, kept, after, block.line_of, unusable)

    def _fast(self, data: bytes) -> tuple[dict[str, Cells], dict[str, Any], int, dict[int, str]] | None:
        import pyarrow as pa

        if b'"' in data and not are_plain_quotes(data):
            return None
        wanted = {c.name: c for c in self._columns if c.name in self._names}
        types = {name: _type_of(column) for name, column in wanted.items()}
        try:
            table = self._read(data, types)
            kept = self._read(data, dict.fromkeys(self._keep, pa.string())) if self._keep else None
        except pa.ArrowException:
            return None
        arrays = {name: _whole(table.column(name)) for name in wanted}
        cells = {name: _spelled(column, arrays[name]) for name, column in wanted.items()}
        texts = {name: _whole(kept.column(name)) for name in self._keep} if kept is not None else {}
        return cells, texts, table.num_rows, {}

    def _read(self, data: bytes, types: Mapping[str, Any]) -> Any:
        import pyarrow as pa
        from pyarrow import csv as reader

        return reader.read_csv(
            pa.BufferReader(data),
            # one block: a second one would be a second chunk, and a record could be cut
            reader.ReadOptions(column_names=self._names, use_threads=False, block_size=len(data) + 1),
            reader.ParseOptions(newlines_in_values=b'"' in data),
            reader.ConvertOptions(
                include_columns=list(types),
                column_types=dict(types),
                null_values=sorted(NULLS),
                strings_can_be_null=False,
                true_values=_TRUE,
                false_values=_FALSE,
            ),
        )

    def _slow(self, block: _Block) -> tuple[dict[str, Cells], dict[str, Any], int, dict[int, str]]:
        import pyarrow as pa

        width = len(self._names)
        records = [row for row, _ in block.records]
        unusable = {n: "a row of another length" for n, row in enumerate(records) if len(row) != width}
        texts = {
            name: [row[place] if n not in unusable else None for n, row in enumerate(records)]
            for place, name in enumerate(self._names)
        }
        cells = {c.name: _texts(c, texts[c.name]) for c in self._columns if c.name in texts}
        kept = {name: pa.array(texts[name], pa.string()) for name in self._keep}
        return cells, kept, len(records), unusable


class _Block:
    """Records as Python reads them, made when somebody asks: slow, and with their lines."""

    def __init__(self, file: InputFile, data: bytes, line: int) -> None:
        self._file = file
        self._data = data
        self._line = line

    @cached_property
    def records(self) -> list[tuple[list[str], int]]:
        """Each record that is no blank line, with the line at which it begins.

        Raises:
            BatchRefused: one is not CSV.
        """
        lines = csv.reader(io.StringIO(self._data.decode("utf-8"), newline=""), strict=True)
        found: list[tuple[list[str], int]] = []
        begun = 0
        try:
            for row in lines:
                if row:
                    found.append((row, self._line + begun))
                begun = lines.line_num
        except csv.Error:
            raise csv_refused(self._file, self._line + begun, "not CSV", 'CSV: quotes in pairs, "" for one') from None
        return found

    def line_of(self, place: int) -> int:
        """The line of a row."""
        return self.records[place][1]


def _type_of(column: Column) -> Any:
    import pyarrow as pa

    if column.dtype == "string":
        return pa.dictionary(pa.int32(), pa.string())
    return pa.bool_() if column.dtype == "bool" else pa.float64()


def _spelled(column: Column, array: Any) -> Cells:
    cells = spelled_cells(column, array)
    if column.dtype in ("float", "int"):
        # a text that spells no number in some way that PyArrow takes is no null, as it would be in Parquet
        odd = np.isnan(cells.values)
        if odd.any():
            return Cells(np.where(odd, np.inf, cells.values), cells.kind, cells.null, widened=0)
    return cells


def _texts(column: Column, values: list[str | None]) -> Cells:
    empty = NULLS if column.nullable else frozenset(() if column.dtype == "string" else ("",))
    made = np.empty(len(values), dtype=object)
    made[:] = [None if value in empty else value for value in values]
    return Cells(made, "text", widened=0)


def _whole(chunked: Any) -> Any:
    return chunked.combine_chunks() if chunked.num_chunks != 1 else chunked.chunk(0)
