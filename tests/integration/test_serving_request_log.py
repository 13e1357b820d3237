"""What is told of a request, in both lanes and every dialect: its line in the log, Server-Timing, its count."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from monitoring.alerting.metrics import ServeMetrics
from monitoring.intake.spool import Spool
from serving.app import create_app
from serving.observed.request_log import RequestLog
from serving.observed.seen import Observer
from serving.observed.tracing import Tracing
from serving.settings import ServingSettings
from serving.wire.lane import protocol_of
from tests.integration.serving_app import metrics, run
from tests.integration.serving_toy import ANY_HOST, PATIENT, ROW, Cache, serving
from tests.integration.two_lanes import request, rows, send, server

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TIMING = re.compile(r"parse;dur=\d+\.\d{3}, queue;dur=\d+\.\d{3}, infer;dur=\d+\.\d{3}")


@contextlib.asynccontextmanager
async def logged(
    cache: Cache, *, log: RequestLog | None = None, tracing: Tracing | None = None, **settings: Any
) -> AsyncIterator[tuple[FastAPI, RequestLog]]:
    """An application whose lines wait for whoever looks."""
    log = log or RequestLog()
    spool = Spool.open(cache.folder.parent / "spool", commit_interval_s=0.01)
    fixed = {"poll_seconds": 0.01, "device": "cpu", "web": ANY_HOST, "queue": PATIENT}
    chosen = ServingSettings(**{**fixed, **settings})
    app = create_app(chosen, cache.folder, spool, ServeMetrics(CollectorRegistry()), Observer(log, tracing))
    try:
        async with app.router.lifespan_context(app):
            yield app, log
    finally:
        spool.close()


def lines(log: RequestLog) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.take().splitlines()]


@pytest.fixture
def deployed(cache: Cache, offsets: dict[int, Path]) -> Cache:
    cache.add(1, offsets[1])
    return cache


def test_both_lanes_log_the_same_lines(deployed: Cache) -> None:
    """Answers and refusals: one line each, equal but for the times; the control counts them."""
    key = deployed.key({"predict"})
    deployed.deploy(1)
    asked = {
        "answer": request("/predict", rows(ROW, ROW), "X-Request-ID: order-1", f"traceparent: {TRACE}", key=key),
        "named": request("/models/toy/predict", rows(ROW), "X-Request-ID: order-2", key=key),
        "pinned": request("/models/toy/versions/1/predict", rows(ROW), "X-Request-ID: order-3", key=key),
        "refused": request("/models/toy/predict", b"{}", "X-Request-ID: order-4", "traceparent: nonsense", key=key),
        "stranger": request("/models/toy/predict", rows(ROW), "X-Request-ID: order-5"),
        "no route": request("/canary/path", rows(ROW), "X-Request-ID: order-6", key=key),
    }

    async def both() -> None:
        async with logged(deployed) as (app, log):
            found: list[list[dict[str, Any]]] = []
            for protocol in (protocol_of(app.state.service), HttpToolsProtocol):
                async with server(app, protocol) as port:
                    replies = [await send(port, data) for data in asked.values()]
                assert all(b"order-" in reply for reply in replies)
                assert TIMING.search(replies[0].decode())
                assert "server-timing" not in replies[3].decode()
                found.append(lines(log))
            fast, slow = ([_timeless(line) for line in lane] for lane in found)
            assert fast == slow
            assert [line["status"] for line in fast] == [200, 200, 200, 422, 401, 404]
            first = found[0][0]
            stages = sum(first[f"{stage}_ms"] for stage in ("parse", "queue", "infer", "encode"))
            assert 0 < stages <= first["total_ms"] + 0.01
            assert first["trace_id"] == TRACE.split("-")[1]
            assert (first["rows"], first["model"], first["version"], first["arm"]) == (2, "toy", 1, "champion")
            assert first["key"] == deployed.keys[0].id
            assert "canary" not in json.dumps(found)

    asyncio.run(both())


def _timeless(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "at" and not name.endswith("_ms")}


def test_what_is_no_http_has_a_line_too(deployed: Cache) -> None:
    """Refused before there is a route or a caller."""
    deployed.deploy(1)

    async def alone() -> None:
        async with logged(deployed, auth=False) as (app, log), server(app, protocol_of(app.state.service)) as port:
            assert (await send(port, b"\x16\x03\x01 canary\r\n\r\n")).startswith(b"HTTP/1.1 400")
            (line,) = lines(log)
            assert (line["status"], line["protocol"], line["key"]) == (400, "http", "")

    asyncio.run(alone())


def test_every_dialect_has_its_line(deployed: Cache) -> None:
    """With its protocol's name, the route's pattern and the rows; gRPC is looked at where its calls are tested."""
    key = deployed.key({"predict"})
    deployed.deploy(1)
    inputs = [
        {"name": "temp", "datatype": "FP32", "shape": [1], "data": [1.5]},
        {"name": "hour", "datatype": "INT64", "shape": [1], "data": [7]},
        {"name": "late", "datatype": "BOOL", "shape": [1], "data": [True]},
        {"name": "carrier", "datatype": "BYTES", "shape": [1], "data": ["AA"]},
    ]
    asked = [
        ("/models/toy/predict", {"rows": [ROW]}, "perene", "/models/{model}/predict"),
        ("/v2/models/toy/infer", {"inputs": inputs}, "oip", "/v2/models/{model}/infer"),
        ("/v1/models/toy:predict", {"instances": [ROW]}, "kserve", "/v1/models/{model}:predict"),
        ("/invocations", {"dataframe_records": [ROW]}, "mlflow", "/invocations"),
    ]

    async def scenario() -> None:
        async with logged(deployed) as (app, log):
            async with server(app, protocol_of(app.state.service)) as port:
                for path, body, _, _ in asked:
                    reply = await send(port, request(path, json.dumps(body).encode(), key=key))
                    assert reply.startswith(b"HTTP/1.1 200")
            told = [(line["protocol"], line["route"], line["rows"], line["model"]) for line in lines(log)]
            assert told == [(protocol, route, 1, "toy") for _, _, protocol, route in asked]

    run(scenario)


def test_what_nobody_foresaw_is_answered_counted_and_logged(
    deployed: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect in the middle of a request: 500 in both lanes, in the counter and in the log, without its text."""
    deployed.deploy(1)

    async def broken() -> None:
        async with logged(deployed, auth=False) as (app, log):
            service = app.state.service

            def fail(*_: object) -> None:
                raise ValueError("canary")

            monkeypatch.setattr(service.plane, "log", fail)
            for protocol in (protocol_of(service), HttpToolsProtocol):
                async with server(app, protocol) as port:
                    reply = await send(port, request("/models/toy/predict", rows(ROW)))
                    assert reply.startswith(b"HTTP/1.1 500")
                    assert b"canary" not in reply
                (line,) = lines(log)
                assert (line["status"], line["model"]) == (500, "toy")
            counted = service.metrics.requests_total.labels("toy", "", "", "perene", "500")
            assert counted._value.get() == 2

    asyncio.run(broken())
    assert "serving.failed" in caplog.text


def test_widened_values_are_counted(deployed: Cache) -> None:
    """`decoding = "coerce"`: each value that is not of its column's type to the letter; `strict` refuses the same."""
    deployed.deploy(1)
    row = {"temp": "1.5", "hour": 7, "late": 1, "carrier": "AA"}
    mixed = [{**ROW, "temp": "2.5"}, ROW]
    tensors = [
        {"name": "temp", "datatype": "FP32", "shape": [2], "data": [1.5, 2.5]},
        {"name": "hour", "datatype": "BOOL", "shape": [2], "data": [True, False]},
        {"name": "late", "datatype": "BOOL", "shape": [2], "data": [True, False]},
        {"name": "carrier", "datatype": "BYTES", "shape": [2], "data": ["AA", "B6"]},
    ]

    async def lenient() -> None:
        async with serving(deployed, auth=False, decoding="coerce") as served:
            name = ("perene_coerced_total", ("toy",))
            await served.predict([ROW, ROW])
            assert (await metrics(served)).get(name, 0) == 0
            await served.predict([row])
            assert (await metrics(served))[name] == 2
            await served.predict(mixed)
            assert (await metrics(served))[name] == 3
            reply = await served.client.post("/v2/models/toy/infer", json={"inputs": tensors})
            assert reply.status_code == 200, reply.text
            assert (await metrics(served))[name] == 5
            for bad in ({**ROW, "hour": "1.7"}, {**ROW, "late": "yes"}, {**ROW, "temp": None, "hour": [1]}):
                assert (await served.client.post("/predict", json={"rows": [bad]})).status_code == 422
            assert (await metrics(served))[name] == 5

    async def strict() -> None:
        async with serving(deployed, auth=False) as served:
            for body in ([row], mixed):
                assert (await served.client.post("/predict", json={"rows": body})).status_code == 422
            assert (await served.client.post("/v2/models/toy/infer", json={"inputs": tensors})).status_code == 422

    run(lenient)
    run(strict)


def test_lenient_and_strict_bodies_share_the_fast_lane(deployed: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is of the contract to the letter is answered in the lane; the other goes to the application."""
    deployed.deploy(1)

    async def both() -> None:
        async with (
            logged(deployed, auth=False, decoding="coerce") as (app, _),
            server(app, protocol_of(app.state.service)) as port,
        ):
            reached: list[str] = []
            before = HttpToolsProtocol._start_asgi_task

            def note(self: Any, cycle: Any, to: Any) -> None:
                reached.append(cycle.scope["path"])
                before(self, cycle, to)

            monkeypatch.setattr(HttpToolsProtocol, "_start_asgi_task", note)
            assert (await send(port, request())).startswith(b"HTTP/1.1 200")
            assert reached == []
            assert (await send(port, request(body=rows({**ROW, "hour": "7"})))).startswith(b"HTTP/1.1 200")
            assert reached == ["/predict"]

    asyncio.run(both())


def test_the_log_can_be_switched_off(deployed: Cache) -> None:
    """`request_log = false`: nothing is noted, everything is answered."""
    from registry.line_writer import LineWriter
    from serving.observed.seen import observer_of

    reading, writing = os.pipe()
    writer = LineWriter(writing, lost=lambda count: b"")
    try:
        assert observer_of(ServingSettings(request_log=False), writer).log is None
        assert observer_of(ServingSettings(), writer).log is not None
    finally:
        writer.close()
        os.close(reading)
        os.close(writing)
