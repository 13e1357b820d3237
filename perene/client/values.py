"""What apps hold, as JSON can say it: rows of any form, numbers of NumPy, times and nulls of pandas.

Neither NumPy nor pandas is imported: a value of theirs can only come once somebody else has.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeGuard
from uuid import UUID

from registry.errors import ContractViolation, FieldError

if TYPE_CHECKING:
    import pandas as pd

Rows = Any
"""A row or rows: mappings, dataclasses, models of pydantic, named tuples, rows of a DataFrame, or a DataFrame."""
Value = str | int | float | bool | None


def is_frame(thing: object) -> TypeGuard[pd.DataFrame]:
    """Whether this is a DataFrame of pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(thing, pandas.DataFrame)


def rows_of(given: Rows, what: str = "rows", *, within: str | None = None) -> list[dict[str, Any]]:
    """Rows by name, of values that JSON has.

    Args:
        given: a row or rows.
        what: they are called in errors.
        within: a name whose value may be a mapping of such values.

    Raises:
        ContractViolation: something is not a row, or a value has no form in JSON.
    """
    if is_frame(given):
        names = [str(name) for name in given.columns]
        _refuse_twice(names)
        columns = [[*given.iloc[:, n]] for n in range(len(names))]
        items: Iterable[Any] = (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
    elif _row_of(given) is not None:
        items = [given]
    elif isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise _no_rows(what, given)
    else:
        items = given
    return [_row(item, f"{what}[{n}]", within) for n, item in enumerate(items)]


def _row(item: Any, path: str, within: str | None = None) -> dict[str, Any]:
    row = _row_of(item)
    if row is None:
        raise _no_rows(path, item)
    return {
        str(name): _row(value, f"{path}.{name}")
        if name == within and isinstance(value, Mapping)
        else plain(value, f"{path}.{name}")
        for name, value in row.items()
    }


def _row_of(thing: Any) -> Mapping[Any, Any] | None:
    """What has names and values: a mapping, a record, a row of a DataFrame."""
    if isinstance(thing, Mapping):
        return thing
    if isinstance(thing, type):
        return None
    if dataclasses.is_dataclass(thing):
        return {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(thing, pandas.Series):
        return dict(zip(thing.index, thing, strict=True))
    told = getattr(thing, "model_dump", None) or getattr(thing, "_asdict", None)  # pydantic's, and named tuples'
    found = told() if callable(told) else None
    return found if isinstance(found, Mapping) else None


def plain(value: Any, path: str = "") -> Value:
    """A value as JSON has it: null for every kind of nothing, ISO 8601 for times.

    Raises:
        ContractViolation: it has no such form.
    """
    if isinstance(value, Enum):
        value = value.value
    if value is None or type(value) in (str, int, bool):
        return value  # type: ignore[no-any-return]
    if _is_nothing(value):
        return None
    if hasattr(value, "dtype") and getattr(value, "shape", None) == ():
        kind = getattr(value.dtype, "kind", "")
        if kind == "m":
            raise _violation(path, "a span of time", "number, boolean, string or null", "timedelta64")
        value = str(value) if kind == "M" else value.item()  # a time's `item` may be a number of nanoseconds
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (float, Decimal)):
        number = float(value)
        if not math.isfinite(number):
            raise _violation(path, "not finite", "a finite number", "number")
        return number
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise _violation(path, "a value that JSON has no form for", "number, boolean, string or null", type(value).__name__)


def _is_nothing(value: Any) -> bool:
    pandas = sys.modules.get("pandas")
    if pandas is not None and value is pandas.NA:  # it equals nothing and differs from nothing
        return True
    if isinstance(value, (float, Decimal)):
        return math.isnan(value)
    # NaT, of pandas or NumPy, is the only other scalar that differs from itself
    scalar = isinstance(value, date) or getattr(value, "shape", None) == ()
    return scalar and bool(value != value)  # noqa: PLR0124


def _refuse_twice(names: list[str]) -> None:
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    for name in sorted(twice):
        raise _violation(name, "a column that comes twice", "each column once", "")


def _no_rows(path: str, thing: object) -> ContractViolation:
    return _violation(path, "not a row", "a mapping, a dataclass or a DataFrame", type(thing).__name__)


def _violation(path: str, message: str, expected: str, got: str) -> ContractViolation:
    return ContractViolation(f"{path}: {message}", errors=(FieldError(path, message, expected, got),))
