"""Columns of Arrow as cells that the dialects of tables read."""

from __future__ import annotations

from typing import Any

import numpy as np

from registry.contract import Column
from serving.dialects.csv_rows import NULLS
from serving.dialects.tabular import Array, Cells


def is_plain(kind: Any) -> bool:
    """Whether a column of this type is one of booleans, numbers or text."""
    import pyarrow.types as t

    if t.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(t.is_boolean(kind) or t.is_integer(kind) or t.is_floating(kind) or t.is_null(kind) or _is_text(kind))


def cells_of(column: Column, array: Any) -> Cells:
    """A column of a batch; texts that rows share are one object."""
    import pyarrow.types as t

    kind = array.type
    if t.is_null(kind):
        return Cells(np.full(len(array), None if column.dtype == "string" else np.nan), "null")
    if _is_text(kind) or t.is_dictionary(kind):
        return Cells(texts_of(array), "text")
    null = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    filled = array if null is None else array.fill_null(False if t.is_boolean(kind) else 0)
    return Cells(filled.to_numpy(zero_copy_only=False), str(kind), null)


def spelled_cells(column: Column, array: Any) -> Cells:
    """A column of CSV that was read as its own type: in a column that may be null, some texts are null."""
    if column.dtype == "string":
        return Cells(texts_of(array, nulls=NULLS if column.nullable else frozenset()), "text", widened=0)
    made = cells_of(column, array)
    return Cells(made.values, "text", made.null, widened=0)


def texts_of(array: Any, *, nulls: frozenset[str] = frozenset()) -> Array:
    """Texts as objects, None for null and for any of `nulls`."""
    import pyarrow as pa

    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    words = [None if word in nulls else word for word in encoded.dictionary.to_pylist()]
    # one more for null, so that a place always leads somewhere
    known = np.empty(len(words) + 1, dtype=object)
    known[: len(words)] = words
    places = encoded.indices.fill_null(len(words)) if encoded.indices.null_count else encoded.indices
    found: Array = known[places.to_numpy(zero_copy_only=False)]
    return found


def _is_text(kind: Any) -> bool:
    import pyarrow.types as t

    return bool(t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind))
