"""Where parts of the server meet: what one lane began and the other ends, and what is held after an answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import select
import shutil
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop

from registry.bundle import seal
from serving.access import limits_redis
from serving.access.auth import ANYBODY, Keys
from serving.access.limits import Limits
from serving.dialects.proto import messages
from serving.loaded.models import Version
from serving.loaded.residents import Residents
from serving.settings import LimitSettings
from tests.integration.serving_app import SCOPES, run
from tests.integration.serving_toy import ROW, Cache, offset_bundle, pole_bundle, serving
from tests.integration.test_dialects_grpc import talking
from tests.integration.two_lanes import lanes, request, rows, send


def test_a_candidate_of_another_layout_gets_its_share_of_both_lanes(cache: Cache, toy_bundle: Path) -> None:
    """The fast lane leaves its requests to the application, which must not draw an arm anew: half would be a quarter.

    Positive control: with the lane's draw thrown away it is about a quarter.
    """
    turned = cache.folder.parent / "turned"
    shutil.copytree(toy_bundle, turned)
    contract = json.loads((turned / "contract.json").read_text())
    contract["columns"].reverse()
    (turned / "contract.json").write_text(json.dumps(contract))
    seal(turned)
    cache.add(1, offset_bundle(toy_bundle, cache.folder.parent / "one", 100))
    cache.add(2, offset_bundle(turned, cache.folder.parent / "two", 200))
    cache.deploy(1, 2, "ab", 0.5)

    async def candidates(count: int) -> int:
        async with lanes(cache, auth=False) as both:
            said = await asyncio.gather(*(send(both.fast, request(body=rows(ROW))) for _ in range(count)))
        assert all(answer.startswith(b"HTTP/1.1 200") for answer in said)
        return sum(b'"arm":"candidate"' in answer for answer in said)

    # by dice: so far off by chance is half in two of a million runs, and a quarter in none
    assert 150 < asyncio.run(candidates(400)) < 250


@pytest.mark.parametrize("kind", ["answered", "fails", "unknown"])
def test_no_answer_holds_a_version_that_was_replaced(kind: str, cache: Cache, toy_bundle: Path, tmp_path: Path) -> None:
    """Neither an error over HTTP or gRPC nor a connection that is kept: its memory is given back without a search."""
    for number in (1, 2):
        cache.add(number, pole_bundle(toy_bundle, tmp_path / str(number)))
    key = cache.key(SCOPES)
    cache.deploy(1)
    row = {**ROW, "hour": 13 if kind == "fails" else 7}
    asked = request("/models/no/predict" if kind == "unknown" else "/predict", rows(row), key=key)

    async def scenario() -> None:
        async with talking(cache, key) as (served, client):
            await served.client.post("/predict", json=row)
            with contextlib.suppress(grpc.RpcError):
                await client.send("ModelInfer", _call("no" if kind == "unknown" else "toy", row["hour"]))
            cache.deploy(2)
            await served.serves(2)
            await _until(lambda: _versions() == {2})

    async def kept() -> None:
        async with lanes(cache) as both:
            reader, writer = await asyncio.open_connection("127.0.0.1", both.fast)
            writer.write(asked)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 ")
            cache.deploy(1)
            service = both.app.state.service
            await _until(lambda: 1 in service.table.models["toy"].versions)
            # another request, so that the lane looks at the new table
            await send(both.fast, request(body=rows(ROW), key=key))
            await _until(lambda: _versions() == {1})
            writer.close()

    gc.collect()
    gc.disable()
    try:
        asyncio.run(scenario())
        gc.collect()
        asyncio.run(kept())
    finally:
        gc.enable()


@pytest.mark.parametrize("turns", [0, 6, 100])
def test_a_caller_that_leaves_while_redis_is_asked_is_not_counted_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """A call over gRPC is cancelled there, whatever the client does in that turn of the loop; what it held is free."""
    monkeypatch.setattr(limits_redis, "TIMEOUT_S", 5.0)

    async def scenario() -> None:
        with socket.socket() as silent:  # takes connections and says nothing
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
            settings = LimitSettings(concurrent=1, requests_per_second=100, redis=url)
            limits = Limits(settings, tmp_path, largest=10)
            caller = Keys((), limits).anybody
            assert caller.id == ANYBODY.id
            entering = asyncio.create_task(limits.admit(caller))
            while not select.select([silent], [], [], 0)[0]:  # until a connection waits
                await asyncio.sleep(0)
            for _ in range(turns):
                await asyncio.sleep(0)
            entering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await entering
            silent.close()
            await limits.admit(caller)  # there is room: Redis is away, so it is counted here
            limits.leave(caller)
            await limits.close()

    run(scenario)


def test_a_header_that_names_two_versions_is_refused(cache: Cache, offsets: dict[int, Path]) -> None:
    """The first one must not win in silence; the same one twice is one."""
    for version, bundle in offsets.items():
        cache.add(version, bundle)
    cache.deploy(1, 2, "ab", 0.0)

    async def scenario() -> None:
        async with serving(cache, auth=False) as served:
            for wanted, status in ((("1", "2"), 400), (("2", "1"), 400), (("2", "2"), 200)):
                head = [("x-model-version", version) for version in wanted]
                reply = await served.client.post("/predict", json=ROW, headers=head)
                assert reply.status_code == status, wanted

    run(scenario)


def test_a_model_that_fell_asleep_before_its_turn_is_loaded_again(
    cache: Cache, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hand-over came between the load and whoever waited for it: no 503 of ours."""
    cache.add(1, offset_bundle(toy_bundle, tmp_path / "cat", 1, model="cat"), model="cat")
    cache.add(1, offset_bundle(toy_bundle, tmp_path / "toy", 100))
    cache.deploy(1, model="cat")
    cache.deploy(1)
    loaded = Residents._loaded
    slept: list[str] = []

    async def and_asleep(self: Residents, name: str) -> None:
        await loaded(self, name)
        if not slept:
            service, slept[:] = self._service, [name]
            model = service.table.models[name]
            service.table = type(service.table)({**service.table.models, name: self._loader.asleep(model)})

    monkeypatch.setattr(Residents, "_loaded", and_asleep)

    async def scenario() -> None:
        async with serving(cache, auth=False, max_models=1) as served:
            answer = await served.predict(path="/models/toy/predict")
            assert (answer["predictions"], slept) == ([107.0], ["toy"])

    run(scenario)


def test_a_load_that_nobody_waits_for_any_more_is_not_waited_for(
    cache: Cache, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was dropped again as it ended; who asks in the same turn of the loop has a load of its own."""
    cache.add(1, offset_bundle(toy_bundle, tmp_path / "cat", 1, model="cat"), model="cat")
    cache.add(1, offset_bundle(toy_bundle, tmp_path / "toy", 100))
    cache.deploy(1, model="cat")
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, auth=False, max_models=1) as served:
            residents: Residents = served.app.state.service.residents
            toy = served.app.state.service.table.models["toy"]
            left = asyncio.create_task(residents.ready(toy, None))
            await asyncio.sleep(0)
            left.cancel()
            residents.touch("cat")
            publish, later = residents._loader.publish, []

            def and_ask(models: Any) -> None:
                publish(models)
                later.append(asyncio.get_running_loop().create_task(residents.ready(toy, None)))

            monkeypatch.setattr(residents._loader, "publish", and_ask)
            await _until(lambda: later)
            monkeypatch.undo()
            ready, _ = await asyncio.wait_for(later[0], 10)
            assert ready.resident

    run(scenario)


def test_who_leaves_while_the_first_of_several_is_answered_breaks_nothing(
    cache: Cache, offsets: dict[int, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """The answer under way goes nowhere, quietly: no error in the log that a caller could fill it with."""
    cache.add(1, offsets[1])
    cache.deploy(1)

    async def scenario() -> None:
        async with lanes(cache, auth=False) as both:
            logger = logging.getLogger("uvicorn.error")
            logger.setLevel(logging.ERROR)
            logger.addHandler(caplog.handler)
            for n in range(200):
                _, writer = await asyncio.open_connection("127.0.0.1", both.fast)
                writer.write(request() * 5)
                for _ in range(n % 20):
                    await asyncio.sleep(0)
                writer.transport.abort()
            service = both.app.state.service
            await _until(lambda: service.metrics.requests_in_progress._value.get() == 0)
            await asyncio.sleep(0.1)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the server has it
        runner.run(scenario())
    assert "ASGI" not in caplog.text


def _versions() -> set[int]:
    return {found.version for found in gc.get_objects() if type(found) is Version}


async def _until(holds: Any) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.01)
            return
    raise AssertionError("it does not come about")


def _call(model: str, hour: int) -> bytes:
    made = messages()["ModelInferRequest"](model_name=model)
    for name, kind, field, value in (
        ("temp", "FP64", "fp64_contents", 1.5),
        ("hour", "INT64", "int64_contents", hour),
        ("late", "BOOL", "bool_contents", True),
        ("carrier", "BYTES", "bytes_contents", b"AA"),
    ):
        tensor = made.inputs.add(name=name, datatype=kind, shape=[1])
        getattr(tensor.contents, field).append(value)
    return bytes(made.SerializeToString())
