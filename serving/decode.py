"""The contract is the parser: compiled once into a msgspec decoder and the packing of numpy tensors.

The fast path accepts or refuses; only a refused body is read a second time, to say everything that is wrong with it.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from operator import itemgetter
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from registry.contract import EXACT_INT, Column, Contract
from registry.errors import ContractViolation, FieldError
from serving.errors import Malformed, TooLarge
from serving.explain import explain_row, short
from serving.json_text import LEAST_ROWS, NAMES_PER_ROW, check_parts, read_json

Array = npt.NDArray[Any]
Mode = Literal["strict", "coerce", "mlflow"]
"""How far a value may be from its column's type; `serving.dialects.tabular` says what each mode takes."""
# 3.0 is a whole number too: whether an integer column got one is seen when it is packed
_TYPES: dict[str, Any] = {"float": float, "int": int | float, "bool": bool, "string": str}
_TOP = ("rows", "entity", "at", "params")
_LARGE = 64 * 1024
_MOST_STRANGE = 10_000
"""Values beyond those that rows of the contract can have, up to which a body is worth saying what is wrong with it."""
_EXPLAINED = 500
"""Rows that are looked at, from the first wrong one on, for what else is wrong."""
_BEYOND = re.compile(r"out of range - at `\$\.(rows\[\d+\]\.[^`]+)`")
_FIRST = re.compile(r"\$\.rows\[(\d+)\]")


class Rows(msgspec.Struct, frozen=True):
    """A body that was read and checked against the types of the contract, and not packed yet."""

    values: list[tuple[Any, ...]]
    entity: str | None
    at: float | None


class Batch(msgspec.Struct, frozen=True):
    """A decoded request: N rows of values in the contract's order, and the tensors the graph takes."""

    rows: Sequence[tuple[Any, ...]]
    tensors: dict[str, Array]
    entity: str | None
    at: float | None
    widened: int = 0
    """Values that were taken though they are not of their column's type to the letter."""


class Decoder:
    """Reads request bodies of one contract."""

    def __init__(self, contract: Contract, *, max_rows: int, mode: Mode = "strict") -> None:
        self.contract = contract
        self.mode = mode
        self.max_rows = max_rows
        fields = [(f"c{i}", _field_type(c)) for i, c in enumerate(contract.columns)]
        rename = {f"c{i}": c.name for i, c in enumerate(contract.columns)}
        row = msgspec.defstruct("Row", fields, rename=rename, forbid_unknown_fields=True, frozen=True, gc=False)
        body = msgspec.defstruct(
            "Body",
            [
                ("rows", list[row]),  # type: ignore[valid-type]
                ("entity", str | None, None),
                ("at", str | None, None),
                ("params", dict[str, Any] | None, None),
            ],
            forbid_unknown_fields=True,
            frozen=True,
        )
        self._body = msgspec.json.Decoder(body)
        self._row = msgspec.json.Decoder(row)
        self._numbers = [i for i, c in enumerate(contract.columns) if c.dtype != "string"]
        self._strings = [i for i, c in enumerate(contract.columns) if c.dtype == "string"]
        self._numbers_of, self._texts_of = _picked(self._numbers), _picked(self._strings)
        self._doubles = struct.Struct(f"{len(self._numbers)}d").pack
        self._whole = [i for i, c in enumerate(contract.numbers) if c.dtype == "int"]

    def decode(self, data: bytes) -> Batch:
        """Read a body and pack its rows.

        Raises:
            Malformed, TooLarge, ContractViolation: as for `read` and `pack`.
        """
        try:
            found = self.read(data)
        except (Malformed, ContractViolation):
            if self.mode == "strict":
                raise
            return self._coerced(data)
        return Batch(found.values, self.pack(found.values), found.entity, found.at)

    def read(self, data: bytes) -> Rows:
        """Read a body: `{"rows": […], "entity"?, "at"?, "params"?}` or one bare row; to the letter of the contract.

        Raises:
            Malformed: not JSON, or a key occurs twice.
            TooLarge: more rows than a request may have.
            ContractViolation: up to 20 field errors.
        """
        entity = at = None
        keys = 0
        if len(data) > _LARGE:
            check_parts(data, self.max_rows)
            self._check_values(data, NAMES_PER_ROW * max(self.max_rows, LEAST_ROWS))
        try:
            if b'"rows"' in data:
                body: Any = self._body.decode(data)
                rows, entity, at = body.rows, body.entity, body.at
                keys = 1 + (entity is not None) + (at is not None)
                keys += (entity or "").count(":") + (at or "").count(":")
            else:
                rows = [self._row.decode(data)]
        except (msgspec.ValidationError, OverflowError) as error:
            rows = self._bare(data, str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed("the body is not JSON", expected="JSON in UTF-8", hint=str(error)[:200]) from None
        if len(rows) > self.max_rows:
            raise TooLarge("too many rows in one request", where="rows", expected=f"at most {self.max_rows}")
        # a key that occurs twice makes more colons than keys; only then is the body worth a second look
        if b"\\" in data or data.count(b":") > keys + len(rows) * len(self.contract.columns):
            read_json(data, most_rows=self.max_rows)
        if not rows:
            raise ContractViolation("there are no rows", errors=(FieldError("rows", "there are no rows", "1 or more"),))
        values = [msgspec.structs.astuple(row) for row in rows]
        return Rows(values, entity, seconds(at))

    def _check_values(self, data: bytes, most: int) -> None:
        if data.count(b",") > most:
            raise Malformed("the body has too many parts", where="body", expected="rows of the contract's features")

    def _coerced(self, data: bytes) -> Batch:
        """A body that is not of the contract to the letter, as the mode takes it."""
        from serving.dialects.json_rows import parse, read_rows

        body = parse(data, most_rows=self.max_rows)
        if "rows" not in body:
            return read_rows(self, [body])
        about = [body.get(name) for name in ("entity", "at")]
        if not body.keys() <= set(_TOP) or not all(isinstance(value, str | None) for value in about):
            raise self._explain(data)
        return read_rows(self, body["rows"], entity=about[0], at=seconds(about[1]))

    def _bare(self, data: bytes, told: str) -> list[Any]:
        """A bare row with the text "rows" as a value looks like the other form at first sight."""
        try:
            return [self._row.decode(data)]
        except (msgspec.DecodeError, OverflowError, RecursionError):
            raise self._explain(data, told) from None

    def pack(self, values: Sequence[tuple[Any, ...]]) -> dict[str, Array]:
        """Rows of values as `numbers` of the contract's precision [N, F] and `strings` [N, S].

        Raises:
            ContractViolation: a number is not finite in that precision, or an integer would be rounded.
        """
        tensors: dict[str, Array] = {}
        if self._numbers:
            tensors["numbers"] = self.fit(self._wide(values))
        if self._strings:
            texts = np.empty(len(values) * len(self._strings), dtype=object)
            texts[:] = [text or "" for text in chain.from_iterable(map(self._texts_of, values))]
            tensors["strings"] = texts.reshape(len(values), -1)
        return tensors

    def _wide(self, values: Sequence[tuple[Any, ...]]) -> Array:
        numbers = list(map(self._numbers_of, values))
        try:
            # numpy looks at each value of a list for a type first: that takes longer than all the rest
            doubles = b"".join([self._doubles(*row) for row in numbers])
        except (struct.error, OverflowError):  # a null, or an integer beyond all floats
            try:
                return np.array(numbers, dtype=np.float64)
            except OverflowError:
                return np.array([list(map(_double, row)) for row in numbers], dtype=np.float64)
        return np.frombuffer(doubles).reshape(len(values), -1)

    def fit(self, wide: Array) -> Array:
        """Numbers [N, F] in float64, null as NaN, in the contract's precision.

        Raises:
            ContractViolation: one is not finite in that precision, or an integer is a fraction or would be rounded.
        """
        with np.errstate(over="ignore"):
            packed = wide.astype(self.contract.precision)
        if np.isinf(packed).any():
            kind = self.contract.precision
            raise self._unfit(np.isinf(packed), f"not finite as {kind}", f"a finite {kind}", "not_finite")
        if self._whole:
            whole = wide[:, self._whole]
            most = EXACT_INT[self.contract.precision]
            limit = f"an integer up to {most}"
            self._refuse_whole(np.abs(whole) > most, "too large to be exact", limit)
            # null is NaN, which equals nothing: it is neither whole nor a fraction
            self._refuse_whole((whole != np.rint(whole)) & ~np.isnan(whole), "expected integer", "integer")
        return packed

    def _refuse_whole(self, bad: Array, message: str, expected: str) -> None:
        if bad.any():
            everywhere = np.zeros((len(bad), len(self._numbers)), dtype=bool)
            everywhere[:, self._whole] = bad
            raise self._unfit(everywhere, message, expected, "number")

    def _unfit(self, bad: Array, message: str, expected: str, got: str) -> ContractViolation:
        found = [
            FieldError(f"rows[{n}].{self.contract.numbers[i].name}", message, expected, got)
            for n, i in np.argwhere(bad)[:20].tolist()
        ]
        return ContractViolation(f"{found[0].path}: {message}", errors=tuple(found))

    def _explain(self, data: bytes, told: str = "") -> ContractViolation | Malformed:
        """What is wrong with a body that the fast path refused; where it `told` of a row, all before that are right."""
        beyond = _BEYOND.search(told)
        if beyond and len(data) > _LARGE:  # looking for others takes a slower parser through all of it
            error = FieldError(short(beyond[1]), "not finite", "a number within the range of its type", "number")
            return ContractViolation(f"{error.path}: {error.message}", errors=(error,))
        objects = data.count(b"{") + data.count(b"[")
        self._check_values(data, max(len(self.contract.columns), NAMES_PER_ROW) * objects + _MOST_STRANGE)
        whole = read_json(data, most_rows=self.max_rows)
        if not isinstance(whole, dict):
            got = type(whole).__name__
            return Malformed("the body is not an object", expected='{"rows": […]} or one row', got=got)
        found: list[FieldError] = []
        rows: Any = [whole]
        if "rows" in whole:
            rows = whole["rows"]
            found += [FieldError(short(key), "unknown key", ", ".join(_TOP)) for key in whole if key not in _TOP]
            found += [
                FieldError(key, "of the wrong type", "string", type(whole[key]).__name__)
                for key in ("entity", "at")
                if not isinstance(whole.get(key), str | None)
            ]
        if not isinstance(rows, list):
            found.append(FieldError("rows", "of the wrong type", "a list of rows", type(rows).__name__))
            rows = []
        first_wrong = _FIRST.search(told)
        begin = int(first_wrong[1]) if first_wrong else 0
        for n, row in enumerate(rows[begin : begin + _EXPLAINED], begin):
            # a row may have a million features that nobody knows
            found += islice(explain_row(self.contract, row, f"rows[{n}]"), 20)
            if len(found) >= 20:
                break
        if not found:
            found = [FieldError("rows", "a value is outside of what its type can hold", "JSON of the contract")]
        first = found[0]
        return ContractViolation(f"{first.path}: {first.message}", errors=tuple(found[:20]))


def _double(value: float | None) -> float | None:
    """The value as a float; one beyond all floats is infinite, which `fit` refuses by its place."""
    try:
        return value if value is None else float(value)
    except OverflowError:
        return math.inf


def _picked(places: Sequence[int]) -> Callable[[tuple[Any, ...]], Sequence[Any]]:
    """Takes the values at these places of a row."""
    if len(places) == 1:
        return itemgetter(slice(places[0], places[0] + 1))
    return itemgetter(*places) if places else lambda _row: ()


def _field_type(column: Column) -> Any:
    kind = _TYPES[column.dtype]
    return kind | None if column.nullable else kind


def seconds(at: str | None) -> float | None:
    """An event time as unix seconds; without an offset it is UTC.

    Raises:
        ContractViolation: it is not RFC 3339.
    """
    if at is None:
        return None
    try:
        moment = datetime.fromisoformat(at)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        error = FieldError("at", "not a time", "RFC 3339, for example 2013-04-01T12:00:00Z", "string")
        raise ContractViolation("at: not a time", errors=(error,)) from None
