"""Rows of a Parquet file, a few thousand at once."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from registry.errors import PereneError
from serving.batch.arrow_cells import cells_of, is_plain
from serving.batch.chunk import Chunk, Place
from serving.batch.columns import check_columns, columns_read
from serving.batch.input_file import InputFile
from serving.batch.refusals import BatchRefused, FileUnsound
from serving.decode import Decoder
from serving.dialects.unpacking import check_pages
from serving.explain import short

_BUFFER: Final = 1024 * 1024
_CHUNK_BYTES: Final = 16 * 1024 * 1024
_LEAST_UNPACKED: Final = 1 << 30
_MOST_RATIO: Final = 256
"""How much larger than packed a file may be; beyond it, what its pages say of their sizes is a lie or an attack."""
_MOST_PAGES: Final = 1_000_000


class ParquetRows:
    """A Parquet file whose footer, pages and schema hold.

    Raises:
        BatchRefused: it is damaged, has no rows, or its columns do not fit.
    """

    def __init__(self, file: InputFile, decoder: Decoder, keep: Sequence[str]) -> None:
        self._input = file
        self._contract = decoder.contract
        self._keep = tuple(keep)
        self.coerced = False
        _check_pages(file)
        self._raw = os.fdopen(os.dup(file.fd), "rb", buffering=0)
        try:
            self._open(decoder, keep)
        except BaseException:
            self.close()
            raise

    def _open(self, decoder: Decoder, keep: Sequence[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = self._input
        texts = [column.name for column in decoder.contract.strings]
        try:
            raw = pa.PythonFile(self._raw, mode="r")
            self._metadata = pq.read_metadata(raw)
            self._schema = self._metadata.schema.to_arrow_schema()
            self._file = pq.ParquetFile(
                raw,
                metadata=self._metadata,
                # text stays a dictionary: rows that share a text share one object
                read_dictionary=[name for name in texts if name in self._schema.names],
                buffer_size=_BUFFER,
                pre_buffer=False,
            )
        # PyArrow's own exceptions share these bases, and now and then another's
        except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError) as error:
            raise _damaged(file) from error
        self.total = self._metadata.num_rows
        if not self.total:
            raise BatchRefused(f"{file.path}: there are no rows", where=str(file.path), hint="give a file with rows")
        check_columns(file.path, self._schema.names, decoder, keep)
        for name in columns_read(decoder.contract, self._schema.names, ()):
            kind = self._schema.field(name).type
            if not is_plain(kind):
                raise BatchRefused(
                    f"{file.path}: column '{short(name)}' is not one of plain values",
                    where=f"{file.path}: {short(name)}",
                    expected="booleans, numbers or text",
                    got=short(str(kind)),
                )

    @property
    def schema(self) -> list[str]:
        """Names and types of the columns, in order."""
        return [f"{field.name}: {field.type}" for field in self._schema]

    @property
    def kept_types(self) -> Mapping[str, Any]:
        """Arrow types of the columns that are kept: those of their values, where they come as a dictionary."""
        return {name: _plain_type(self._schema.field(name).type) for name in self._keep}

    def close(self) -> None:
        """Let go of the file."""
        self._raw.close()

    def reached(self, place: Place) -> int:
        """Rows before a place."""
        return place.row

    def chunks(self, start: Place, rows: int) -> Iterator[Chunk]:
        """All rows from a place on.

        Raises:
            BatchRefused: the file turns out to be damaged, or has other rows than its footer says.
        """
        import pyarrow as pa

        group, skipped = self._group_of(start.row)
        rows = max(1, min(rows, _CHUNK_BYTES * self.total // max(1, self._unpacked())))
        columns = columns_read(self._contract, self._schema.names, self._keep)
        row = start.row
        try:
            groups = list(range(group, self._metadata.num_row_groups))
            for read in self._file.iter_batches(batch_size=rows, row_groups=groups, columns=columns, use_threads=False):
                batch = read
                if skipped:
                    gone = min(skipped, batch.num_rows)
                    skipped -= gone
                    batch = batch.slice(gone)
                if not batch.num_rows:
                    continue
                batch.validate(full=True)
                yield self._chunk(batch, row)
                row += batch.num_rows
        except (pa.ArrowException, OSError, ValueError, LookupError, MemoryError) as error:
            raise _damaged(self._input) from error
        if row != self.total:
            raise _damaged(self._input)

    def _chunk(self, batch: Any, row: int) -> Chunk:
        by_name = dict(zip(batch.schema.names, batch.columns, strict=True))
        cells = {c.name: cells_of(c, by_name[c.name]) for c in self._contract.columns if c.name in by_name}
        kept = {name: by_name[name].cast(kind) for name, kind in self.kept_types.items()}
        return Chunk(row, batch.num_rows, cells, kept, Place(row + batch.num_rows), lambda _place: None)

    def _unpacked(self) -> int:
        """Bytes of the file's columns, as its footer says: texts may be long."""
        return sum(self._metadata.row_group(n).total_byte_size for n in range(self._metadata.num_row_groups))

    def _group_of(self, row: int) -> tuple[int, int]:
        """The group of rows that a row is in, and how many of it come before."""
        for number in range(self._metadata.num_row_groups):
            size = self._metadata.row_group(number).num_rows
            if row < size:
                return number, row
            row -= size
        return self._metadata.num_row_groups, 0


def _check_pages(file: InputFile) -> None:
    most = max(_LEAST_UNPACKED, _MOST_RATIO * file.size)
    with mmap.mmap(file.fd, file.size, prot=mmap.PROT_READ) as data:
        try:
            check_pages(data, most, most_pages=_MOST_PAGES)
        except PereneError as error:
            raise _damaged(file, error.message.replace("the body", "it")) from error


def _plain_type(kind: Any) -> Any:
    import pyarrow.types as t

    return kind.value_type if t.is_dictionary(kind) else kind


def _damaged(file: InputFile, why: str = "") -> FileUnsound:
    return FileUnsound(
        f"{file.path}: not a Parquet file, or a truncated or damaged one{': ' if why else ''}{why}",
        where=str(file.path),
        hint="write or copy the file again",
    )
