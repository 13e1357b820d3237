"""Spans as a collector gets them: the caller's trace, the stages below the request, and nothing that is a value."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from serving.observed.request_log import RequestLog
from serving.observed.tracing import Tracing
from serving.wire.lane import protocol_of
from tests.integration.dialect_models import CONTRACTS, rows_of
from tests.integration.serving_toy import Cache
from tests.integration.test_dialects_grpc import Client, infer_request
from tests.integration.test_serving_request_log import lines, logged
from tests.integration.two_lanes import request, rows, send, server

ROOT = Path(__file__).parents[2]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
ROW = {"temp": 1.5, "hour": 7, "late": True, "carrier": "canary"}


class Collector:
    """A collector for OTLP over HTTP that keeps what it gets."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self) -> list[Span]:
        return [
            span
            for told in self.requests
            for resource in told.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    made = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{made.server.server_port}")
    monkeypatch.setattr("serving.observed.span_sender.CLOSE_S", 60.0)  # a slow machine must lose no span
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def deployed(cache: Cache, offsets: dict[int, Path]) -> Cache:
    cache.add(1, offsets[1])
    cache.deploy(1)
    return cache


def facts(span: Span) -> dict[str, Any]:
    return {
        a.key: a.value.int_value if a.value.HasField("int_value") else a.value.string_value for a in span.attributes
    }


def traced(cache: Cache, asked: list[bytes], status: int = 200) -> list[dict[str, Any]]:
    """Send these requests with tracing on; returns the log's lines."""

    async def scenario() -> list[dict[str, Any]]:
        log = RequestLog()
        async with (
            logged(cache, log=log, tracing=Tracing(), auth=False) as (app, _),
            server(app, protocol_of(app.state.service)) as port,
        ):
            for data in asked:
                assert (await send(port, data)).startswith(b"HTTP/1.1 %d" % status)
        return lines(log)

    return asyncio.run(scenario())


def test_a_request_is_a_span_in_the_trace_of_its_caller(deployed: Cache, collector: Collector) -> None:
    """With its stages as children, one after the other within it, by the names of the semantic conventions."""
    header = f"traceparent: 00-{TRACE}-{PARENT}-01"
    (line,) = traced(
        deployed, [request("/models/toy/predict", rows(ROW, entity="canary"), header, "X-Request-ID: r-1")]
    )
    assert line["trace_id"] == TRACE
    found = {span.name: span for span in collector.spans()}
    assert set(found) == {"POST /models/{model}/predict", "parse", "queue", "infer", "encode"}
    whole = found.pop("POST /models/{model}/predict")
    assert (whole.trace_id.hex(), whole.parent_span_id.hex(), whole.kind) == (TRACE, PARENT, Span.SPAN_KIND_SERVER)
    assert facts(whole) == {
        "http.request.method": "POST",
        "http.route": "/models/{model}/predict",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "perene.request_id": "r-1",
        "perene.protocol": "perene",
        "perene.model": "toy",
        "perene.version": 1,
        "perene.arm": "champion",
        "perene.rows": 1,
    }
    at = whole.start_time_unix_nano
    for stage in ("parse", "queue", "infer", "encode"):
        span = found[stage]
        assert (span.parent_span_id, span.trace_id) == (whole.span_id, whole.trace_id)
        assert at <= span.start_time_unix_nano <= span.end_time_unix_nano <= whole.end_time_unix_nano
        at = span.end_time_unix_nano
    told = b"".join(r.SerializeToString() for r in collector.requests)
    assert b"canary" not in told
    service = collector.requests[0].resource_spans[0].resource.attributes
    assert {a.key: a.value.string_value for a in service}["service.name"] == "perene"


def test_the_caller_decides_what_is_sampled(deployed: Cache, collector: Collector) -> None:
    """Its flag is 0: no span, though the log knows the trace. No caller: a trace of our own."""
    dropped, own = traced(deployed, [request("/predict", rows(ROW), f"traceparent: 00-{TRACE}-{PARENT}-00"), request()])
    assert dropped["trace_id"] == TRACE
    assert {span.trace_id.hex() for span in collector.spans()} == {own["trace_id"]}
    assert own["trace_id"] != TRACE


def test_refusals_and_failures_have_spans(
    deployed: Cache, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal is the caller's error; a failure is ours, and marked as one."""
    traced(deployed, [request("/models/toy/predict", b"{canary")], status=400)
    traced(deployed, [request("/canary", b"{}")], status=404)
    monkeypatch.setattr("serving.dataplane.DataPlane.log", lambda *_: 1 / 0)
    traced(deployed, [request("/models/toy/predict", rows(ROW))], status=500)
    told = {facts(s)["http.response.status_code"]: s for s in collector.spans() if s.kind == Span.SPAN_KIND_SERVER}
    assert {code: span.status.code for code, span in told.items()} == {400: 0, 404: 0, 500: 2}
    assert told[404].name == "POST"
    assert facts(told[500])["error.type"] == "500"
    assert b"canary" not in b"".join(r.SerializeToString() for r in collector.requests)


def test_a_call_over_grpc_is_a_span(every: tuple[Cache, str], collector: Collector) -> None:
    """In the caller's trace, named by service and method; its line in the log names the trace."""
    cache, key = every
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    name = sorted(CONTRACTS)[0]

    async def scenario() -> list[dict[str, Any]]:
        log = RequestLog()
        async with (
            logged(cache, log=log, tracing=Tracing(), grpc_port=port),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            client = Client(channel, key)
            sent = infer_request(name, rows_of(CONTRACTS[name], 2), raw=True).SerializeToString()
            await client.send("ModelInfer", sent, traceparent=f"00-{TRACE}-{PARENT}-01")
            await client.refused(grpc.StatusCode.INVALID_ARGUMENT, b"canary")
        return lines(log)

    good, bad = asyncio.run(scenario())
    assert (good["protocol"], good["status"], good["rows"], good["trace_id"]) == ("grpc", 200, 2, TRACE)
    assert good["route"] == "inference.GRPCInferenceService/ModelInfer"
    assert (bad["protocol"], bad["status"]) == ("grpc", 400)
    (span,) = [s for s in collector.spans() if s.kind == Span.SPAN_KIND_SERVER and s.trace_id.hex() == TRACE]
    expected = {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        "rpc.response.status_code": "OK",
    }
    assert expected.items() <= facts(span).items()


@pytest.mark.parametrize("kind", ["refusing", "hanging"])
def test_a_collector_that_is_away_costs_spans_only(
    deployed: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Requests are answered, spans are counted as lost, the log says so once, and the server ends in time."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == "hanging":
            taken.listen()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        tracing = Tracing()

        async def scenario() -> float:
            async with logged(deployed, tracing=tracing, auth=False) as (app, _):
                async with server(app, protocol_of(app.state.service)) as port:
                    for _ in range(2):
                        replies = [await send(port, request()) for _ in range(3)]
                        assert all(reply.startswith(b"HTTP/1.1 200") for reply in replies)
                        deadline = time.monotonic() + 60
                        while tracing.sender.lost == 0 and time.monotonic() < deadline:
                            await asyncio.sleep(0.05)
                began = time.monotonic()
            return time.monotonic() - began

        closing = asyncio.run(scenario())
    assert tracing.sender.lost > 0
    assert closing < 60
    assert caplog.text.count("tracing.lost") == 1


def test_without_the_library_nothing_starts(tmp_path: Path) -> None:
    """`serving.tracing` asks for an extra: exit status 2 with the fix."""
    (tmp_path / "serve.json").write_text(json.dumps({"tracing": True}))
    script = (
        "import sys; sys.modules['opentelemetry.sdk'] = None; from serving.main import main; raise SystemExit(main())"
    )
    command = [sys.executable, "-c", script, "--home", str(tmp_path), "--settings", str(tmp_path / "serve.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 2
    assert "pip install 'perene[otel]'" in done.stderr
    assert not (tmp_path / "spool").exists()
