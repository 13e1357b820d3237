"""Bodies as large as the cap allows, chosen to cost more than their size: each with the route that it is meant for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.hostile.requests import CAP, ROW

PREDICT: Final = "/models/toy/predict"
FEEDBACK: Final = "/models/toy/feedback"
OIP: Final = "/v2/models/toy/infer"
KSERVE: Final = "/v1/models/toy:predict"
MLFLOW: Final = "/invocations"
BAD: Final = {400, 413, 422}
_ROW: Final = json.dumps(ROW).encode()
_ID: Final = "0198c0de-0000-7000-8000-000000000000"


@dataclass(frozen=True)
class Dear:
    """A body, made when it is sent."""

    name: str
    path: str
    status: frozenset[int]
    body: Callable[[], bytes]
    media: str = "application/json"


def filled(before: bytes, piece: bytes, after: bytes, size: int = CAP) -> bytes:
    """As many pieces, with commas between if the piece ends with one, as fit."""
    count = (size - len(before) - len(after)) // len(piece)
    body = before + piece * count
    return (body[:-1] if piece.endswith(b",") else body) + after


def numbered(before: bytes, piece: str, after: bytes, size: int = CAP) -> bytes:
    """Pieces with a number in each."""
    left, parts, n = size - len(before) - len(after), [], 0
    while left > len(piece) + 8:
        parts.append((piece % n).encode())
        left -= len(parts[-1]) + 1
        n += 1
    return before + b",".join(parts) + after


class _Catalogue:
    """Collects bodies of about `size` bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.found: list[Dear] = []

    def add(
        self, name: str, path: str, status: set[int], body: Callable[[], bytes], media: str = "application/json"
    ) -> None:
        """A body for a route."""
        self.found.append(Dear(name, path, frozenset(status), body, media))

    def fill(self, before: bytes, piece: bytes, after: bytes) -> Callable[[], bytes]:
        """A piece again and again."""
        return lambda: filled(before, piece, after, self.size)

    def number(self, before: bytes, piece: str, after: bytes) -> Callable[[], bytes]:
        """Pieces with a number in each."""
        return lambda: numbered(before, piece, after, self.size)


def dear(size: int = CAP) -> list[Dear]:
    """The catalogue; `size` is that of each body."""
    catalogue = _Catalogue(size)
    for part in (_anywhere, _rows, _dialects):
        part(catalogue)
    return catalogue.found


def _anywhere(c: _Catalogue) -> None:
    """Any JSON, on any route that reads some."""
    for path in (PREDICT, FEEDBACK, OIP, KSERVE, MLFLOW):
        c.add("open lists", path, BAD, c.fill(b"", b"[", b""))
        c.add("open objects", path, BAD, c.fill(b"", b'{"a":', b""))
        c.add("blanks", path, BAD, c.fill(b"", b" ", b""))
        c.add("blanks around an object", path, BAD, c.fill(b"{", b" ", b"}"))
        c.add("a list of numbers", path, BAD, c.fill(b"[", b"1,", b"]"))
        c.add("a list of empty lists", path, BAD, c.fill(b"[", b"[],", b"]"))
        c.add("a list of empty objects", path, BAD, c.fill(b"[", b"{},", b"]"))
        c.add("one endless text", path, BAD, c.fill(b'{"a":"', b"a", b'"}'))
        c.add("one endless name", path, BAD, c.fill(b'{"', b"a", b'":1}'))
        c.add("one endless number", path, BAD, c.fill(b'{"a":', b"9", b"}"))
        c.add("escapes", path, BAD, c.fill(b'{"a":"', b"\\u0041", b'"}'))
        c.add("half pairs", path, BAD, c.fill(b'{"a":"', b"\\ud800", b'"}'))
        c.add("colons in a text", path, BAD, c.fill(b'{"a":"', b":", b'"}'))
        c.add("names, each once", path, BAD, c.number(b"{", '"n%d":1', b"}"))
        c.add("one name again and again", path, BAD, c.fill(b"{", b'"a":1,', b"}"))
        c.add("sound until the end", path, BAD, c.number(b"{", '"n%d":1', b""))
        c.add("not UTF-8 at the end", path, BAD, c.fill(b'{"a":"', b"a", b'\xff"}'))
        c.add("a byte order mark", path, BAD, c.fill(b"\xef\xbb\xbf[", b"1,", b"]"))
        c.add("numbers beyond all floats", path, BAD, c.fill(b'{"a":[', b"1e999,", b"]}"))
        c.add("no numbers at all", path, BAD, c.fill(b'{"a":[', b"NaN,", b"]}"))


def _rows(c: _Catalogue) -> None:
    """Rows that are nearly good."""
    c.add("good rows", PREDICT, BAD, c.fill(b'{"rows":[', _ROW + b",", b"]}"))
    c.add("good rows, then junk", PREDICT, BAD, c.fill(b'{"rows":[', _ROW + b",", b"]}x"))
    c.add("good rows and a colon", PREDICT, BAD, c.fill(b'{"entity":":","rows":[', _ROW + b",", b"]}"))
    c.add("rows that are none", PREDICT, BAD, c.fill(b'{"rows":[', b"1,", b"]}"))
    c.add("empty rows", PREDICT, BAD, c.fill(b'{"rows":[', b"{},", b"]}"))
    c.add("a row of unknown names", PREDICT, BAD, c.number(b'{"rows":[{', '"n%d":1', b"}]}"))
    c.add("a row of near names", PREDICT, BAD, c.number(b'{"rows":[{', '"temp%d":1', b"}]}"))
    c.add("endless entity", PREDICT, BAD | {200}, c.fill(b'{"entity":"', b"e", b'","rows":[' + _ROW + b"]}"))
    c.add("parameters", PREDICT, BAD | {200}, c.number(b'{"rows":[' + _ROW + b'],"params":{', '"p%d":{}', b"}}"))
    c.add("deep parameters", PREDICT, BAD, c.fill(b'{"rows":[' + _ROW + b'],"params":', b'{"a":', b""))
    c.add("a text of the row", PREDICT, BAD | {200}, c.fill(_ROW[:-3], b"A", b'"}'))


def _dialects(c: _Catalogue) -> None:
    """Labels, tensors, columns and lines."""
    c.add("labels", FEEDBACK, BAD, c.fill(b"[", b'{"prediction_id":"%b","label":1},' % _ID.encode(), b"]"))
    c.add("labels that are none", FEEDBACK, BAD, c.fill(b"[", b'{"prediction_id":"x","label":{}},', b"]"))
    c.add("an endless label", FEEDBACK, BAD | {200}, c.fill(b'[{"prediction_id":"x","label":"', b"a", b'"}]'))
    c.add("an endless id", FEEDBACK, BAD | {200}, c.fill(b'[{"label":1,"prediction_id":"', b"a", b'"}]'))
    tensor = b'{"name":"hour","datatype":"INT64","shape":[%d],"data":['
    c.add("a long tensor", OIP, BAD, c.fill(b'{"inputs":[' + tensor % 4_000_000, b"1,", b"]}]}"))
    c.add("a nested tensor", OIP, BAD, c.fill(b'{"inputs":[' + tensor % 9_999, b"[1],", b"]}]}"))
    c.add("a tensor of texts", OIP, BAD, c.fill(b'{"inputs":[' + tensor % 9_999, b'"a",', b"]}]}"))
    c.add(
        "tensors", OIP, BAD, c.fill(b'{"inputs":[', b'{"name":"a","datatype":"BOOL","shape":[1],"data":[true]},', b"]}")
    )
    c.add("outputs", OIP, BAD, c.fill(b'{"inputs":[],"outputs":[', b'{"name":"a"},', b"]}"))
    for path, name in ((KSERVE, b"instances"), (MLFLOW, b"dataframe_records")):
        c.add("good rows", path, BAD, c.fill(b'{"%b":[' % name, _ROW + b",", b"]}"))
        c.add("rows of lists", path, BAD, c.fill(b'{"%b":[' % name, b"[1,2,3,4],", b"]}"))
        c.add("bare values", path, BAD, c.fill(b'{"%b":[' % name, b"1,", b"]}"))
        c.add("a row of unknown names", path, BAD, c.number(b'{"%b":[{' % name, '"n%d":1', b"}]}"))
        c.add("columns of unknown names", path, BAD, c.number(b'{"inputs":{', '"n%d":[1]', b"}}"))
        c.add("a long column", path, BAD, c.fill(b'{"inputs":{"hour":[', b"1,", b"]}}"))
    split = b'{"dataframe_split":{"columns":["temp"],"data":['
    c.add("a long frame", MLFLOW, BAD, c.fill(split, b"[1],", b"]}}"))
    c.add(
        "a frame of many columns", MLFLOW, BAD, c.number(b'{"dataframe_split":{"columns":[', '"c%d"', b'],"data":[]}}')
    )
    c.add("lines", MLFLOW, BAD, c.fill(b"temp,hour,late,carrier\n", b"1,2,true,AA\n", b""), "text/csv")
    c.add("blank lines", MLFLOW, BAD, c.fill(b"temp,hour,late,carrier\n", b"\n", b""), "text/csv")
    c.add("commas", MLFLOW, BAD, c.fill(b"temp", b",", b"\n"), "text/csv")
    c.add("quotes", MLFLOW, BAD, c.fill(b"temp\n", b'"', b""), "text/csv")
