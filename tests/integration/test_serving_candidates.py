"""A candidate that errors, hangs or is behind: its caller is answered by the champion, in time, in every lane."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from monitoring.alerting.metrics import ServeMetrics
from monitoring.intake.events import PredictionEvent
from registry.errors import PereneError
from serving.engine import Answer
from serving.queues.admission import Cost
from serving.queues.patience import CandidateLate, Within
from serving.queues.runner import Counts, Runner
from tests.integration.native_models import HANG, Calm, exchanged, moody_bundle
from tests.integration.serving_app import metrics, run
from tests.integration.serving_toy import ROW, Cache, one_row_bundle, serving, stored_events
from tests.integration.two_lanes import lanes, request, rows, send

PATH = "/models/moody/predict"


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moody_bundle(tmp_path_factory.mktemp("moody") / "bundle")


@pytest.fixture(scope="module")
def calm(moody: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exchanged(moody, tmp_path_factory.mktemp("calm") / "bundle", Calm())


@pytest.fixture
def hanging(cache: Cache, calm: Path, moody: Path) -> Cache:
    """The champion answers 3 x, the candidate 2 x, and never where x is `HANG`."""
    cache.add(1, calm, model="moody")
    cache.add(2, moody, model="moody")
    return cache


@pytest.fixture
def failing(cache: Cache, offsets: dict[int, Path], toy_bundle: Path) -> Cache:
    """The candidate answers one row, and fails on two."""
    cache.add(1, offsets[1])
    cache.add(2, one_row_bundle(toy_bundle, cache.folder.parent / "broken"))
    cache.deploy(1, 2, "ab", 1.0)
    return cache


def told(reply: bytes) -> tuple[int, int, str, list[float]]:
    """Status, the version of the header, and arm and predictions of the body."""
    head, _, body = reply.partition(b"\r\n\r\n")
    found = json.loads(body)
    version = int(head.lower().partition(b"x-model-version: ")[2].partition(b"\r\n")[0])
    assert version == found["version"]
    return int(head[9:12]), version, found["arm"], found["predictions"]


def events_of(path: Path) -> list[tuple[int, str, int, int]]:
    events = [e for e in stored_events(path) if isinstance(e, PredictionEvent)]
    return sorted((e.version, e.arm, e.deployment, e.assigned) for e in events)


def test_a_candidate_that_fails_is_replaced_in_both_lanes(failing: Cache) -> None:
    """Header, body and event name the champion, the arm is fallback, and the candidate is asked once."""

    async def scenario() -> Path:
        async with lanes(failing, auth=False) as at:
            for port in (at.fast, at.slow):
                assert told(await send(port, request())) == (200, 2, "candidate", [7.0])
                assert told(await send(port, request(body=rows(ROW, ROW)))) == (200, 1, "fallback", [107.0, 107.0])
            found = at.app.state.service.metrics.registry.get_sample_value
            assert found("perene_rejected_total", {"reason": "candidate_failed"}) == 2.0
            assert found("perene_fallbacks_total", {"model": "toy", "kind": "candidate"}) == 2.0
            return at.spool.path

    events = events_of(asyncio.run(scenario()))
    assert events == [(1, "fallback", 1, 2)] * 4 + [(2, "candidate", 1, 2)] * 2


def test_the_fast_lane_needs_no_application_for_it(failing: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure costs one run of each model, no trip through the other lane."""

    async def scenario() -> None:
        async with lanes(failing, auth=False) as at:
            monkeypatch.setattr(HttpToolsProtocol, "_start_asgi_task", None)
            assert told(await send(at.fast, request(body=rows(ROW, ROW))))[:3] == (200, 1, "fallback")

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/v2/models/toy/infer", "/v1/models/toy:predict", "/invocations"])
def test_every_dialect_names_who_really_answered(failing: Cache, path: str) -> None:
    """The version of the header is the champion's, and so are the answers."""
    bodies: dict[str, Any] = {
        "/v2/models/toy/infer": {
            "inputs": [
                {"name": "temp", "datatype": "FP32", "shape": [2], "data": [1.5, 1.5]},
                {"name": "hour", "datatype": "INT64", "shape": [2], "data": [7, 7]},
                {"name": "late", "datatype": "BOOL", "shape": [2], "data": [True, True]},
                {"name": "carrier", "datatype": "BYTES", "shape": [2], "data": ["AA", "AA"]},
            ]
        },
        "/v1/models/toy:predict": {"instances": [ROW, ROW]},
        "/invocations": {"dataframe_records": [ROW, ROW]},
    }

    async def scenario() -> None:
        async with serving(failing, auth=False) as served:
            reply = await served.client.post(path, json=bodies[path])
            assert reply.status_code == 200, reply.text
            assert reply.headers["x-model-version"] == "1"
            assert "107.0" in reply.text
            assert (await metrics(served))["perene_rejected_total", ("candidate_failed",)] == 1

    run(scenario)


@pytest.mark.parametrize("fast", [True, False], ids=["fast lane", "application"])
def test_a_candidate_that_hangs_costs_a_part_of_the_time(hanging: Cache, fast: bool) -> None:
    """Long before the engine gives up the champion answers; who comes while it hangs does not wait at all."""
    hanging.deploy(1, 2, "ab", 1.0, model="moody")
    settings: dict[str, Any] = {"queue": {"seconds": 1.0}, "native_seconds": 120.0, "allow_pickle": True}

    async def scenario() -> Path:
        async with lanes(hanging, auth=False, **settings) as at:
            port = at.fast if fast else at.slow
            began = time.monotonic()
            reply = await send(port, request(PATH, rows({"x": HANG}), "Connection: close"))
            assert told(reply) == (200, 1, "fallback", [3.0 * HANG])
            candidate = at.app.state.service.table.models["moody"].versions[2].batcher
            for _ in range(1_000):
                if candidate.behind:
                    break
                await asyncio.sleep(0.01)
            assert candidate.behind
            waited: list[object] = []
            candidate.submit = lambda *a: waited.append(a)
            for x in (7.0, 8.0, 9.0):
                reply = await send(port, request(PATH, rows({"x": x}), "Connection: close"))
                assert told(reply) == (200, 1, "fallback", [3.0 * x])
            assert waited == []
            assert time.monotonic() - began < 60
            return at.spool.path

    assert events_of(asyncio.run(scenario())) == [(1, "fallback", 1, 2)] * 4


@pytest.mark.parametrize("fast", [True, False], ids=["fast lane", "application"])
def test_a_shadow_that_hangs_is_bounded_and_felt_by_nobody(hanging: Cache, fast: bool) -> None:
    """Callers get the champion's answers; what is not asked any more is counted."""
    hanging.deploy(1, 2, "shadow", model="moody")
    settings: dict[str, Any] = {"queue": {"seconds": 1.0}, "native_seconds": 120.0, "allow_pickle": True}

    async def scenario() -> None:
        async with lanes(hanging, auth=False, **settings) as at:
            port = at.fast if fast else at.slow
            for n in range(80):
                x = HANG if n == 0 else 7.0
                reply = await send(port, request(PATH, rows({"x": x}), "Connection: close"))
                assert told(reply) == (200, 1, "champion", [3.0 * x])
            service = at.app.state.service
            candidate = service.table.models["moody"].versions[2].batcher
            assert candidate.waiting <= 64
            dropped = service.metrics.registry.get_sample_value("perene_rejected_total", {"reason": "shadow_dropped"})
            assert dropped >= 80 - 65

    asyncio.run(scenario())


class Told:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []

    def __call__(self, outcome: Answer | PereneError, queue_s: float, infer_s: float, /) -> None:
        self.outcomes.append(outcome)


def test_one_outcome_is_told_whichever_comes_first() -> None:
    """The answer in time, or that it is late; never both."""

    async def scenario() -> None:
        soon, late = Told(), Told()
        in_time, too_late = Within(soon, 30.0), Within(late, 0.01)
        answer = Answer([1.0])
        in_time(answer, 0.0, 0.0)
        in_time(answer, 0.0, 0.0)
        assert (soon.outcomes, in_time.gone()) == ([answer], True)
        for _ in range(1_000):
            if late.outcomes:
                break
            await asyncio.sleep(0.01)
        too_late(answer, 0.0, 0.0)
        (error,) = late.outcomes
        assert isinstance(error, CandidateLate)

    asyncio.run(scenario())


def test_a_loop_that_stood_still_is_not_held_against_the_candidate() -> None:
    """An answer that came meanwhile and only had no turn yet counts."""

    async def scenario() -> None:
        told = Told()
        loop = asyncio.get_running_loop()
        within = Within(told, 0.05)
        answer = Answer([1.0])
        loop.call_later(0.051, within, answer, 0.0, 0.0)  # behind the timer in the loop's order
        time.sleep(0.3)  # nothing has a turn: a pause of the machine
        for _ in range(1_000):
            if told.outcomes:
                break
            await asyncio.sleep(0.001)
        assert told.outcomes == [answer]

    asyncio.run(scenario())


@pytest.mark.parametrize("rows", [1, 256])
def test_a_version_that_gets_slower_earns_no_more_time(rows: int, batcher_of: Callable[[Cost, bool], Any]) -> None:
    """Patience counts by what runs cost at load, or cost the champion now."""
    cost = Cost(0.01, 0.001)
    candidate, champion = batcher_of(cost, False), batcher_of(Cost(0.005, 0.0005), False)
    before = candidate.patience(rows, champion)
    for _ in range(50):
        cost.learn(rows, 10.0)
    assert candidate.patience(rows, champion) == before
    assert before == pytest.approx(0.05 + 4 * (0.01 + 0.001 * rows))


def test_what_runs_inline_needs_no_patience(batcher_of: Callable[[Cost, bool], Any]) -> None:
    """Nothing else runs meanwhile; a large request has a thread of its own, and a bound."""
    light = batcher_of(Cost(1e-5, 1e-6), True)
    assert light.patience(1, light) == float("inf")
    assert light.patience(10_000, light) < 1.0


@pytest.fixture
def batcher_of(cache: Cache) -> Callable[[Cost, bool], Any]:
    """Makes batchers of which nothing is asked."""
    from serving.queues.admission import Admission, Turn
    from serving.queues.batching import Batcher
    from serving.settings import QueueSettings

    found = ServeMetrics(CollectorRegistry())

    def make(cost: Cost, light: bool) -> Batcher:
        nothing: Any = None
        runner = Runner(nothing, nothing, cost, Counts.of(found, "toy"), most_rows=256)
        admission = Admission(QueueSettings(), Turn(0.1), found.rejected_total.labels)
        return Batcher(runner, admission, light=light)

    return make
