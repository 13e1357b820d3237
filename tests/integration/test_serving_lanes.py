"""Two lanes, one behaviour: the same bytes get the same answer with the fast lane and without it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from monitoring.intake.events import PredictionEvent
from serving.wire.bounded import Bounds
from tests.integration.serving_toy import ROW, Cache, stored_events
from tests.integration.two_lanes import BODY, alike, chunked, lanes, request, rows, send

CORPUS: dict[str, bytes] = {
    "ordinary": request(),
    "bare row": request(body=json.dumps(ROW).encode()),
    "several rows": request(body=rows(ROW, ROW, ROW)),
    "entity": request(body=rows(ROW, entity="me")),
    "event time": request(body=rows(ROW, at="2026-01-01T00:00:00Z")),
    "named": request("/models/toy/predict"),
    "pinned": request("/models/toy/versions/1/predict"),
    "charset": request("/predict", BODY, "Content-Type: application/json; charset=utf-8"),
    "own request id": request("/predict", BODY, "X-Request-ID: order-7"),
    "hostile request id": request("/predict", BODY, "X-Request-ID: a b<script>"),
    "api key header": request("/predict", BODY, "X-API-Key: nonsense"),
    "close": request("/predict", BODY, "Connection: close"),
    "http 1.0": request(version="1.0"),
    "pipelined": request() * 3,
    "pipelined good, bad, other route, good": request()
    + request(body=b"[")
    + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    + request(),
    "query": request("/predict?x=1"),
    "escaped path": request("/%70redict"),
    "double slash": request("//predict"),
    "unknown model": request("/models/tai/predict"),
    "unknown version": request("/models/toy/versions/9/predict"),
    "unknown route": request("/predikt"),
    "get": request(method="GET", body=b""),
    "put": request(method="PUT"),
    "empty": request(body=b""),
    "no length": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\r\n",
    "chunked": request("/predict", chunked(BODY), "Transfer-Encoding: chunked"),
    "both lengths": request("/predict", chunked(BODY), "Transfer-Encoding: chunked", "Content-Length: 5"),
    "two lengths": request("/predict", BODY, f"Content-Length: {len(BODY)}", f"Content-Length: {len(BODY)}"),
    "negative length": request("/predict", BODY, "Content-Length: -1"),
    "expect": request("/predict", BODY, "Expect: 100-continue"),
    "gzip": request("/predict", BODY, "Content-Encoding: gzip"),
    "wrong type": request("/predict", BODY, "Content-Type: text/plain"),
    "utf-16": request("/predict", BODY, "Content-Type: application/json; charset=utf-16"),
    "two types": request("/predict", BODY, "Content-Type: application/json", "Content-Type: application/json"),
    "not json": request(body=b"{"),
    "not an object": request(body=b"[]"),
    "nan": request(body=b'{"rows":[{"temp":NaN}]}'),
    "no rows": request(body=b'{"rows":[]}'),
    "misspelt": request(body=rows({**ROW, "tmep": 1})),
    "wrong column type": request(body=rows({**ROW, "hour": "7"})),
    "not whole": request(body=rows({**ROW, "hour": 7.5})),
    "too large an integer": request(body=rows({**ROW, "hour": 2**25})),
    "beyond float32": request(body=rows({**ROW, "temp": 1e39})),
    "twice a key": request(body=b'{"rows":[{"temp":1,"temp":2,"hour":1,"late":true,"carrier":"AA"}]}'),
    "deep": request(body=b"[" * 10_000),
    "too many rows": request(body=rows(*[ROW] * 101)),
    "ahead of time": request(body=rows(ROW, at="2999-01-01T00:00:00Z")),
    "problem json": request("/predict", b"{", "Accept: application/problem+json"),
    "a head too large": request("/predict", BODY, "X-Long: " + "x" * 40_000),
    "headers too many": request("/predict", BODY, *(f"X-{n}: {n}" for n in range(200))),
    "upgrade": request("/predict", BODY, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA"),
    "chunks too small": request("/predict", b"1\r\n \r\n" * 3_000 + b"0\r\n\r\n", "Transfer-Encoding: chunked"),
    "an end that is no request": request() + b"nonsense\r\n\r\n",
    "garbage": b"\x16\x03\x01 nonsense\r\n\r\n",
    "feedback": request("/feedback", b"[]"),
    "no host": b"POST /predict HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    "two hosts": request("/predict", BODY, "Host: other"),
    "absolute target": request("http://elsewhere/predict"),
    "page of another site": request("/predict", BODY, "Origin: https://elsewhere"),
    "page of its own": request("/predict", BODY, "Origin: http://perene"),
    "cross-site": request("/predict", BODY, "Sec-Fetch-Site: cross-site"),
    "version by header": request("/predict", BODY, "X-Model-Version: 1"),
    "two versions by header": request("/predict", BODY, "X-Model-Version: 1", "X-Model-Version: 2"),
    "no version by header": request("/predict", BODY, "X-Model-Version: none"),
    "idempotency key that is none": request("/predict", BODY, "Idempotency-Key: a b"),
    "rather later": request("/predict", BODY, "Prefer: respond-async"),
    "rather later, but not json": request("/models/toy/predict", b"{", "Prefer: wait=3, respond-async"),
    "rather later, pinned": request("/models/toy/versions/1/predict", BODY, "Prefer: respond-async"),
    "another preference": request("/predict", BODY, "Prefer: return=minimal"),
}


@pytest.fixture
def deployed(cache: Cache, offsets: dict[int, Path]) -> Cache:
    cache.add(1, offsets[1])
    cache.add(2, offsets[2])
    return cache


@pytest.mark.parametrize("auth", [False, True])
def test_both_lanes_answer_alike(deployed: Cache, auth: bool) -> None:
    """Status, headers and body are equal for valid, invalid and hostile bytes, with and without keys."""
    key = deployed.key({"predict", "feedback"}) if auth else ""
    deployed.deploy(1)

    async def compare() -> list[str]:
        async with lanes(deployed, auth=auth, max_rows=100) as at:
            return [name for name in CORPUS if not await alike(at, with_key(CORPUS[name], key))]

    assert asyncio.run(compare()) == []


def with_key(data: bytes, key: str) -> bytes:
    header = f"Host: perene\r\nAuthorization: Bearer {key}\r\n".encode()
    return data.replace(b"Host: perene\r\n", header) if key else data


OVERLOADED = {
    "ordinary": request(),
    "named": request("/models/toy/predict"),
    "pinned": request("/models/toy/versions/1/predict"),
    "own request id": request("/predict", BODY, "X-Request-ID: order-7"),
    "hostile request id": request("/predict", BODY, "X-Request-ID: a b<script>"),
    "problem json": request("/predict", BODY, "Accept: application/problem+json"),
    "close": request("/predict", BODY, "Connection: close"),
    "twice": request() * 2,
    "not json": request(body=b"{"),
    "wrong type": request("/predict", BODY, "Content-Type: text/plain"),
    "unknown model": request("/models/tai/predict"),
    "another route": b"GET /models HTTP/1.1\r\nHost: perene\r\n\r\n",
}


@pytest.mark.parametrize("auth", [False, True])
def test_both_lanes_refuse_alike_under_overload(deployed: Cache, auth: bool) -> None:
    """A full queue: the fast lane's own refusals are those of the application, and the counters say so, too."""
    key = deployed.key({"predict", "read"}) if auth else ""
    deployed.deploy(1)

    async def compare() -> list[str]:
        async with lanes(deployed, auth=auth, queue={"seconds": 60.0, "max_requests": 1}) as at:
            service = at.app.state.service
            # a request that is never taken: the queue of one is full
            service.table.models["toy"].champion.batcher._turn.append(None)
            unlike = [name for name in OVERLOADED if not await alike(at, with_key(OVERLOADED[name], key))]
            if auth:
                assert await alike(at, OVERLOADED["ordinary"])
            refusal = await send(at.fast, with_key(OVERLOADED["named"], key))
            assert refusal.startswith(b"HTTP/1.1 503 Service Unavailable")
            assert b"retry-after: 1\r\n" in refusal
            assert b'"code":"overloaded"' in refusal
            registry = service.metrics.registry
            given = {"model": "toy", "version": "", "arm": "", "protocol": "perene", "code": "503"}
            # "named" and "pinned" in both lanes, and the one above
            assert registry.get_sample_value("perene_requests_total", given) == 5.0
            assert registry.get_sample_value("perene_rejected_total", {"reason": "queue_full"}) >= 2 * 8
            service.table.models["toy"].champion.batcher._turn.clear()
            return unlike

    assert asyncio.run(compare()) == []


@pytest.mark.parametrize("mode", ["shadow", "ab"])
def test_trials_are_routed_alike(deployed: Cache, mode: str) -> None:
    """The same entities get the same version, and shadow answers are logged, in both lanes."""
    deployed.deploy(1, 2, mode, 0.5)
    bodies = [request(body=rows(ROW, entity=f"e{n}")) for n in range(20)]

    async def both() -> Path:
        async with lanes(deployed, auth=False) as at:
            assert all(await asyncio.gather(*(alike(at, body + body) for body in bodies)))
            return at.spool.path

    events = stored_events(asyncio.run(both()))
    assert len(events) == 4 * len(bodies) * (2 if mode == "shadow" else 1)


@pytest.mark.parametrize("settings", [{"max_models": 1}, {"cache_rows": 4}], ids=["not in memory", "answers kept"])
def test_what_only_the_application_can_do_is_answered_alike(deployed: Cache, settings: dict[str, Any]) -> None:
    """A model that has to be loaded first, and answers that are looked for: the lane leaves both alone."""
    deployed.add(1, deployed.folder / "bundles" / "toy" / "1", model="aaa")
    deployed.deploy(1)

    async def both() -> None:
        async with lanes(deployed, auth=False, **settings) as at:
            for _ in range(3):
                assert await alike(at, request() + request("/models/toy/versions/1/predict"))

    asyncio.run(both())


def test_a_request_may_come_byte_by_byte(deployed: Cache) -> None:
    """How a request is cut into packets changes nothing."""
    deployed.deploy(1)

    async def both() -> None:
        async with lanes(deployed, auth=False) as at:
            data = request() + request(body=rows(ROW, ROW))
            assert await alike(at, data, split=1)

    asyncio.run(both())


def test_the_fast_lane_is_taken(deployed: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of all of the above: an ordinary request does not reach the application."""
    deployed.deploy(1)

    async def alone() -> None:
        async with lanes(deployed, auth=False) as at:
            reached: list[str] = []
            before = HttpToolsProtocol._start_asgi_task

            def note(self: Any, cycle: Any, app: Any) -> None:
                reached.append(cycle.scope["path"])
                before(self, cycle, app)

            monkeypatch.setattr(HttpToolsProtocol, "_start_asgi_task", note)
            assert (await send(at.fast, request())).startswith(b"HTTP/1.1 200")
            assert reached == []
            assert (await send(at.fast, request(body=b"{"))).startswith(b"HTTP/1.1 400")
            assert reached == ["/predict"]

    asyncio.run(alone())


def test_a_shadow_is_asked_in_the_fast_lane(deployed: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a version is tried in the shadow, the application sees no ordinary request; both answers are kept."""
    deployed.deploy(1, 2, "shadow", 0.0)

    async def alone() -> Path:
        async with lanes(deployed, auth=False) as at:
            monkeypatch.setattr(HttpToolsProtocol, "_start_asgi_task", None)
            answers = await asyncio.gather(*(send(at.fast, request(body=rows(ROW, ROW))) for _ in range(10)))
            assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
            return at.spool.path

    events = [e for e in stored_events(asyncio.run(alone())) if isinstance(e, PredictionEvent)]
    served = {e.id: e for e in events if e.arm == "champion"}
    shadows = {e.id: e for e in events if e.arm == "shadow"}
    assert (len(events), len(served)) == (40, 20)
    assert served.keys() == shadows.keys()
    assert {(e.version, e.features == [], e.prediction == served[e.id].prediction) for e in shadows.values()} == {
        (2, True, False)
    }


@pytest.mark.parametrize(
    "beginning",
    [b"", b"POST /predict HT", request()[:-5], b"POST /models HTTP/1.1\r\nContent-Length: 10\r\n\r\nab"],
    ids=["nothing", "half a head", "half a body", "half a body elsewhere"],
)
def test_a_slow_client_is_closed(deployed: Cache, beginning: bytes) -> None:
    """A connection that does not finish its request is closed; one that is idle between requests is not."""
    deployed.deploy(1)
    bounds = Bounds(header_s=0.3, body_s=0.3, sweep_s=0.05)

    async def alone() -> None:
        async with lanes(deployed, bounds, auth=False) as at:
            idle_reader, idle = await asyncio.open_connection("127.0.0.1", at.fast)
            idle.write(request())
            assert (await idle_reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
            reader, writer = await asyncio.open_connection("127.0.0.1", at.fast)
            writer.write(beginning)
            with contextlib.suppress(ConnectionResetError):
                await asyncio.wait_for(reader.read(), timeout=10)
            idle.write(request())
            # the second answer begins where the body of the first one ends
            await asyncio.wait_for(idle_reader.readuntil(b"HTTP/1.1 200"), timeout=5)
            for ended in (idle, writer):
                ended.close()
                with contextlib.suppress(ConnectionResetError):
                    await ended.wait_closed()

    asyncio.run(alone())
