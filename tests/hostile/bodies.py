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


def dear(size: int = CAP) -> list[Dear]:
    """The catalogue; `size` is that of each body."""
    found: list[Dear] = []
    row = json.dumps(ROW).encode()

    def add(name: str, path: str, status: set[int], body: Callable[[], bytes], media: str = "application/json") -> None:
        found.append(Dear(name, path, frozenset(status), body, media))

    def fill(before: bytes, piece: bytes, after: bytes) -> Callable[[], bytes]:
        return lambda: filled(before, piece, after, size)

    def number(before: bytes, piece: str, after: bytes) -> Callable[[], bytes]:
        return lambda: numbered(before, piece, after, size)

    bad = {400, 413, 422}
    for path in (PREDICT, FEEDBACK, OIP, KSERVE, MLFLOW):
        add("open lists", path, bad, fill(b"", b"[", b""))
        add("open objects", path, bad, fill(b"", b'{"a":', b""))
        add("blanks", path, bad, fill(b"", b" ", b""))
        add("blanks around an object", path, bad, fill(b"{", b" ", b"}"))
        add("a list of numbers", path, bad, fill(b"[", b"1,", b"]"))
        add("a list of empty lists", path, bad, fill(b"[", b"[],", b"]"))
        add("a list of empty objects", path, bad, fill(b"[", b"{},", b"]"))
        add("one endless text", path, bad, fill(b'{"a":"', b"a", b'"}'))
        add("one endless name", path, bad, fill(b'{"', b"a", b'":1}'))
        add("one endless number", path, bad, fill(b'{"a":', b"9", b"}"))
        add("escapes", path, bad, fill(b'{"a":"', b"\\u0041", b'"}'))
        add("half pairs", path, bad, fill(b'{"a":"', b"\\ud800", b'"}'))
        add("colons in a text", path, bad, fill(b'{"a":"', b":", b'"}'))
        add("names, each once", path, bad, number(b"{", '"n%d":1', b"}"))
        add("one name again and again", path, bad, fill(b"{", b'"a":1,', b"}"))
        add("sound until the end", path, bad, number(b"{", '"n%d":1', b""))
        add("not UTF-8 at the end", path, bad, fill(b'{"a":"', b"a", b'\xff"}'))
        add("a byte order mark", path, bad, fill(b"\xef\xbb\xbf[", b"1,", b"]"))
        add("numbers beyond all floats", path, bad, fill(b'{"a":[', b"1e999,", b"]}"))
        add("no numbers at all", path, bad, fill(b'{"a":[', b"NaN,", b"]}"))
    add("good rows", PREDICT, bad, fill(b'{"rows":[', row + b",", b"]}"))
    add("good rows, then junk", PREDICT, bad, fill(b'{"rows":[', row + b",", b"]}x"))
    add("good rows and a colon", PREDICT, bad, fill(b'{"entity":":","rows":[', row + b",", b"]}"))
    add("rows that are none", PREDICT, bad, fill(b'{"rows":[', b"1,", b"]}"))
    add("empty rows", PREDICT, bad, fill(b'{"rows":[', b"{},", b"]}"))
    add("a row of unknown names", PREDICT, bad, number(b'{"rows":[{', '"n%d":1', b"}]}"))
    add("a row of near names", PREDICT, bad, number(b'{"rows":[{', '"temp%d":1', b"}]}"))
    add("endless entity", PREDICT, bad | {200}, fill(b'{"entity":"', b"e", b'","rows":[' + row + b"]}"))
    add("parameters", PREDICT, bad | {200}, number(b'{"rows":[' + row + b'],"params":{', '"p%d":{}', b"}}"))
    add("deep parameters", PREDICT, bad, fill(b'{"rows":[' + row + b'],"params":', b'{"a":', b""))
    add("a text of the row", PREDICT, bad | {200}, fill(row[:-3], b"A", b'"}'))
    add("labels", FEEDBACK, bad, fill(b"[", b'{"prediction_id":"%b","label":1},' % _ID.encode(), b"]"))
    add("labels that are none", FEEDBACK, bad, fill(b"[", b'{"prediction_id":"x","label":{}},', b"]"))
    add("an endless label", FEEDBACK, bad | {200}, fill(b'[{"prediction_id":"x","label":"', b"a", b'"}]'))
    add("an endless id", FEEDBACK, bad | {200}, fill(b'[{"label":1,"prediction_id":"', b"a", b'"}]'))
    tensor = b'{"name":"hour","datatype":"INT64","shape":[%d],"data":['
    add("a long tensor", OIP, bad, fill(b'{"inputs":[' + tensor % 4_000_000, b"1,", b"]}]}"))
    add("a nested tensor", OIP, bad, fill(b'{"inputs":[' + tensor % 9_999, b"[1],", b"]}]}"))
    add("a tensor of texts", OIP, bad, fill(b'{"inputs":[' + tensor % 9_999, b'"a",', b"]}]}"))
    add("tensors", OIP, bad, fill(b'{"inputs":[', b'{"name":"a","datatype":"BOOL","shape":[1],"data":[true]},', b"]}"))
    add("outputs", OIP, bad, fill(b'{"inputs":[],"outputs":[', b'{"name":"a"},', b"]}"))
    for path, name in ((KSERVE, b"instances"), (MLFLOW, b"dataframe_records")):
        add("good rows", path, bad, fill(b'{"%b":[' % name, row + b",", b"]}"))
        add("rows of lists", path, bad, fill(b'{"%b":[' % name, b"[1,2,3,4],", b"]}"))
        add("bare values", path, bad, fill(b'{"%b":[' % name, b"1,", b"]}"))
        add("a row of unknown names", path, bad, number(b'{"%b":[{' % name, '"n%d":1', b"}]}"))
        add("columns of unknown names", path, bad, number(b'{"inputs":{', '"n%d":[1]', b"}}"))
        add("a long column", path, bad, fill(b'{"inputs":{"hour":[', b"1,", b"]}}"))
    split = b'{"dataframe_split":{"columns":["temp"],"data":['
    add("a long frame", MLFLOW, bad, fill(split, b"[1],", b"]}}"))
    add("a frame of many columns", MLFLOW, bad, number(b'{"dataframe_split":{"columns":[', '"c%d"', b'],"data":[]}}'))
    add("lines", MLFLOW, bad, fill(b"temp,hour,late,carrier\n", b"1,2,true,AA\n", b""), "text/csv")
    add("blank lines", MLFLOW, bad, fill(b"temp,hour,late,carrier\n", b"\n", b""), "text/csv")
    add("commas", MLFLOW, bad, fill(b"temp", b",", b"\n"), "text/csv")
    add("quotes", MLFLOW, bad, fill(b"temp\n", b'"', b""), "text/csv")
    return found


