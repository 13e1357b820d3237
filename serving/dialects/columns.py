"""Tables of typed columns, Arrow streams and Parquet files, as bodies of any predict route of Perene and MLflow.

PyArrow takes 34 MB and 50 ms of a CPU to import: the first such body pays for it, in a thread.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np
from starlette.requests import Request

from registry.contract import Column
from registry.errors import ContractViolation, FieldError
from serving.answering import Asked, Reply
from serving.dataplane import Predicted
from serving.decode import Batch, Decoder, Mode
from serving.dialects.dialect import about
from serving.dialects.tabular import Array, Cells, check_count, check_names, read_table
from serving.errors import Malformed, TooLarge
from serving.explain import short
from serving.wire.wording import body_of

ARROW: Final = "application/vnd.apache.arrow.stream"
PARQUET: Final = "application/vnd.apache.parquet"
MEDIA: Final = (ARROW, PARQUET)
MOST_BYTES: Final = 16 * 1024 * 1024
"""What a body may hold once it is unpacked; a larger body may hold twice its own size."""
_INDEX = "__index_level_0__"  # pandas writes its index as a column


def asked(data: bytes, media: str, request: Request, *, mode: Mode | None = None, protocol: str = "arrow") -> Asked:
    """What a table asks for; it is answered by one where the caller accepts Arrow."""

    def read(decoder: Decoder) -> Batch:
        who = about(request.headers)
        chosen = mode or decoder.mode
        cells, count = read_cells(decoder, data, media, mode=chosen)
        return read_table(decoder, cells, count, mode=chosen, entity=who.entity, at=who.at)

    def reply(done: Predicted) -> Reply:
        return Reply(_table(done), ARROW) if wants_arrow(request) else Reply(body_of(done))

    return Asked(read, reply, heavy=True, protocol=protocol)


def wants_arrow(request: Request) -> bool:
    """Whether the caller accepts an Arrow stream as an answer."""
    return ARROW in request.headers.get("accept", "")


def read_cells(decoder: Decoder, data: bytes, media: str, *, mode: Mode) -> tuple[dict[str, Cells], int]:
    """The columns of a table and its number of rows.

    Raises:
        Malformed: not a table of that format, or a damaged one.
        TooLarge: more rows, or more bytes once it is unpacked, than a request may have.
        ContractViolation: a column is missing, unknown, or comes twice.
    """
    import pyarrow as pa

    most = max(MOST_BYTES, 2 * len(data))
    try:
        table = _arrow(decoder, data, mode) if media == ARROW else _parquet(decoder, data, mode, most)
        check_count(decoder, table.num_rows)
        table.validate(full=True)
        wanted = [column for column in decoder.contract.columns if column.name in table.column_names]
        budget = _Budget(most)
        cells = {column.name: _cells(column, table.column(column.name), budget) for column in wanted}
    # what PyArrow raises on damaged bytes: its own exceptions, which share these bases, and now and then another's
    except (pa.ArrowException, OSError, ValueError, LookupError, OverflowError, MemoryError):
        kind = "an Arrow stream" if media == ARROW else "a Parquet file"
        raise Malformed(f"the body is not {kind}, or a damaged one", where="body", expected=kind) from None
    return cells, table.num_rows


def _arrow(decoder: Decoder, data: bytes, mode: Mode) -> Any:
    import pyarrow as pa

    from serving.dialects.unpacking import refuse_packed_arrow

    refuse_packed_arrow(data)
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        _check_schema(decoder, reader.schema, mode)
        batches, rows = [], 0
        for batch in reader:
            rows += batch.num_rows
            if rows > decoder.max_rows:
                check_count(decoder, rows)
            batch.validate(full=True)
            batches.append(batch)
        return pa.Table.from_batches(batches, reader.schema)


def _parquet(decoder: Decoder, data: bytes, mode: Mode, most: int) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from serving.dialects.unpacking import check_pages

    check_pages(data, most)
    texts = decoder.contract.strings
    # text stays a dictionary: a long text that a million rows share is one text
    with pq.ParquetFile(pa.BufferReader(data), read_dictionary=[column.name for column in texts]) as file:
        names = _check_schema(decoder, file.schema_arrow, mode)
        check_count(decoder, file.metadata.num_rows)
        return file.read(columns=names, use_threads=False)


class _Budget:
    """Bytes of text that a body may still hold."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def take(self, size: Any) -> None:
        """Raise TooLarge when there are fewer left."""
        self._left -= int(size)
        if self._left < 0:
            raise TooLarge("the body holds too much text", where="body", expected=f"at most {self._most} bytes of text")


def _check_schema(decoder: Decoder, schema: Any, mode: Mode) -> list[str]:
    """Refuse names that do not fit before any value is read; returns those that are to be read."""
    known = set(decoder.contract.names)
    names = [name for name in schema.names if name in known or (mode != "mlflow" and name != _INDEX)]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        found = tuple(FieldError(short(name), "a column that comes twice", "each column once") for name in twice[:20])
        raise ContractViolation(f"{found[0].path}: {found[0].message}", errors=found)
    check_names(decoder, dict.fromkeys(names), mode=mode)
    for name in names:
        kind = schema.field(name).type
        if not _flat(kind):
            what = "booleans, numbers or text"
            error = FieldError(short(name), "not a column of plain values", what, short(str(kind)))
            raise ContractViolation(f"{error.path}: {error.message}", errors=(error,))
    return names


def _flat(kind: Any) -> bool:
    import pyarrow.types as t

    if t.is_dictionary(kind):
        return bool(t.is_string(kind.value_type) or t.is_large_string(kind.value_type))
    tests = (t.is_boolean, t.is_integer, t.is_floating, t.is_string, t.is_large_string, t.is_string_view, t.is_null)
    return any(test(kind) for test in tests)


def _cells(column: Column, chunked: Any, budget: _Budget) -> Cells:
    import pyarrow.types as t

    kind = chunked.type
    if t.is_null(kind):
        nothing = np.full(len(chunked), None if column.dtype == "string" else np.nan)
        return Cells(nothing, "null")
    if t.is_boolean(kind) or t.is_integer(kind) or t.is_floating(kind):
        values = chunked.combine_chunks()
        null = values.is_null().to_numpy(zero_copy_only=False) if values.null_count else None
        filled = values if null is None else values.fill_null(False if t.is_boolean(kind) else 0)
        return Cells(filled.to_numpy(zero_copy_only=False), short(str(kind)), null)
    if t.is_dictionary(kind) or t.is_string_view(kind):
        return Cells(_joined([_texts(chunk, budget) for chunk in chunked.chunks]), "text")
    return Cells(_texts(chunked, budget), "text")


def _joined(parts: list[Array]) -> Array:
    return np.concatenate(parts) if parts else np.empty(0, dtype=object)


def _texts(chunk: Any, budget: _Budget) -> Array:
    """Texts as objects; rows that share a text of a dictionary share the object."""
    import pyarrow.types as t

    if not t.is_dictionary(chunk.type):
        budget.take(_lengths(chunk).sum())
        return _objects(chunk.to_pylist())
    null = chunk.is_null().to_numpy(zero_copy_only=False)
    places = chunk.indices.fill_null(0).to_numpy(zero_copy_only=False)
    if not len(chunk.dictionary):
        return _objects([None] * len(chunk))
    lengths = _lengths(chunk.dictionary)
    budget.take(lengths.sum() + lengths[places].sum())
    values: Array = _objects(chunk.dictionary.to_pylist())[places]
    values[null] = None
    return values


def _lengths(texts: Any) -> Array:
    import pyarrow.compute as pc
    import pyarrow.types as t

    if t.is_string_view(texts.type):
        # 16 bytes for each text, its length first
        views = np.frombuffer(texts.buffers()[1], dtype="<i4")[::4]
        return views[texts.offset : texts.offset + len(texts)].astype(np.int64)
    found: Array = pc.binary_length(texts).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _objects(values: list[Any]) -> Array:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def _table(done: Predicted) -> bytes:
    """The answer as an Arrow stream: the id of each row, its prediction, and the numbers beside it."""
    import pyarrow as pa

    made: dict[str, Any] = {"prediction_id": done.ids, "prediction": done.answer.predictions}
    if done.answer.scores is not None:
        made["scores"] = done.answer.scores
    elif done.version.contract.output.classes:
        made["probabilities"] = done.answer.values
    table = pa.table(made)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written
