"""RFC 8259 on every route that takes JSON: what is none is 400 everywhere, what is some never fails."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.hostile_server import hostile_server
from tests.acceptance.test_serving_process import Server
from tests.hostile.json_texts import Text, texts
from tests.hostile.requests import ROW

_ROW = json.dumps(ROW).encode()
_ID = b"0198c0de-0000-7000-8000-000000000000"
_INPUTS = json.dumps(
    [
        {"name": name, "datatype": kind, "shape": [1], "data": [ROW[name]]}
        for name, kind in (("temp", "FP32"), ("hour", "INT64"), ("late", "BOOL"), ("carrier", "BYTES"))
    ]
).encode()


@dataclass(frozen=True)
class Place:
    """Where a text goes: a route, and the body around it.

    `ignored`: whatever JSON stands there, the request is good. `constants`: NaN and its like are taken, because the
    clients of that dialect write them.
    """

    name: str
    path: str
    before: bytes
    after: bytes = b""
    ignored: bool = False
    constants: bool = False


PLACES = (
    Place("whole, fast", "/predict", b""),
    Place("whole, application", "/predict?lane=application", b""),
    Place("parameter, fast", "/predict", b'{"rows":[' + _ROW + b'],"params":{"x":', b"}}", ignored=True),
    Place("parameter, application", "/predict?a=1", b'{"rows":[' + _ROW + b'],"params":{"x":', b"}}", ignored=True),
    Place("feature, fast", "/models/toy/predict", b'{"rows":[{"carrier":"AA","hour":7,"late":true,"temp":', b"}]}"),
    Place("feature, application", "/predict?a=1", b'{"carrier":"AA","hour":7,"late":true,"temp":', b"}"),
    Place("text, fast", "/predict", b'{"temp":1.5,"hour":7,"late":true,"carrier":', b"}"),
    Place("text, application", "/predict?a=1", b'{"rows":[{"temp":1.5,"hour":7,"late":true,"carrier":', b"}]}"),
    Place("label, whole", "/models/toy/feedback", b""),
    Place(
        "label, beside", "/models/toy/feedback", b'[{"prediction_id":"' + _ID + b'","label":1,"x":', b"}]", ignored=True
    ),
    Place("label", "/models/toy/feedback", b'[{"prediction_id":"' + _ID + b'","label":', b"}]", ignored=True),
    Place("KServe, whole", "/v1/models/toy:predict", b""),
    Place("KServe", "/v1/models/toy:predict", b'{"instances":[' + _ROW + b'],"parameters":{"x":', b"}}", ignored=True),
    Place("OIP, whole", "/v2/models/toy/infer", b"", constants=True),
    Place(
        "OIP",
        "/v2/models/toy/infer",
        b'{"inputs":' + _INPUTS + b',"parameters":{"x":',
        b"}}",
        ignored=True,
        constants=True,
    ),
    Place("MLflow, whole", "/invocations", b"", constants=True),
    Place(
        "MLflow",
        "/invocations",
        b'{"dataframe_records":[' + _ROW + b'],"params":{"x":',
        b"}}",
        ignored=True,
        constants=True,
    ),
)


@pytest.fixture(scope="module")
def server(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with hostile_server(toy_bundle, tmp_path_factory.mktemp("json")) as running:
        yield running


@pytest.fixture(scope="module")
def ask(server: Server) -> Iterator[Callable[[str, bytes], tuple[int, bytes]]]:
    """Status and body of one request, on a connection that is kept."""
    connection = server.connect()
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}

    def send(path: str, body: bytes) -> tuple[int, bytes]:
        for again in (False, True):
            try:
                connection.request("POST", path, body, headers)
                reply = connection.getresponse()
                return reply.status, reply.read()
            except (http.client.RemoteDisconnected, BrokenPipeError):
                assert not again, (path, body[:100])
                connection.close()
        raise AssertionError

    yield send
    connection.close()


def allowed(text: Text, place: Place) -> set[int]:
    """The statuses that a text may get in a place."""
    if text.constant and place.constants:
        return {200, 400, 422}
    if text.verdict in ("no", "own"):
        return {400}
    if text.verdict == "yes" and place.ignored:
        return {200}
    if text.verdict == "yes" and place.before:
        return {200, 422}
    return {200, 400, 422}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_json_is_json_everywhere(place: Place, ask: Callable[[str, bytes], tuple[int, bytes]]) -> None:
    """What must be refused is 400, what must be taken is taken, and what may be either is never a failure of ours."""
    wrong: list[str] = []
    seen = Counter[int]()
    for text in texts():
        status, body = ask(place.path, place.before + text.data + place.after)
        seen[status] += 1
        if status not in allowed(text, place):
            wrong.append(f"{text.name} ({text.verdict}): {status} {body[:120]!r}")
    assert wrong == []
    assert seen[400] > 350
    assert seen[200] > 100 or not place.ignored


def test_numbers_and_texts_arrive_where_they_fit(ask: Callable[[str, bytes], tuple[int, bytes]]) -> None:
    """A number that a column can hold is taken, whatever way it is written; so is every text."""
    number, text = (next(place for place in PLACES if place.name == name) for name in ("feature, fast", "text, fast"))
    for case in texts():
        if case.verdict == "yes":
            value = json.loads(case.data)
            place = text if isinstance(value, str) else number
            fits = isinstance(value, str) or value is None
            if isinstance(value, int | float) and not isinstance(value, bool):
                fits = abs(value) < 3e38
            status, body = ask(place.path, place.before + case.data + place.after)
            assert status == (200 if fits else 422), (case.name, body)


def test_a_lenient_parser_would_be_found() -> None:
    """The control: what Python's own parser makes of the same texts breaks the same rules."""
    taken = []
    for text in texts():
        try:
            json.loads(text.data)
        except (ValueError, RecursionError):
            continue
        taken += [text] if text.verdict in ("no", "own") else []
    assert len(taken) > 30
