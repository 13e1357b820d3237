"""What is wrong with a row, field by field: for people, so off the fast path. Values are never echoed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from typing import Any

from registry.contract import Column, Contract
from registry.errors import FieldError

_JSON_NAMES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


def explain_row(contract: Contract, row: Any, path: str) -> Iterator[FieldError]:
    """The errors of one decoded JSON value that should be a row of `contract`."""
    if not isinstance(row, dict):
        yield FieldError(path, "not a row", "an object of feature values", json_type(row))
        return
    known = {column.name for column in contract.columns}
    missing = [column for column in contract.columns if column.name not in row]
    for name in (str(name) for name in row if name not in known):
        yield FieldError(
            f"{path}.{short(name)}", "unknown feature", "a feature of the contract", hint=did_you_mean(contract, name)
        )
    for column in missing:
        yield FieldError(f"{path}.{column.name}", "missing feature", expected(column), "nothing")
    for column in contract.columns:
        if column.name in row and not _fits(column, row[column.name]):
            got = json_type(row[column.name])
            infinite = isinstance(row[column.name], float) and not math.isfinite(row[column.name])
            message = "not finite" if infinite else f"expected {expected(column)}"
            yield FieldError(f"{path}.{column.name}", message, expected(column), got)


def did_you_mean(contract: Contract, name: str) -> str:
    """A hint at the feature whose name is nearest, if any is near."""
    near = difflib.get_close_matches(name[:100].lower(), [c.name.lower() for c in contract.columns], n=1)
    right = next((c.name for c in contract.columns if near and c.name.lower() == near[0]), None)
    return f"did you mean '{right}'?" if right else ""


def json_type(value: Any) -> str:
    """The JSON name of a value's type."""
    return "null" if value is None else _JSON_NAMES.get(type(value), "value")


def expected(column: Column) -> str:
    """The JSON name of what a column takes."""
    kind = {"float": "number", "int": "integer", "bool": "boolean", "string": "string"}[column.dtype]
    return f"{kind} or null" if column.nullable else kind


def _fits(column: Column, value: Any) -> bool:
    if value is None:
        return column.nullable
    if column.dtype == "string":
        return isinstance(value, str)
    if column.dtype == "bool":
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return column.dtype == "float" or float(value).is_integer()


def short(name: str) -> str:
    """A caller's own name for something, bounded and printable: whatever it holds, it can be answered."""
    return "".join(c for c in name[:63] if c.isprintable())
