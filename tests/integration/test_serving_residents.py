"""Models in memory: at most so many, loaded when they are asked for, and dropped when others are."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import psutil
import pytest

from monitoring.intake.events import PredictionEvent
from serving.loaded.models import Loader, Model
from serving.native import NativeEngine
from tests.integration.native_models import moody_bundle
from tests.integration.serving_app import SCOPES, body_of_rows, metrics, refused, run
from tests.integration.serving_toy import ROW, Cache, Served, answer, offset_bundle, serving, stored_events

NAMES = ("ant", "bee", "cat")


@pytest.fixture
def three(cache: Cache, toy_bundle: Path, tmp_path: Path) -> tuple[Cache, str]:
    """Three models, whose answers tell them apart, and a key."""
    for n, name in enumerate(NAMES, 1):
        cache.add(1, offset_bundle(toy_bundle, tmp_path / name, 100.0 * n, model=name), model=name)
    key = cache.key(SCOPES)
    for name in NAMES:
        cache.deploy(1, model=name)
    return cache, key


async def asked(served: Served, name: str) -> None:
    body = await served.predict(path=f"/models/{name}/predict")
    assert body["predictions"] == [answer(100.0 * (NAMES.index(name) + 1), ROW)]


async def resident(served: Served) -> list[str]:
    names: list[str] = (await served.client.get("/readyz?verbose")).json()["resident"]
    listed = (await served.client.get("/models")).json()["models"]
    assert names == sorted(model["name"] for model in listed if model["resident"])
    assert all((model["provider"] == "none") is not model["resident"] for model in listed)
    return names


def cold_starts(samples: Mapping[tuple[str, tuple[str, ...]], float]) -> dict[str, float]:
    return {labels[0]: value for (name, labels), value in samples.items() if name == "perene_cold_starts_total"}


def test_without_a_bound_every_model_is_loaded(three: tuple[Cache, str]) -> None:
    """Nothing changes for whoever does not ask for it: no cold start, all resident."""
    cache, key = three

    async def scenario() -> None:
        async with serving(cache, key) as served:
            assert await resident(served) == list(NAMES)
            for name in NAMES:
                await asked(served, name)
            assert cold_starts(await metrics(served)) == {}

    run(scenario)


def test_a_model_is_loaded_when_it_is_asked_for_and_the_one_not_asked_longest_goes(three: tuple[Cache, str]) -> None:
    """Every model answers rightly all the time; what is in memory, and what it cost, is told."""
    cache, key = three

    async def scenario() -> None:
        async with serving(cache, key, max_models=2) as served:
            assert await resident(served) == ["ant", "bee"]
            await asked(served, "ant")
            await asked(served, "cat")
            assert await resident(served) == ["ant", "cat"]
            await asked(served, "bee")
            assert await resident(served) == ["bee", "cat"]
            samples = await metrics(served)
            assert cold_starts(samples) == {"cat": 1.0, "bee": 1.0}
            loaded = {labels[0] for (name, labels), _ in samples.items() if name == "perene_model_loaded_info"}
            assert loaded == {"bee", "cat"}
            # what needs no graph is told of all of them
            for name in NAMES:
                assert (await served.client.get(f"/models/{name}/schema")).status_code == 200
                await refused(served, f"/models/{name}/predict", b'{"rows":[{}]}', 422)
            document = (await served.client.get("/openapi.json")).json()
            assert all(f"/models/{name}/predict" in document["paths"] for name in NAMES)
            path = served.spool.path
        events = [e for e in stored_events(path) if isinstance(e, PredictionEvent)]
        assert sorted(e.model for e in events) == ["ant", "bee", "cat"]

    run(scenario)


def test_the_default_model_is_loaded_first(three: tuple[Cache, str]) -> None:
    """Bare `/predict` must not begin with a cold start."""
    cache, key = three

    async def scenario() -> None:
        async with serving(cache, key, max_models=1, default_model="cat") as served:
            assert await resident(served) == ["cat"]

    run(scenario)


def test_many_that_ask_for_one_model_wait_for_one_load(three: tuple[Cache, str]) -> None:
    """Single flight; other models answer meanwhile; a caller that goes away stops nothing."""
    cache, key = three

    async def scenario() -> None:
        async with serving(cache, key, max_models=1) as served:
            leaver = asyncio.create_task(asked(served, "cat"))
            await asyncio.sleep(0)
            leaver.cancel()
            await asyncio.gather(*(asked(served, "cat") for _ in range(20)), asked(served, "ant"))
            with contextlib.suppress(asyncio.CancelledError):
                await leaver
            assert cold_starts(await metrics(served))["cat"] == 1.0

    run(scenario)


def test_models_that_take_turns_answer_rightly(three: tuple[Cache, str]) -> None:
    """With room for one only, requests for all of them at once still get their own model's answers."""
    cache, key = three

    async def scenario() -> None:
        async with serving(cache, key, max_models=1) as served:
            for _ in range(5):
                await asyncio.gather(*(asked(served, name) for name in NAMES for _ in range(5)))
            # those that were asked while another was loaded stay until the next load makes room
            for name in [name for name in NAMES if name not in await resident(served)][:1]:
                await asked(served, name)
                assert await resident(served) == [name]

    run(scenario)


@contextlib.asynccontextmanager
async def held(served: Served) -> AsyncIterator[Model]:
    """A request for `ant` that is being answered."""
    service = served.app.state.service
    with service.residents.using("ant"):
        yield service.table.models["ant"]


def test_a_model_that_is_being_asked_is_not_dropped(three: tuple[Cache, str]) -> None:
    """There is one more in memory for as long as it takes; the next load makes room."""
    cache, key = three

    async def scenario() -> None:
        async with serving(cache, key, max_models=1) as served:
            await asked(served, "ant")
            async with held(served) as model:
                await asked(served, "cat")
                assert await resident(served) == ["ant", "cat"]
                assert served.app.state.service.table.models["ant"] is model
            await asked(served, "bee")
            assert await resident(served) == ["bee"]

    run(scenario)


def test_a_new_version_of_a_model_that_is_not_in_memory_is_not_loaded(
    three: tuple[Cache, str], toy_bundle: Path, tmp_path: Path
) -> None:
    """A swap moves what is known of it; the first request loads the new version, and the others stay."""
    cache, key = three
    cache.add(2, offset_bundle(toy_bundle, tmp_path / "cat2", 900.0, model="cat"), model="cat")

    async def scenario() -> None:
        async with serving(cache, key, max_models=2) as served:
            cache.deploy(2, model="cat")

            async def moved() -> bool:
                return bool((await served.client.get("/models/cat")).json()["champion"] == 2)

            await served.until(moved)
            assert await resident(served) == ["ant", "bee"]
            body = await served.predict(path="/models/cat/predict")
            assert (body["version"], body["predictions"]) == (2, [907.0])

    run(scenario)


def test_a_model_that_does_not_load_is_refused_and_tried_again_later(
    three: tuple[Cache, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with a reason in `/readyz?verbose`; the others answer; tries are not made faster than callers ask."""
    cache, key = three
    monkeypatch.setattr("serving.loaded.residents.AGAIN_S", 600.0)

    async def scenario() -> None:
        async with serving(cache, key, max_models=2) as served:
            damaged = cache.folder / cache.bundles["cat"]["1"].dir / "model.onnx"
            sound = damaged.read_bytes()
            damaged.write_bytes(b"no graph")
            for _ in range(3):
                error = await refused(served, "/models/cat/predict", body_of_rows(), 503)
                assert error["code"] == "not_ready"
            told = (await served.client.get("/readyz?verbose")).json()
            assert [failure["model"] for failure in told["failures"]] == ["cat"]
            assert (await metrics(served))["perene_model_load_failures_total", ("bundle_corrupt",)] == 1
            assert await resident(served) == ["ant", "bee"]
            damaged.write_bytes(sound)
            residents = served.app.state.service.residents
            until, failure = residents._failed["cat"]
            residents._failed["cat"] = (until - 600.0, failure)  # so long ago was the first try
            await asked(served, "cat")
            assert (await served.client.get("/readyz?verbose")).json()["failures"] == []

    run(scenario)


def test_a_native_model_that_is_dropped_ends_its_process(three: tuple[Cache, str], tmp_path: Path) -> None:
    """A graph is memory that is given back; a native model is a process that ends."""
    cache, key = three
    cache.add(1, moody_bundle(tmp_path / "moody"), model="moody")
    cache.deploy(1, model="moody")

    async def scenario() -> None:
        async with serving(cache, key, max_models=2, allow_pickle=True) as served:
            reply = await served.client.post("/models/moody/predict", json={"rows": [{"x": 7.0}]})
            assert reply.json()["predictions"] == [14.0]
            engine = served.app.state.service.table.models["moody"].champion.engine
            assert isinstance(engine, NativeEngine)
            pid = engine.process.pid
            assert pid is not None
            assert psutil.pid_exists(pid)
            del engine
            for name in NAMES:
                await asked(served, name)
            assert "moody" not in await resident(served)

            async def ended() -> bool:
                gc.collect()
                return pid is not None and not psutil.pid_exists(pid)

            await served.until(ended)

    run(scenario)


def test_models_are_looked_up_without_a_lock(three: tuple[Cache, str]) -> None:
    """A load in its thread holds up neither requests for other models nor the event loop."""
    cache, key = three

    async def scenario() -> None:
        async with serving(cache, key, max_models=2) as served:
            loader: Loader = served.app.state.service._loader
            entered, free = asyncio.Event(), asyncio.Event()
            loop, wake = asyncio.get_running_loop(), loader.wake

            def slow(model: Model) -> Model:
                loop.call_soon_threadsafe(entered.set)
                asyncio.run_coroutine_threadsafe(free.wait(), loop).result(10)
                return wake(model)

            loader.wake = slow  # type: ignore[method-assign]
            cold = asyncio.create_task(asked(served, "cat"))
            await entered.wait()
            await asked(served, "ant")
            assert not cold.done()
            free.set()
            await cold

    run(scenario)
