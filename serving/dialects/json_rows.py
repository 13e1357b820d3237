"""JSON of the dialects that spell rows in several ways: objects, lists in the contract's order, columns by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from operator import itemgetter
from types import NoneType
from typing import Any

import numpy as np

from registry.contract import Column, Contract
from registry.errors import ContractViolation, FieldError
from serving.decode import Batch, Decoder, Mode
from serving.dialects.tabular import Array, Cells, check_count, check_names, read_table
from serving.errors import MAX_FIELD_ERRORS, Malformed
from serving.explain import expected, explain_row, json_type
from serving.json_text import read_json

_ACCEPTED: Mapping[str, set[type]] = {"float": {int, float}, "int": {int, float}, "bool": {bool}, "string": {str}}


def parse(data: bytes, *, most_rows: int, nan: bool = False) -> dict[str, Any]:
    """The object that a body is; arguments as of `read_json`.

    Raises:
        Malformed: not JSON, not an object, or a name occurs twice in an object.
    """
    value = read_json(data, most_rows=most_rows, nan=nan)
    if not isinstance(value, dict):
        raise Malformed("the body is not an object", expected="a JSON object", got=json_type(value))
    return value


def read_rows(
    decoder: Decoder, rows: Any, *, mode: Mode | None = None, entity: str | None = None, at: float | None = None
) -> Batch:
    """Rows that are objects, or lists in the contract's order; bare values where it has one column.

    Raises:
        ContractViolation, TooLarge: as `read_table`.
    """
    if not isinstance(rows, list):
        raise _violation(FieldError("rows", "of the wrong type", "a list of rows", json_type(rows)))
    mode = mode or decoder.mode
    check_count(decoder, len(rows))
    names = decoder.contract.names
    if all(type(row) is list for row in rows) and isinstance(rows[0], list):
        columns = _from_lists(rows, names)
    elif len(names) == 1 and not any(type(row) in (dict, list) for row in rows):
        columns = {names[0]: rows}
    else:
        columns = _from_objects(decoder.contract, rows, mode)
    return _read(decoder, columns, mode=mode, entity=entity, at=at)


def read_columns(
    decoder: Decoder, columns: Any, *, mode: Mode | None = None, entity: str | None = None, at: float | None = None
) -> Batch:
    """Columns by name, each a list of values or of one-value lists; all bare values are one row.

    Raises:
        ContractViolation, TooLarge: as `read_table`.
    """
    if not isinstance(columns, dict) or not columns:
        raise _violation(FieldError("inputs", "of the wrong type", "columns by name", json_type(columns)))
    lists = [type(values) is list for values in columns.values()]
    if not any(lists):
        columns = {name: [value] for name, value in columns.items()}
    elif not all(lists):
        raise _violation(FieldError("inputs", "of the wrong type", "a list of values for each column", "a value"))
    mode = mode or decoder.mode
    check_names(decoder, columns, mode=mode)
    flat = {name: _flat(columns[name]) for name in decoder.contract.names if name in columns}
    return _read(decoder, flat, mode=mode, entity=entity, at=at)


def _read(
    decoder: Decoder, columns: Mapping[str, list[Any]], *, mode: Mode, entity: str | None, at: float | None
) -> Batch:
    count = len(next(iter(columns.values())))
    check_count(decoder, count)
    check_names(decoder, columns, mode=mode)
    cells: dict[str, Cells] = {}
    found: list[FieldError] = []
    for column in decoder.contract.columns:
        if column.name not in columns:
            continue
        values = columns[column.name]
        if len(values) != count:
            raise _violation(FieldError(column.name, "not as long as the others", f"{count} values"))
        errors = _refused(column, values, mode)
        found += errors
        if not errors:
            cells[column.name] = replace(_cells(column, values), widened=_widened(column, values, mode))
    if found:
        raise _violation(*found[:MAX_FIELD_ERRORS])
    return read_table(decoder, cells, count, mode=mode, entity=entity, at=at)


def _from_lists(rows: Sequence[list[Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    ragged = [n for n, row in enumerate(rows) if len(row) != len(names)]
    if ragged:
        what = f"{len(names)} values, in the contract's order"
        raise _violation(
            *(FieldError(f"rows[{n}]", f"expected {what}", what, f"{len(rows[n])} values") for n in ragged[:20])
        )
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _from_objects(contract: Contract, rows: list[Any], mode: Mode) -> dict[str, list[Any]]:
    names = contract.names
    known = set(names)
    if not all(type(row) is dict and row.keys() == known for row in rows):
        rows = [_lenient(contract, row, mode) for row in rows] if mode != "strict" else rows
        found: list[FieldError] = []
        for n, row in enumerate(rows):
            if type(row) is not dict or row.keys() != known:
                found += islice(explain_row(contract, row, f"rows[{n}]"), MAX_FIELD_ERRORS)
            if len(found) >= MAX_FIELD_ERRORS:
                break
        if found:
            raise _violation(*found[:MAX_FIELD_ERRORS])
    return {name: list(map(itemgetter(name), rows)) for name in names}


def _lenient(contract: Contract, row: Any, mode: Mode) -> Any:
    if type(row) is not dict:
        return row
    kept = {name: value for name, value in row.items() if mode != "mlflow" or name in contract.names}
    return {**{column.name: None for column in contract.columns if column.nullable}, **kept}


def _flat(values: list[Any]) -> list[Any]:
    """A tensor [N, 1] as N values."""
    if values and all(type(value) is list and len(value) == 1 for value in values):
        return [value[0] for value in values]
    return values


def _refused(column: Column, values: list[Any], mode: Mode) -> list[FieldError]:
    """Values of a type that the column does not take: a look at the set of types, unless one of them is wrong."""
    accepted = {NoneType, *(_ACCEPTED[column.dtype] if mode == "strict" else _coercible(column))}
    if set(map(type, values)) <= accepted:
        return []
    what = expected(column)
    wrong = (n for n, value in enumerate(values) if type(value) not in accepted)
    return [
        FieldError(f"rows[{n}].{column.name}", f"expected {what}", what, json_type(values[n]))
        for n, _ in zip(wrong, range(MAX_FIELD_ERRORS), strict=False)
    ]


def _widened(column: Column, values: list[Any], mode: Mode) -> int:
    """How many values are not of the column's type to the letter: a column may be of several types here."""
    letter = {NoneType, *_ACCEPTED[column.dtype]}
    if mode == "strict" or set(map(type, values)) <= letter:
        return 0
    return sum(type(value) not in letter for value in values)


def _coercible(column: Column) -> set[type]:
    return {str, int} if column.dtype == "string" else {int, float, bool, str}


def _cells(column: Column, values: list[Any]) -> Cells:
    """Values of accepted types as an array; a mixture of them as text."""
    types = set(map(type, values)) - {NoneType}
    if types <= {bool} and column.dtype == "bool":
        null = np.array([value is None for value in values]) if None in values else None
        return Cells(np.array(values, dtype=np.bool_), "boolean", null)
    if types <= {int, float} and column.dtype != "string":
        return Cells(_doubles(values), "number")
    texts = np.empty(len(values), dtype=object)
    texts[:] = values if types <= {str} else [_text(value) for value in values]
    return Cells(texts, "string")


def _doubles(values: list[Any]) -> Array:
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:  # an integer beyond what a float holds
        return np.array([_double(value) for value in values], dtype=np.float64)


def _double(value: Any) -> float:
    try:
        return float("nan") if value is None else float(value)
    except OverflowError:
        return float("inf")


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return str(int(value)) if isinstance(value, bool) else repr(value)


def _violation(*errors: FieldError) -> ContractViolation:
    return ContractViolation(f"{errors[0].path}: {errors[0].message}", errors=errors)
