"""Columns become a batch, whole columns at a time: what every dialect that is not Perene's own reads into.

Three modes. `strict` takes a type for what it is, as Perene's own dialect does. `coerce` also takes, and nothing
else: 0 and 1 for a boolean, a boolean for a number, a text that spells a number or `true`/`false`, and a whole number
for a text; a column that may be null may be absent. `mlflow` is `coerce` with MLflow's two habits: columns that the
contract does not know are left out, and NaN is null. None of them rounds: `1.7` is no integer in any mode.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from registry.contract import Column
from registry.errors import ContractViolation, FieldError
from serving.decode import Batch, Decoder, Mode
from serving.errors import MAX_FIELD_ERRORS, TooLarge
from serving.explain import did_you_mean, expected, short

Array = npt.NDArray[Any]
_ACCEPTED = {"float": "fiu", "int": "fiu", "bool": "b", "string": "O"}
_COERCED = {"float": "fiub", "int": "fiub", "bool": "bfiu"}


@dataclass(frozen=True, slots=True)
class Cells:
    """One column of N values as a dialect brought it.

    `values` are booleans, integers or floats, or text: objects, each `str` or None. `kind` is the dialect's own name
    of their type; errors say it. `null` marks what is null beside NaN and None. `widened` counts the values that are
    not of the column's type to the letter, where the array's type does not tell.
    """

    values: Array
    kind: str
    null: Array | None = None
    widened: int | None = None


class Rows(Sequence[tuple[Any, ...]]):
    """The rows of a batch, as Python values in the contract's order; made when somebody first looks at one.

    Args:
        columns: the contract's.
        wide: its numbers [N, F] as float64, NaN for null.
        texts: its texts [N, S], None for null.
    """

    def __init__(self, columns: Sequence[Column], wide: Array, texts: Array) -> None:
        self._columns = columns
        self._wide = wide
        self._texts = texts
        self._made: list[tuple[Any, ...]] | None = None

    def __len__(self) -> int:
        return len(self._wide)

    def column(self, name: str) -> list[Any] | bytes:
        """One column as the event log takes it: texts, or numbers as float64 little endian."""
        column = next(column for column in self._columns if column.name == name)
        alike = [c.name for c in self._columns if (c.dtype == "string") == (column.dtype == "string")]
        place = alike.index(name)
        if column.dtype == "string":
            texts: list[Any] = self._texts[:, place].tolist()
            return texts
        return self._wide[:, place].astype("<f8").tobytes()

    @overload
    def __getitem__(self, index: int) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[Any, ...]]: ...
    def __getitem__(self, index: int | slice) -> tuple[Any, ...] | list[tuple[Any, ...]]:
        if self._made is None:
            self._made = _rows(self._columns, self._wide, self._texts)
        return self._made[index]


def check_count(decoder: Decoder, count: int) -> None:
    """Refuse no rows, and more than a request may have.

    Raises:
        ContractViolation, TooLarge: there are none, or too many.
    """
    if count < 1:
        raise ContractViolation("there are no rows", errors=(FieldError("rows", "there are no rows", "1 or more"),))
    if count > decoder.max_rows:
        raise TooLarge("too many rows in one request", where="rows", expected=f"at most {decoder.max_rows}")


def read_table(
    decoder: Decoder,
    columns: Mapping[str, Cells],
    count: int,
    *,
    mode: Mode | None = None,
    entity: str | None = None,
    at: float | None = None,
) -> Batch:
    """A batch of `count` rows from columns by name, in the decoder's mode unless another one is given.

    Raises:
        ContractViolation: a column is missing, unknown or of another type, or a value cannot be taken.
        TooLarge: more rows than a request may have.
    """
    mode = mode or decoder.mode
    check_count(decoder, count)
    contract = decoder.contract
    check_names(decoder, columns, mode=mode)
    wide = np.empty((count, len(contract.numbers)))
    texts = np.empty((count, len(contract.strings)), dtype=object)
    found: list[FieldError] = []
    for n, column in enumerate(contract.numbers):
        found += _numbers(column, columns.get(column.name), mode, wide[:, n])
    for n, column in enumerate(contract.strings):
        found += _texts(column, columns.get(column.name), mode, texts[:, n])
    if found:
        raise ContractViolation(f"{found[0].path}: {found[0].message}", errors=tuple(found[:MAX_FIELD_ERRORS]))
    tensors: dict[str, Array] = {}
    if contract.numbers:
        tensors["numbers"] = decoder.fit(wide)
    if contract.strings:
        # the graph knows no null: it is the empty text
        tensors["strings"] = np.where(texts == None, "", texts)  # noqa: E711
    given = [column for column in contract.columns if column.name in columns]
    widened = 0 if mode == "strict" else sum(_widened(column, columns[column.name]) for column in given)
    return Batch(Rows(contract.columns, wide, texts), tensors, entity, at, widened)


def check_names(decoder: Decoder, names: Mapping[str, Any], *, mode: Mode) -> None:
    """Refuse columns that the contract does not know or that are missing, as far as the mode minds.

    Raises:
        ContractViolation: with the name that was perhaps meant.
    """
    contract = decoder.contract
    known = {column.name: column for column in contract.columns}
    if names.keys() == known.keys():
        return
    found: list[FieldError] = []
    unknown = list(islice((name for name in names if name not in known), MAX_FIELD_ERRORS))
    for name in unknown if mode != "mlflow" else ():
        hint = did_you_mean(contract, name)
        found.append(FieldError(short(name), "unknown feature", "a feature of the contract", hint=hint))
    for name, column in known.items():
        if len(found) >= MAX_FIELD_ERRORS:
            break
        if name not in names and (mode == "strict" or not column.nullable):
            near = difflib.get_close_matches(name, [short(other) for other in unknown], n=1)
            hint = f"was it sent as '{near[0]}'?" if near and mode == "mlflow" else ""
            found.append(FieldError(name, "missing feature", expected(column), "nothing", hint))
    if found:
        raise ContractViolation(f"{found[0].path}: {found[0].message}", errors=tuple(found))


def _numbers(column: Column, cells: Cells | None, mode: Mode, out: Array) -> list[FieldError]:
    """Write a column into `out` as float64 with NaN for null; returns what is wrong with it."""
    if cells is None:
        out[:] = np.nan
        return []
    kinds = _ACCEPTED if mode == "strict" else _COERCED
    values, spelled = cells.values, mode != "strict" and cells.values.dtype.kind == "O"
    if spelled:
        values = np.fromiter((_spelled(v, column) for v in values), np.float64, len(values))
    elif values.dtype.kind not in kinds[column.dtype]:
        return [FieldError(column.name, f"expected {expected(column)}", expected(column), cells.kind)]
    out[:] = values
    missing = _missing(cells)
    out[missing] = np.nan
    # a text that spells nothing is infinite here; nothing that is spelled is
    wrong = np.isinf(out) if spelled else np.zeros(len(out), dtype=bool)
    if column.dtype == "bool":
        wrong |= (out != 0) & (out != 1) & ~np.isnan(out)
    found = _at(column, wrong, cells.kind)
    return found if column.nullable else found + _at(column, missing, "null")


def _texts(column: Column, cells: Cells | None, mode: Mode, out: Array) -> list[FieldError]:
    """Write a column of text into `out`, None for null; returns what is wrong with it."""
    if cells is None:
        return []  # an empty array of objects is full of None
    if cells.values.dtype.kind == "O":
        out[:] = cells.values
    elif mode != "strict" and cells.values.dtype.kind in "iu":
        out[:] = [str(value) for value in cells.values.tolist()]
    else:
        return [FieldError(column.name, f"expected {expected(column)}", expected(column), cells.kind)]
    missing = _missing(cells)
    out[missing] = None
    return [] if column.nullable else _at(column, missing, "null")


def _widened(column: Column, cells: Cells) -> int:
    """How many values are taken though they are not of the column's type to the letter."""
    if cells.widened is not None:
        return cells.widened
    if cells.values.dtype.kind in _ACCEPTED[column.dtype]:
        return 0
    return len(cells.values) - int(_missing(cells).sum())


def _missing(cells: Cells) -> Array:
    values = cells.values
    if values.dtype.kind == "O":
        found: Array = values == None  # noqa: E711 - element by element
    elif values.dtype.kind == "f":
        found = np.isnan(values)
    else:
        found = np.zeros(len(values), dtype=bool)
    return found if cells.null is None else found | cells.null


def _spelled(value: str | None, column: Column) -> float:
    if value is None:
        return float("nan")
    text = value.strip()
    if column.dtype == "bool" and text.lower() in ("true", "false"):
        return float(text.lower() == "true")
    try:
        number = float(text) if "_" not in text else float("inf")
    except ValueError:
        return float("inf")
    return float("inf") if np.isnan(number) else number


def _at(column: Column, wrong: Array, got: str) -> list[FieldError]:
    if not wrong.any():
        return []
    what = expected(column)
    return [
        FieldError(f"rows[{n}].{column.name}", f"expected {what}", what, got)
        for n in np.flatnonzero(wrong)[:MAX_FIELD_ERRORS].tolist()
    ]


def _rows(columns: Sequence[Column], wide: Array, texts: Array) -> list[tuple[Any, ...]]:
    """Rows as the event log keeps them: each value of its column's type, None for null."""
    values: list[list[Any]] = []
    numbers, strings = iter(range(wide.shape[1])), iter(range(texts.shape[1]))
    for column in columns:
        if column.dtype == "string":
            values.append(texts[:, next(strings)].tolist())
            continue
        given = wide[:, next(numbers)]
        missing = np.isnan(given)
        kind = {"float": np.float64, "int": np.int64, "bool": np.bool_}[column.dtype]
        kept = np.where(missing, 0, given).astype(kind).tolist()
        if missing.any():
            kept = [None if gone else value for gone, value in zip(missing.tolist(), kept, strict=True)]
        values.append(kept)
    return list(zip(*values, strict=True))
