"""Greedy batching: together when they come together, alone when one of them is at fault, not at all when too late."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from monitoring.alerting.metrics import ServeMetrics
from registry.bundle import read_bundle
from registry.errors import ContractViolation
from serving.decode import Decoder
from serving.engine import Answer, Engine
from serving.errors import InferenceFailed, Overloaded
from serving.queues import admission, batching
from serving.queues.admission import Admission, Cost, Turn
from serving.queues.batching import Batcher
from serving.queues.runner import Counts, Outcome, Row, Runner
from serving.settings import QueueSettings
from tests.integration.serving_app import metrics, run
from tests.integration.serving_toy import ROW, Cache, one_row_bundle, serving

LIGHT = Cost(1e-5, 1e-6)
HEAVY = Cost(0.002, 0.0001)
PATIENT = QueueSettings(seconds=60.0)


class Counted(Engine):
    """The real engine, which notes how many rows each run had, and can be held up."""

    def __init__(self, folder: Path) -> None:
        bundle = read_bundle(folder)
        super().__init__(bundle.model_bytes(), bundle.contract, device="cpu")
        self.decoder = Decoder(bundle.contract, max_rows=1_000)
        self.runs: list[int] = []
        self.threads: set[str] = set()
        self.free = threading.Event()
        self.free.set()

    def run(self, tensors: Mapping[str, Any]) -> Answer:
        self.runs.append(len(tensors["numbers"]))
        self.threads.add(threading.current_thread().name)
        assert self.free.wait(60)
        return super().run(tensors)


class World:
    """A batcher with its counters."""

    def __init__(
        self, engine: Counted, cost: Cost, settings: QueueSettings = PATIENT, *, together: bool = True
    ) -> None:
        self.metrics = ServeMetrics(CollectorRegistry())
        self.engine = engine
        counts = Counts.of(self.metrics, "toy")
        most = settings.max_batch_rows
        runner = Runner(engine, engine.decoder, replace(cost), counts, most_rows=most, together=together)
        admission = Admission(settings, Turn(settings.seconds), self.metrics.rejected_total.labels)
        self.batcher = Batcher(runner, admission, light=cost is LIGHT)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def ask(self, *requests: Sequence[Row], gone: Sequence[int] = ()) -> list[Outcome]:
        """What each request gets, all of them submitted in one turn of the loop."""
        loop = asyncio.get_running_loop()
        found: list[asyncio.Future[Outcome]] = []
        for place, rows in enumerate(requests):
            future: asyncio.Future[Outcome] = loop.create_future()

            def done(outcome: Outcome, queue_s: float, infer_s: float, future: Any = future) -> None:
                assert queue_s >= 0.0
                assert infer_s >= 0.0
                assert threading.current_thread() is threading.main_thread()
                future.set_result(outcome)

            self.batcher.submit(rows, done, lambda place=place: place in gone)  # type: ignore[misc]
            assert not future.done()
            found.append(future)
        return await asyncio.wait_for(asyncio.gather(*found), 60)


def row(hour: float) -> Row:
    return tuple({**ROW, "hour": hour}[name] for name in ("temp", "hour", "late", "carrier"))


def answered(engine: Counted, cost: Cost, *requests: list[Row], **more: Any) -> list[Outcome]:
    async def ask() -> list[Outcome]:
        return await World(engine, cost, **more).ask(*requests)

    return asyncio.run(ask())


def predictions(found: Sequence[Outcome]) -> list[list[float]]:
    return [outcome.predictions for outcome in found if isinstance(outcome, Answer)]


@pytest.mark.parametrize("cost", [LIGHT, HEAVY], ids=["light", "heavy"])
def test_what_comes_together_goes_together(offsets: dict[int, Path], cost: Cost) -> None:
    """One run for three requests; each gets its own answers, on the loop's thread whichever thread ran them."""
    engine = Counted(offsets[1])
    found = answered(engine, cost, [row(1)], [row(2), row(3)], [row(4)])
    assert engine.runs == [4]
    assert (threading.main_thread().name in engine.threads) == (cost is LIGHT)
    assert predictions(found) == [[101.0], [102.0, 103.0], [104.0]]


@pytest.mark.parametrize("cost", [LIGHT, HEAVY], ids=["light", "heavy"])
def test_a_batch_is_bounded(offsets: dict[int, Path], cost: Cost) -> None:
    """More rows than a batch may have go in several, in order; each is counted by what released it."""
    engine = Counted(offsets[1])

    async def ask() -> None:
        world = World(engine, cost, QueueSettings(seconds=60.0, max_batch_rows=32))
        found = await world.ask(*[[row(n % 24)] for n in range(42)])
        assert engine.runs == [32, 10]
        assert predictions(found) == [[100.0 + n % 24] for n in range(42)]
        released = [world.count("perene_batch_released_total", reason=reason) for reason in ("full", "idle")]
        assert released == [1.0, 1.0]
        assert world.count("perene_batch_rows_sum", model="toy") == 42.0

    asyncio.run(ask())


def test_what_queues_while_the_engine_is_busy_is_the_next_batch(offsets: dict[int, Path]) -> None:
    """A lone request goes at once; those that come while it runs go together; packed and unpacked rows alike."""
    engine = Counted(offsets[1])
    engine.free.clear()

    async def ask() -> None:
        world = World(engine, HEAVY)
        first = asyncio.create_task(world.ask([row(1)]))
        await until(lambda: engine.runs == [1])
        later = [asyncio.create_task(world.ask([row(n)])) for n in (2, 3)]
        packed = engine.decoder.pack([row(4), row(5)])
        other = asyncio.create_task(world.batcher.answer([row(4), row(5)], packed))
        await until(lambda: world.batcher.waiting == 3)
        engine.free.set()
        assert predictions(await first) == [[101.0]]
        assert [predictions(await task) for task in later] == [[[102.0]], [[103.0]]]
        assert (await other)[0].predictions == [104.0, 105.0]
        assert engine.runs == [1, 4]

    asyncio.run(ask())


def test_a_large_request_holds_up_nobody(offsets: dict[int, Path]) -> None:
    """More rows than a batch may have run beside the queue, of a light model off the event loop."""
    engine = Counted(offsets[1])
    engine.free.clear()

    async def ask() -> None:
        world = World(engine, LIGHT, QueueSettings(seconds=60.0, max_batch_rows=8))
        large = asyncio.create_task(world.ask([row(n) for n in range(9)]))
        await until(lambda: engine.runs == [9])
        engine.free.set()
        assert predictions(await world.ask([row(1)])) == [[101.0]]
        assert predictions(await large) == [[100.0 + n for n in range(9)]]

    asyncio.run(ask())


@pytest.mark.parametrize("cost", [LIGHT, HEAVY], ids=["light", "heavy"])
def test_a_row_that_cannot_be_packed_fails_alone(offsets: dict[int, Path], cost: Cost) -> None:
    """A fraction for an integer: its request is refused, the others are answered."""
    found = answered(Counted(offsets[1]), cost, [row(1)], [row(1.5)], [row(3)])
    assert isinstance(found[1], ContractViolation)
    assert predictions(found) == [[101.0], [103.0]]


@pytest.mark.parametrize("cost", [LIGHT, HEAVY], ids=["light", "heavy"])
def test_a_graph_that_fails_on_several_rows_answers_each(toy_bundle: Path, tmp_path: Path, cost: Cost) -> None:
    """The graph takes one row at a time: the batch fails, the requests do not; two rows in one request do."""
    engine = Counted(one_row_bundle(toy_bundle, tmp_path / "one"))
    found = answered(engine, cost, [row(5)], [row(6), row(7)], [row(8)])
    assert isinstance(found[1], InferenceFailed)
    assert predictions(found) == [[5.0], [8.0]]


@pytest.mark.parametrize("cost", [LIGHT, HEAVY], ids=["light", "heavy"])
def test_an_unforeseen_error_is_told_to_everybody(
    offsets: dict[int, Path], caplog: pytest.LogCaptureFixture, cost: Cost
) -> None:
    """A row that is no row at all: nobody waits for ever."""
    found = answered(Counted(offsets[1]), cost, [row(1)], [()])
    assert isinstance(found[1], InferenceFailed)
    assert "batch_failed" in caplog.text


@pytest.mark.parametrize("cost", [LIGHT, HEAVY], ids=["light", "heavy"])
def test_an_unforeseen_error_after_a_foreseen_one_is_told_to_everybody(offsets: dict[int, Path], cost: Cost) -> None:
    """Rows that failed together are run alone: what fails there otherwise ends no thread, and the queue goes on."""

    class Worse(Counted):
        def run(self, tensors: Mapping[str, Any]) -> Answer:
            if len(tensors["numbers"]) > 1:
                raise InferenceFailed("together")
            if tensors["numbers"][0, 1] == 2:
                raise ValueError("alone")
            return super().run(tensors)

    async def ask() -> tuple[list[Outcome], list[Outcome]]:
        world = World(Worse(offsets[1]), cost)
        return await world.ask([row(1)], [row(2)], [row(3)]), await world.ask([row(4)])

    first, second = asyncio.run(ask())
    assert predictions(first) == [[101.0], [103.0]]
    assert isinstance(first[1], InferenceFailed)
    assert predictions(second) == [[104.0]]


def test_an_engine_may_want_requests_one_by_one(offsets: dict[int, Path]) -> None:
    """Where a bad row hurts the others, each request has a run of its own."""
    engine = Counted(offsets[1])
    found = answered(engine, HEAVY, [row(1)], [row(2), row(3)], together=False)
    assert engine.runs == [1, 2]
    assert predictions(found) == [[101.0], [102.0, 103.0]]


def test_what_waited_too_long_or_for_nobody_is_not_run(
    offsets: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a run that takes longer than they may wait; a request whose caller went away; both free the engine."""
    engine = Counted(offsets[1])
    engine.free.clear()
    ago = [0.0]
    monkeypatch.setattr(batching, "perf_counter", lambda: time.perf_counter() - ago[0])

    async def ask() -> None:
        world = World(engine, HEAVY)
        first = asyncio.create_task(world.ask([row(1)]))
        await until(lambda: engine.runs == [1])
        ago[0] = 2 * PATIENT.seconds  # when these arrive
        late = asyncio.create_task(world.ask([row(2)], [row(3)]))
        await until(lambda: world.batcher.waiting == 2)
        ago[0] = 0.0
        left = asyncio.create_task(world.ask([row(4)], [row(5)], gone=[0]))
        await until(lambda: world.batcher.waiting == 4)
        engine.free.set()
        assert predictions(await first) == [[101.0]]
        assert all(isinstance(outcome, Overloaded) for outcome in await late)
        assert predictions(await left) == [[105.0]]
        assert engine.runs == [1, 1]
        assert world.count("perene_rejected_total", reason="deadline") == 2.0

    asyncio.run(ask())


def test_a_full_queue_admits_nobody(offsets: dict[int, Path]) -> None:
    """By number, and by the time that those before need; once the queue is empty, everybody again."""
    engine = Counted(offsets[1])
    engine.free.clear()

    async def refusals(settings: QueueSettings, cost: Cost, reason: str) -> None:
        world = World(engine, cost, settings)
        world.batcher.admit()
        asked = asyncio.create_task(world.ask([row(0)]))
        await until(lambda: len(engine.runs) % 2 == 1)
        more = asyncio.create_task(world.ask(*[[row(n)] for n in range(4)]))
        await until(lambda: world.batcher.waiting == 4)
        with pytest.raises(Overloaded) as refused:
            world.batcher.admit()
        assert refused.value.retry_after_s >= 0.0
        assert world.count("perene_rejected_total", reason=reason) == 1.0
        engine.free.set()
        await asked
        await more
        await until(lambda: not world.batcher.busy)
        world.batcher.admit()
        engine.free.clear()

    asyncio.run(refusals(QueueSettings(seconds=60.0, max_requests=4), HEAVY, "queue_full"))
    asyncio.run(refusals(QueueSettings(seconds=60.0, max_requests=5), Cost(20.0, 5.0), "deadline"))


def test_a_turn_of_the_loop_that_lasts_too_long_takes_in_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next turn does."""
    now = [50.0]
    monkeypatch.setattr(admission, "perf_counter", lambda: now[0])

    async def turns() -> None:
        turn = Turn(0.02)
        assert not turn.over()
        assert not turn.over()
        now[0] += 0.03  # work on the loop
        assert turn.over()
        await asyncio.sleep(0)
        assert not turn.over()

    asyncio.run(turns())


def test_the_thread_ends_with_the_batcher(offsets: dict[int, Path]) -> None:
    """A version that nobody holds any more leaves no thread behind, without a garbage collection."""

    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("engine")}

    async def ask() -> None:
        before = threads()
        world = World(Counted(offsets[1]), HEAVY)
        await world.ask([row(1)])
        made = threads() - before
        assert len(made) == 1
        gc.disable()
        try:
            del world
            await until(lambda: not made & threads())
        finally:
            gc.enable()

    asyncio.run(ask())


def test_an_overloaded_candidate_leaves_the_answer_to_the_champion(cache: Cache, offsets: dict[int, Path]) -> None:
    """In A/B its queue costs nobody an answer; the queue's numbers are on /metrics."""
    for version, folder in offsets.items():
        cache.add(version, folder)
    cache.deploy(1, 2, "ab", 1.0)

    async def scenario() -> None:
        async with serving(cache, auth=False, queue={"seconds": 60.0, "max_requests": 1}) as served:
            assert (await served.predict())["version"] == 2
            candidate = served.app.state.service.table.models["toy"].versions[2].batcher
            candidate._turn.append(None)  # a request that is never taken: the queue of one is full
            assert (await served.predict())["version"] == 1

            async def told() -> bool:
                return (await metrics(served))["perene_queue_depth", ("toy",)] == 1.0

            await served.until(told)
            candidate._turn.clear()
            assert (await served.predict())["version"] == 2
            samples = await metrics(served)
            assert samples["perene_stage_duration_seconds_count", ("toy", "queue")] == 3.0
            assert samples["perene_rejected_total", ("queue_full",)] == 0.0, "nobody was refused"
            assert samples["perene_rejected_total", ("candidate_failed",)] == 1.0

    run(scenario)


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about in 10 s")
