"""JSON to the letter of RFC 8259, for bodies whose form no decoder knows beforehand.

msgspec decides what is JSON. A number beyond all floats is JSON too, and its column deserves an answer of its own: only
for that, and for NaN where a dialect takes it, is a body read again by something slower.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec

from serving.errors import Malformed

PARTS_PER_ROW: Final = 20
"""Lists and objects that a body may have for each row that a request may have: the dear ones are all brackets."""
NAMES_PER_ROW: Final = 64
LEAST_ROWS: Final = 1_000
PART_BYTES: Final = 40
"""Where parts are this large on average, there may be any number: rows are wide where a contract has many columns."""
NAME_BYTES: Final = 12
_TEXT: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_HALF: Final = re.compile("[\ud800-\udfff]")


def read_json(data: bytes, *, most_rows: int, nan: bool = False) -> Any:
    """The value that a body is.

    Args:
        data: the body.
        most_rows: how many rows a request may have.
        nan: take the literals NaN and Infinity, which JSON has not, for the numbers that they name.

    Raises:
        Malformed: not JSON in UTF-8, a name occurs twice in an object, or more lists, objects or names than so many
            rows can have.
    """
    colons = check_parts(data, most_rows)
    try:
        value = msgspec.json.decode(data)
    except RecursionError:
        raise Malformed("the body is nested too deeply", expected="JSON in UTF-8") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        constants = data.count(b"NaN") + data.count(b"Infinity") if nan else 0
        if "out of range" not in str(error) and not 0 < constants <= NAMES_PER_ROW * max(most_rows, LEAST_ROWS):
            raise not_json() from None
        value = read_again(data, nan=nan)
    # a name that occurs twice makes more colons than names; only then is the body worth a second look
    if colons and colons > _names(value, data.count(b"{")):
        refuse_twice(data, value)
    return value


def check_parts(data: bytes, most_rows: int) -> int:
    """Refuse a body of more parts than a request can need, before any of them is made; returns its colons.

    Raises:
        Malformed: it has more.
    """
    rows, size, colons = max(most_rows, LEAST_ROWS), len(data), data.count(b":")
    most = max(PARTS_PER_ROW * rows, size // PART_BYTES), max(NAMES_PER_ROW * rows, size // NAME_BYTES)
    if data.count(b"[") + data.count(b"{") > most[0] or colons > most[1]:
        raise Malformed("the body has too many parts", where="body", expected="fewer lists, objects and names")
    return colons


def read_again(data: bytes, *, nan: bool = False) -> Any:
    """The value of a body, in which numbers beyond all floats are infinite.

    Raises:
        Malformed: not JSON in UTF-8.
    """
    try:
        value = json.loads(data.decode(), parse_int=_whole, parse_constant=float if nan else _no_constant)
    except (ValueError, RecursionError):
        raise not_json() from None
    if b"\\u" in data and _HALF.search(json.dumps(value, ensure_ascii=False)):
        raise not_json()  # half of a surrogate pair is no text
    return value


def refuse_twice(data: bytes, value: Any) -> None:
    """Refuse a name that occurs twice in an object: parsers disagree on which one counts.

    Args:
        data: JSON.
        value: what it was read as.

    Raises:
        Malformed: there is such a name.
    """
    pairs = _TEXT.sub(b"", data).count(b":")
    if pairs != _names(value, data.count(b"{"), everywhere=True):
        raise Malformed("a key occurs twice in one object", expected="each key once")


def not_json() -> Malformed:
    """The body is no JSON."""
    return Malformed("the body is not JSON", expected="JSON in UTF-8")


def _no_constant(text: str) -> float:
    raise ValueError(text)


def _whole(text: str) -> int | float:
    # thousands of digits cost quadratic time to convert, and are refused whatever they are
    return int(text) if len(text) < 25 else float("inf")


def _names(value: Any, objects: int, *, everywhere: bool = False) -> int:
    """How many names the objects in `value` have; it is left off looking once `objects` of them were met."""
    count = 0
    left: list[Any] = [value]
    while left and objects > 0:
        met = left.pop()
        if isinstance(met, dict):
            objects -= 1
            count += len(met)
            left.extend(v for v in met.values() if type(v) in (dict, list))
        elif met and (everywhere or type(met[0]) in (dict, list)) and type(met) is list:
            # lists of numbers are long: one that begins with a scalar is not looked through
            left.extend(v for v in met if type(v) in (dict, list))
    return count
