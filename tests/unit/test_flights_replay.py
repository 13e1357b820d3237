"""The replay against a real, tiny and unreliable HTTP server."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest

from examples.flights.replay import Counts, Leg, legs, play, sampled
from examples.flights.wire import Refused, Wire

START = datetime(2013, 4, 1, tzinfo=UTC)


@dataclass
class Record:
    """What the server acknowledged, and how it misbehaves."""

    drop: float = 0.0
    status: int = 200
    lock: threading.Lock = field(default_factory=threading.Lock)
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    log: list[tuple[str, Any]] = field(default_factory=list)
    dropped: int = 0
    keys: set[str] = field(default_factory=set)

    def of(self, kind: str) -> list[Any]:
        return [body for what, body in self.log if what == kind]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: 40 ms an answer otherwise
    record: Record

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        record = self.record
        kind = self.path.rsplit("/", 1)[1]
        with record.lock:
            record.keys.add(self.headers["Authorization"])
            # half of the drops come before the work is done, half after it: the client cannot tell
            fate = record.dice.random()
            if fate < record.drop / 2:
                record.dropped += 1
                return self._hang_up()
            if record.status == 200:
                record.log.append((kind, body))
            if fate < record.drop:
                record.dropped += 1
                return self._hang_up()
            number = len(record.log)
        answer: dict[str, Any] = {"error": {"code": "contract_violation"}}
        if record.status == 200:
            answer = {"prediction_ids": [f"{body['entity']}#{number}"]} if kind == "predict" else {"results": []}
        content = json.dumps(answer).encode()
        self.send_response(record.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None

    def _hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@contextmanager
def server(record: Record) -> Iterator[str]:
    handler = type("Bound", (Handler,), {"record": record})
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def some_legs(count: int) -> list[Leg]:
    return [
        Leg(
            f"UA{n}",
            START + timedelta(minutes=7 * n),
            START + timedelta(minutes=7 * n + 60 + (n * 37) % 300),
            {"carrier": "UA", "distance": n, "temp": None},
            100.0 + n,
        )
        for n in range(count)
    ]


def run(record: Record, flights: list[Leg], *, connections: int = 2, **more: Any) -> Counts:
    never: Any = lambda: False  # noqa: E731
    with server(record) as url:
        wires = [Wire(url, "prn_k", stop=more.get("stop", never), patience_s=60) for _ in range(connections)]
        options = {"hold": never, "stop": never, "on_progress": lambda counts: None, **more}
        try:
            return play(flights, wires, "flight-time", start=START, **options)
        finally:
            for wire in wires:
                wire.close()


def at(body: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(body["at"])


def test_one_connection_asks_in_order_of_departure() -> None:
    """With one connection the server sees departures exactly in time order, each with its flight as entity."""
    record = Record()
    counts = run(record, some_legs(300), connections=1)
    asked = record.of("predict")
    assert [f"UA{n}" for n in range(300)] == [body["entity"] for body in asked]
    assert sorted(at(body) for body in asked) == [at(body) for body in asked]
    assert {
        "rows": [{"carrier": "UA", "distance": 3, "temp": None}],
        "entity": "UA3",
        "at": "2013-04-01T00:21:00Z",
    } == (asked[3])
    assert (300, 300, 0, 0) == (counts.predictions, counts.labels, counts.refused, counts.retries)
    assert {"Bearer prn_k"} == record.keys


def test_labels_never_come_before_event_time_has_passed_their_landing() -> None:
    """No label is posted while a flight that departs before its landing has yet to be asked for."""
    record = Record()
    flights = some_legs(400)
    run(record, flights)
    landed = {leg.id: leg.landed for leg in flights}
    clock, before_the_end = START, 0
    last_departure = max(leg.at for leg in flights)
    for kind, body in record.log:
        if kind == "predict":
            clock = max(clock, at(body))
            continue
        for item in body:
            assert landed[item["prediction_id"].split("#")[0]] == at(item)
            # one step is asked for over several connections at once, so the clock is right up to a step
            if clock < last_departure - timedelta(minutes=30):
                before_the_end += 1
                assert at(item) <= clock + timedelta(minutes=30)
    assert before_the_end > 200
    moments = [at(item) for body in record.of("feedback") for item in body]
    assert all(a <= b for a, b in pairwise(moments))


def test_a_server_that_drops_connections_loses_nothing() -> None:
    """Every flight ends up predicted and labelled once in the client's books, whatever the server dropped."""
    record = Record(drop=0.2)
    flights = some_legs(200)
    counts = run(record, flights)
    assert record.dropped > 20
    assert counts.retries >= record.dropped
    assert (200, 200) == (counts.predictions, counts.labels)
    assert {leg.id for leg in flights} == {body["entity"] for body in record.of("predict")}
    labels = {item["prediction_id"]: item["label"] for body in record.of("feedback") for item in body}
    assert {leg.id: leg.label for leg in flights} == {key.split("#")[0]: label for key, label in labels.items()}
    assert 200 == len(labels)


def test_event_time_stands_still_while_held() -> None:
    """Nothing is asked while `hold` answers true."""
    record = Record()
    asked_while_held: list[int] = []

    def hold() -> bool:
        asked_while_held.append(len(record.of("predict")))
        return 3 <= len(asked_while_held) <= 6

    run(record, some_legs(60), hold=hold)
    assert 1 == len(set(asked_while_held[2:7]))
    assert 60 == len(record.of("predict"))


def test_stop_ends_between_steps_and_progress_tells_where_to_go_on() -> None:
    """Flights from `at` on have not been asked for; all before it have."""
    record = Record()
    seen: list[datetime] = []
    flights = some_legs(100)
    counts = run(record, flights, on_progress=lambda c: seen.append(c.at), stop=lambda: len(seen) >= 5)
    assert START + timedelta(minutes=150) == counts.at
    assert {leg.id for leg in flights if leg.at < counts.at} == {body["entity"] for body in record.of("predict")}


def test_stop_also_ends_the_wait_for_a_server_that_is_away() -> None:
    """With no server at all, stop ends the retries without an error."""
    tries: list[int] = []

    def stop() -> bool:
        tries.append(1)
        return len(tries) > 3

    with server(Record()) as url:
        pass
    wire = Wire(url, "k", stop=stop, patience_s=60)
    counts = play(
        some_legs(5), [wire], "m", start=START, hold=lambda: False, on_progress=lambda counts: None, stop=stop
    )
    assert 0 == counts.predictions
    assert wire.retries > 0


def test_a_wrong_key_fails_at_once_and_a_refused_row_is_counted() -> None:
    """401 is raised with its code; 422 concerns one flight only."""
    with pytest.raises(Refused, match="401 contract_violation"):
        run(Record(status=401), some_legs(3))
    assert (0, 3) == ((counts := run(Record(status=422), some_legs(3))).predictions, counts.refused)


def test_patience_ends_with_the_last_error() -> None:
    """A server that never comes back is named as the reason."""
    with server(Record(status=503)) as url:
        wire = Wire(url, "k", stop=lambda: False, patience_s=0.1)
        with pytest.raises(ConnectionError, match="status 503 contract_violation"):
            wire.post("/predict", {})
        wire.close()


def test_the_sample_is_a_property_of_the_flight() -> None:
    """Same seed, same flights; another seed, others; a larger sample contains the smaller one."""
    ids = [f"UA{n}-20130401-EWR" for n in range(4000)]
    quarter = {i for i in ids if sampled(i, sample=0.25, seed=1)}
    assert quarter == {i for i in reversed(ids) if sampled(i, sample=0.25, seed=1)}
    assert quarter < {i for i in ids if sampled(i, sample=0.5, seed=1)}
    assert 850 < len(quarter) < 1150
    other = {i for i in ids if sampled(i, sample=0.25, seed=2)}
    assert 150 < len(quarter & other) < 350
    assert set(ids) == {i for i in ids if sampled(i, sample=1.0, seed=1)}


def test_legs_keep_float32_exactly_and_gaps_as_null() -> None:
    """A float32 goes out in its shortest decimals and comes back the same; NaN is null; integers stay integers."""
    import numpy as np
    import pandas as pd

    moment = pd.Timestamp(START)
    table = pd.DataFrame(
        {
            "_id": ["a", "b"],
            "_at": [moment, moment],
            "_label_at": [moment, moment],
            "air_time": np.array([38.0, 40.0], dtype="float32"),
            "temp": np.array([57.02, np.nan], dtype="float32"),
            "distance": [187, 1400],
        }
    )
    first, second = legs(table, ["temp", "distance"], "air_time")
    assert {"temp": 57.02, "distance": 187} == first.features
    assert {"temp": None, "distance": 1400} == second.features
    assert isinstance(second.features["distance"], int)
    assert 38.0 == first.label
