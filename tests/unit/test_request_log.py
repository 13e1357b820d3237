"""A line for each request, made off the event loop."""

from __future__ import annotations

import json

import pytest

from serving.observed import request_log
from serving.observed.request_log import Line, RequestLog, trace_id_of

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SECONDS = (0.001, 0.0005, 0.002, 0.00025, 0.004)


def test_a_line_is_json_with_every_stage() -> None:
    """And names no version where none answered."""
    log = RequestLog()
    log.line(Line("id-1", "toy", 3, "champion", "perene", 2, 200, SECONDS, "1a2b", TRACE, "/predict"))
    log.line(Line("id-2", "", 0, "", "oip", 0, 401, (0.0, 0.0, 0.0, 0.0, 0.001), ""))
    first, second = [json.loads(line) for line in log.take().splitlines()]
    assert first.pop("at").endswith("Z")
    assert first == {
        "event": "request",
        "request_id": "id-1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "model": "toy",
        "version": 3,
        "arm": "champion",
        "protocol": "perene",
        "route": "/predict",
        "status": 200,
        "rows": 2,
        "parse_ms": 1.0,
        "queue_ms": 0.5,
        "infer_ms": 2.0,
        "encode_ms": 0.25,
        "total_ms": 4.0,
        "key": "1a2b",
    }
    assert (second["version"], second["status"], "trace_id" in second, "route" in second) == (None, 401, False, False)
    assert log.take() == b""


def test_a_line_for_people_has_no_more() -> None:
    """Where stderr is a terminal."""
    log = RequestLog(as_text=True)
    log.line(Line("id-1", "toy", 3, "champion", "perene", 2, 200, SECONDS, "1a2b"))
    assert log.take().endswith(b"Z request 200 perene toy v3 champion - rows=2 total=4.000ms key=1a2b id=id-1\n")


def test_what_nobody_writes_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines that are kept are the first ones, in order; the next look says how many are missing."""
    monkeypatch.setattr(request_log, "MOST_WAITING", 10)
    log = RequestLog()
    for number in range(25):
        log.line(Line(str(number), "toy", 1, "champion", "perene", 1, 200, SECONDS, ""))
    lost, *kept = [json.loads(line) for line in log.take().splitlines()]
    assert (lost["event"], lost["lines"]) == ("log.lost", 15)
    assert [line["request_id"] for line in kept] == [str(number) for number in range(10)]


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b'00-4bf92f3577b34da6a3ce929d0e0e473"-00f067aa0ba902b7-01',
        b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
    ],
)
def test_what_is_no_trace_context_is_left_out(header: bytes) -> None:
    """A caller's text does not get into the log by this way."""
    assert trace_id_of(header) == ""
