"""Shadow: after the answer, beside the answer, a fair sample, and none of it where callers would feel it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from monitoring.alerting.metrics import ServeMetrics
from monitoring.intake.events import PredictionEvent
from registry.routing import Routing
from serving.engine import Answer
from serving.routing import Route
from serving.shadows import MOST_REQUESTS, MOST_ROWS, Served, Shadows
from tests.integration.serving_app import metrics, run
from tests.integration.serving_toy import ROW, Cache, serving, stored_events
from tests.integration.two_lanes import BODY, lanes, request, rows, send


@pytest.fixture
def both(cache: Cache, offsets: dict[int, Path]) -> Cache:
    for version, bundle in offsets.items():
        cache.add(version, bundle)
    return cache


def arms(path: Path) -> Counter[str]:
    return Counter(e.arm for e in stored_events(path) if isinstance(e, PredictionEvent))


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 60, 140), (1.0, 200, 200)])
def test_a_share_of_requests_is_asked(both: Cache, share: float, least: int, most: int) -> None:
    """By dice, whatever the request calls itself; the rest costs nothing. Both lanes do the same."""
    both.deploy(1, 2, "shadow", routing=Routing(shadow_share=share))
    asked = request("/predict", BODY, "X-Request-ID: always-the-same")

    async def scenario() -> Path:
        async with lanes(both, auth=False) as at:
            for port in (at.fast, at.slow):
                for _ in range(10):
                    await send(port, asked * 10)
            found = at.app.state.service.metrics.registry.get_sample_value
            assert found("perene_rejected_total", {"reason": "shadow_dropped"}) == 0.0
            return at.spool.path

    seen = arms(asyncio.run(scenario()))
    assert seen["champion"] == 200
    assert least <= seen["shadow"] <= most


def test_a_shadow_comes_after_the_reply_and_never_into_it(both: Cache) -> None:
    """When its engine is asked the caller has its whole answer already."""
    both.deploy(1, 2, "shadow")

    async def scenario() -> None:
        async with serving(both, auth=False) as served:
            version = served.app.state.service.table.models["toy"].versions[2]
            order: list[str] = []
            before = version.batcher._runner.run

            def ran(*given: Any, **more: Any) -> Any:
                order.append("shadow")
                return before(*given, **more)

            version.batcher._runner.run = ran

            async def send_on(message: Any) -> None:
                order.append(message["type"])
                if message["type"] == "http.response.body":
                    assert b'"version":1' in message["body"]
                    assert b"207" not in message["body"]

            messages = iter([{"type": "http.request", "body": BODY, "more_body": False}])

            async def receive() -> Any:
                return next(messages, {"type": "http.disconnect"})

            headers = [(b"host", b"perene"), (b"content-type", b"application/json")]
            scope: dict[str, Any] = {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": "POST",
            }
            scope |= {"path": "/predict", "raw_path": b"/predict", "query_string": b"", "headers": headers}
            scope |= {"scheme": "http", "server": ("perene", 80), "client": ("127.0.0.1", 1), "root_path": ""}
            await served.app(scope, receive, send_on)
            assert order == ["http.response.start", "http.response.body", "shadow"]

    run(scenario)


def test_nobody_waits_for_a_queue_that_is_behind(both: Cache) -> None:
    """The candidate's queue is full: its shadow is left out and counted, as no refusal, and no row says it failed."""
    both.deploy(1, 2, "shadow")

    async def scenario() -> Path:
        async with lanes(both, auth=False, queue={"seconds": 60.0, "max_requests": 4}) as at:
            service = at.app.state.service
            turn = service.table.models["toy"].versions[2].batcher._turn
            turn.extend([None] * 4)  # requests that are never taken
            for port in (at.fast, at.slow):
                assert (await send(port, request())).startswith(b"HTTP/1.1 200")
            found = service.metrics.registry.get_sample_value
            assert found("perene_rejected_total", {"reason": "shadow_dropped"}) == 2.0
            assert found("perene_rejected_total", {"reason": "shadow_failed"}) == 0.0
            assert found("perene_rejected_total", {"reason": "queue_full"}) == 0.0
            turn.clear()
            return at.spool.path

    assert arms(asyncio.run(scenario())) == {"champion": 2}


def test_a_busy_process_asks_fewer(both: Cache) -> None:
    """While turns of the loop are long shadows get a part of the time, and each that is left out is counted."""
    both.deploy(1, 2, "shadow")

    async def scenario() -> tuple[float, Path]:
        async with lanes(both, auth=False) as at:
            service = at.app.state.service
            shadows = service.plane.shadows
            batcher = service.table.models["toy"].champion.batcher
            batcher._admission._turn._end = lambda: None  # each turn is as long as the one before
            batcher._admission._turn.last = 0.01
            shadows._allowance._left = 0.0
            shadows._allowance._share = 0.001
            bodies = [request(body=rows({**ROW, "hour": n % 24})) for n in range(48)]
            for _ in range(10):
                await asyncio.gather(*(send(at.fast, body * 4) for body in bodies))
            found = service.metrics.registry.get_sample_value("perene_rejected_total", {"reason": "shadow_dropped"})
            return float(found), at.spool.path

    dropped, path = asyncio.run(scenario())
    seen = arms(path)
    assert seen["champion"] == 1_920
    assert seen["shadow"] + dropped == 1_920
    assert 0 < seen["shadow"] < 1_920


class Beside:
    """A version's queue that is neither pressed nor behind, and answers when it is told to."""

    pressed = False
    behind = False

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def submit(self, _rows: Any, done: Any, gone: Any) -> None:
        self.waiting.append((done, gone))

    def cost_s(self, rows: int) -> float:
        return rows * 1e-6


class Known:
    """As much of a version, and of its model, as shadows look at."""

    def __init__(self, route: Route | None = None) -> None:
        self.model, self.version = "toy", 2
        self.batcher = Beside()
        self.route = route or Route(1, 2, "shadow")

    @property
    def champion(self) -> Known:
        return self


def test_what_waits_is_bounded_in_requests_and_rows() -> None:
    """One that never answers holds so many and no more; when it answers there is room again."""
    logged: list[Any] = []
    found = ServeMetrics(CollectorRegistry())
    shadows = Shadows(found, lambda *given: logged.append(given))
    known: Any = Known()

    def ask(count: int) -> None:
        shadows.ask(known, known, [(1.0,)] * count, Served(None, Answer([1.0] * count), ["i"] * count, 0.0, 1))

    for _ in range(MOST_REQUESTS + 10):
        ask(1)
    assert len(known.batcher.waiting) == MOST_REQUESTS
    assert all(gone() for _, gone in known.batcher.waiting), "asked at 0, so they have waited for too long"
    for done, _ in known.batcher.waiting:
        done(Answer([1.0]), 0.0, 0.0)
    known.batcher.waiting.clear()
    assert len(logged) == MOST_REQUESTS
    for _ in range(3):
        ask(MOST_ROWS)
    assert len(known.batcher.waiting) == 1
    assert found.registry.get_sample_value("perene_rejected_total", {"reason": "shadow_dropped"}) == 12.0


def test_shadow_rows_are_not_of_the_caller(both: Cache) -> None:
    """A request that is repeated by its key, or cached, is asked once; the reply names no candidate."""
    both.deploy(1, 2, "shadow")

    async def scenario() -> Path:
        async with serving(both, auth=False) as served:
            headers = {"idempotency-key": "k1", "content-type": "application/json"}
            replies = [await served.client.post("/predict", content=BODY, headers=headers) for _ in range(3)]
            assert {reply.headers["x-model-version"] for reply in replies} == {"1"}
            assert len({reply.content for reply in replies}) == 1
            assert isinstance(replies[0], httpx.Response)
            assert json.loads(replies[0].content)["predictions"] == [107.0]
            assert (await metrics(served))["perene_events_total", ("shadow",)] == 1
            return served.spool.path

    path: list[Path] = []

    async def once() -> None:
        path.append(await scenario())

    run(once)
    assert arms(path[0]) == {"champion": 1, "shadow": 1}
