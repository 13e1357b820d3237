"""How the lake lies in Parquet: what DuckDB, Polars and Spark read, in as few bytes as that allows."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["options"]

GROUP_ROWS: Final = 131_072
"""Rows of a row group: a reader passes over those that lie outside its hours."""
_REPEATS: Final = 8
"""A number that stands in as many rows on average is worth a dictionary; one that does not makes it larger."""
_MOST_DISTINCT: Final = 65_536
"""More values than this make a dictionary that the writer gives up half-way."""
_SAMPLE: Final = 16_384
_STEADY: Final = frozenset({"_at", "_received", "_seq"})
"""Columns that grow from row to row."""


def options(table: pa.Table) -> dict[str, Any]:
    """Arguments for `pyarrow.parquet.write_table`, which depend on nothing but the rows."""
    words, layout = [], {}
    for field in table.schema:
        kind, name = field.type, field.name
        if name == "_id":
            layout[name] = "DELTA_BYTE_ARRAY"  # neighbours begin alike: the clock
        elif name in _STEADY:
            layout[name] = "DELTA_BINARY_PACKED"
        elif pa.types.is_string(kind) or (_number(kind) and _repeats(table.column(name))):
            words.append(name)
        elif pa.types.is_floating(kind):
            layout[name] = "BYTE_STREAM_SPLIT" if _noisy(table.column(name)) else "PLAIN"
        elif pa.types.is_integer(kind):
            layout[name] = "DELTA_BINARY_PACKED"
    return {
        "compression": "zstd",
        "row_group_size": GROUP_ROWS,
        "use_dictionary": words,
        "column_encoding": layout,
    }


def _number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _noisy(column: pa.ChunkedArray) -> bool:
    """Whether a sample takes fewer bytes when the first bytes of all values stand together, then the second, …

    Binary noise does, and float32 that was widened; decimals such as prices do not: zstd finds them again whole.
    """
    sample = column.slice(0, _SAMPLE).drop_null().combine_chunks().to_numpy(zero_copy_only=False)
    rows = np.ascontiguousarray(sample).view(np.uint8).reshape(-1, column.type.bit_width // 8)
    split, whole = (len(pa.compress(data.tobytes(), codec="zstd", asbytes=True)) for data in (rows.T, rows))
    return bool(split < whole)


def _repeats(column: pa.ChunkedArray) -> bool:
    distinct = pc.count_distinct(column, mode="all").as_py()
    return bool(distinct <= min(len(column) / _REPEATS, _MOST_DISTINCT))
