"""Native versions behind the real HTTP application: answers, failures, swaps, and pickles that are not allowed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from registry.ledger import Ledger
from registry.log import build_bundle
from serving.native import NativeEngine
from serving.puller import Puller
from serving.state import State
from tests.conftest import toy_frame
from tests.integration.native_models import CRASH, HANG, RAISE, Calm, Canary, Gated, exchanged, moody_bundle
from tests.integration.serving_app import run
from tests.integration.serving_toy import ROW, Cache, Served, serving

PATH = "/models/moody/predict"


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moody_bundle(tmp_path_factory.mktemp("moody") / "bundle")


@pytest.fixture(scope="module")
def calm(moody: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exchanged(moody, tmp_path_factory.mktemp("calm") / "bundle", Calm())


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")) as opened:
        yield opened


def engine(served: Served, version: int, model: str = "moody") -> NativeEngine:
    found = served.app.state.service.table.models[model].versions[version].engine
    assert isinstance(found, NativeEngine)
    return found


async def ask(served: Served, x: float) -> tuple[int, Any]:
    reply = await served.client.post(PATH, json={"rows": [{"x": x}]})
    return reply.status_code, reply.json()


def test_the_original_answers_requests(cache: Cache, tmp_path: Path) -> None:
    """Text that no ONNX operator hashes: the same numbers as the estimator's, and no pickle is needed."""
    frame = toy_frame(1_500)[["carrier", "hour"]]
    encoder = make_column_transformer((HashingVectorizer(n_features=32), "carrier"), remainder="passthrough")
    target = frame["hour"] + (frame["carrier"] == "AA")
    estimator = make_pipeline(encoder, Ridge()).fit(frame, target)
    bundle = build_bundle(estimator, frame, target, name="toy", to=tmp_path / "b", runtime="native")
    cache.add(1, bundle.path)
    cache.deploy(1)
    rows = frame.head(30)
    records: list[dict[str, Any]] = [dict(zip(rows.columns, row, strict=True)) for row in rows.to_numpy().tolist()]

    async def scenario() -> None:
        async with serving(cache, auth=False) as served:
            body = await served.predict(records)
            np.testing.assert_array_equal(body["predictions"], estimator.predict(rows))
            facts = (await served.client.get("/models/toy")).json()
            assert (facts["provider"], facts["verdict"]) == ("native", "exact")
            wrong = await served.client.post("/predict", json={"rows": [{"carrier": "AA", "hour": "noon"}]})
            assert wrong.status_code == 422

    run(scenario)


def test_one_that_hangs_is_stopped_while_others_are_served(cache: Cache, moody: Path, offsets: dict[int, Path]) -> None:
    """Its request fails by name after `native_seconds`; another model answers meanwhile, and it afterwards."""
    cache.add(1, moody, model="moody")
    cache.deploy(1, model="moody")
    cache.add(1, offsets[1])
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, auth=False, allow_pickle=True, native_seconds=5.0) as served:
            hanging = asyncio.create_task(ask(served, HANG))
            for _ in range(20):
                await served.predict([ROW], path="/models/toy/predict")
            assert not hanging.done()
            status, body = await hanging
            assert (status, body["error"]["code"]) == (500, "inference_failed")
            assert "did not answer within 5 s" in body["error"]["message"]
            engine(served, 1).process._seconds = 60.0  # what answers gets the time of a busy machine
            assert (await ask(served, 7.0))[1]["predictions"] == [14.0]

    run(scenario)


def test_killed_under_load_every_request_is_answered(cache: Cache, moody: Path) -> None:
    """kill -9 of the process, twice, while four clients ask: each request gets its own right answer."""
    cache.add(1, moody, model="moody")
    cache.deploy(1, model="moody")

    async def scenario() -> None:
        async with serving(cache, auth=False, allow_pickle=True) as served:
            answered = 0

            async def client(n: int) -> None:
                nonlocal answered
                for k in range(50):
                    x = 10.0 + n + k / 64
                    status, body = await ask(served, x)
                    assert (status, body.get("predictions")) == (200, [2 * x]), body
                    answered += 1

            async def killer() -> None:
                for least in (20, 100):
                    while answered < least:
                        await asyncio.sleep(0.001)
                    pid = engine(served, 1).process.pid
                    assert pid is not None
                    os.kill(pid, signal.SIGKILL)

            await asyncio.gather(killer(), *(client(n) for n in range(4)))
            assert answered == 200

    run(scenario)


def test_a_poisonous_row_fails_alone(cache: Cache, moody: Path) -> None:
    """A row that kills the process twice is answered with how; an exception by its kind; the next row as ever."""
    cache.add(1, moody, model="moody")
    cache.deploy(1, model="moody")

    async def scenario() -> None:
        async with serving(cache, auth=False, allow_pickle=True) as served:
            status, body = await ask(served, CRASH)
            assert (status, body["error"]["code"]) == (500, "inference_failed")
            assert "SIGSEGV" in body["error"]["message"]
            await asyncio.sleep(0.3)  # it is left alone for 0.2 s
            status, body = await ask(served, RAISE)
            assert (status, "ValueError" in body["error"]["message"]) == (500, True)
            assert "secret" not in str(body)
            assert (await ask(served, 7.0))[1]["predictions"] == [14.0]

    run(scenario)


def test_where_the_candidate_fails_the_champion_answers(cache: Cache, moody: Path, calm: Path) -> None:
    """In a trial a candidate whose process ends costs the caller nothing."""
    cache.add(1, calm, model="moody")
    cache.add(2, moody, model="moody")
    cache.deploy(1, 2, "ab", 1.0, model="moody")

    async def scenario() -> None:
        async with serving(cache, auth=False, allow_pickle=True) as served:
            _, body = await ask(served, 7.0)
            assert (body["version"], body["arm"], body["predictions"]) == (2, "candidate", [14.0])
            status, body = await ask(served, CRASH)
            assert (status, body["version"], body["arm"]) == (200, 1, "fallback")
            assert body["predictions"] == [3 * CRASH]

    run(scenario)


def test_a_swap_ends_the_old_process_after_its_requests(cache: Cache, moody: Path, calm: Path, tmp_path: Path) -> None:
    """The request in flight is answered by the version that it chose; then that version's process is gone."""
    gate = tmp_path / "gate"
    cache.add(1, exchanged(moody, tmp_path / "b", Gated(str(gate))), model="moody")
    cache.add(2, calm, model="moody")
    cache.deploy(1, model="moody")

    async def scenario() -> None:
        async with serving(cache, auth=False, allow_pickle=True, native_seconds=60.0) as served:
            pid = engine(served, 1).process.pid
            assert pid is not None
            slow = asyncio.create_task(ask(served, HANG))
            while not served.app.state.service.table.models["moody"].versions[1].batcher.busy:
                await asyncio.sleep(0.01)
            cache.deploy(2, model="moody")

            async def swapped() -> bool:
                return bool(served.app.state.service.table.models["moody"].route.champion == 2)

            await served.until(swapped)
            assert (await ask(served, 7.0))[1]["predictions"] == [21.0]
            assert not slow.done()
            assert psutil.pid_exists(pid)
            gate.touch()
            status, body = await slow
            assert (status, body["version"], body["predictions"]) == (200, 1, [2 * HANG])

            async def gone() -> bool:
                return not psutil.pid_exists(pid)

            await served.until(gone)
            last = engine(served, 2).process.pid
        assert last is not None
        assert not psutil.pid_exists(last)

    run(scenario)


def test_a_pickle_that_is_not_allowed_is_not_loaded(cache: Cache, moody: Path, tmp_path: Path) -> None:
    """The server names why; the canary that a load would create is not there; other models are served."""
    canary = tmp_path / "canary"
    cache.add(1, exchanged(moody, tmp_path / "b", Canary(str(canary))), model="moody")
    cache.deploy(1, model="moody")

    async def scenario() -> None:
        async with serving(cache, auth=False) as served:
            failures = (await served.client.get("/readyz?verbose")).json()["failures"]
            assert [f["version"] for f in failures] == [1]
            assert "the model is a pickle" in failures[0]["reason"]

    run(scenario)
    assert not canary.exists()


def test_the_puller_refuses_a_pickle_unread(ledger: Ledger, moody: Path, tmp_path: Path) -> None:
    """Nothing is handed over, the reason is named, the canary is not there; with permission it is handed over."""
    canary = tmp_path / "canary"
    planted = exchanged(moody, tmp_path / "b", Canary(str(canary)))
    ledger.move("moody", expected_revision=0, champion=1, actor="test", reason="first")

    def fetch(folder: Path) -> Any:
        return lambda model, version, to: (to.parent.mkdir(parents=True, exist_ok=True), shutil.copytree(folder, to))

    state = Puller(tmp_path / "cache", fetch(planted)).state(ledger, State(), 1.0)
    assert (state.deployments, [f.version for f in state.failures]) == ({}, [1])
    assert "the model is a pickle" in state.failures[0].reason
    assert not canary.exists()
    allowed = Puller(tmp_path / "cache", fetch(moody), allow_pickle=True).state(ledger, State(), 2.0)
    assert (list(allowed.deployments), allowed.failures) == (["moody"], [])
