"""What a key may ask for: rates, requests at once, rows of a day; over both lanes, processes, machines and restarts."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from grpc import StatusCode

from registry.keys import KeyLimits
from serving.access import limits_redis
from serving.access.auth import Keys
from serving.access.limits import Limits
from serving.errors import Limited
from serving.settings import LimitSettings
from tests.integration.dialect_models import CONTRACTS, rows_of
from tests.integration.serving_app import SCOPES, bearer, metrics, run
from tests.integration.serving_toy import ROW, Cache, serving
from tests.integration.test_dialects_grpc import infer_request, talking
from tests.integration.two_lanes import Lanes, lanes, normal, request, rows, send

DAY = 86_400


@pytest.fixture
def deployed(cache: Cache, offsets: dict[int, Path]) -> Cache:
    cache.add(1, offsets[1])
    return cache


def limits_of(folder: Path, clock: list[float], **own: Any) -> tuple[Limits, Any]:
    """Limits on a clock by hand, and the one caller."""
    found = Limits(
        LimitSettings(**own), folder, largest=10_000, monotonic=lambda: clock[0], wall=lambda: 20_000 * DAY + clock[0]
    )
    return found, Keys((), found).anybody


def refusal(limits: Limits, caller: Any, rows_of: int = 0) -> Limited | None:
    """What a request of so many rows is refused with; it is over at once."""
    try:
        limits.enter(caller)
    except Limited as error:
        return error
    try:
        limits.rows(caller, rows_of)
    except Limited as error:
        return error
    finally:
        limits.leave(caller)
    return None


def test_a_day_has_its_quota_and_the_next_one_its_own(tmp_path: Path) -> None:
    """To the row; a restart of the server begins no new day."""
    clock = [DAY - 100.0]
    limits, caller = limits_of(tmp_path, clock, rows_per_day=100)
    assert refusal(limits, caller, 60) is None
    over = refusal(limits, caller, 41)
    assert over is not None
    assert (over.reason, over.retry_after_s) == ("quota", 100)
    asyncio.run(limits.close())
    again, caller = limits_of(tmp_path, clock, rows_per_day=100)
    assert refusal(again, caller, 41) is not None
    assert refusal(again, caller, 40) is None
    assert dict(again.headers(caller))["ratelimit"] == '"quota";r=0;t=100'
    clock[0] += 100
    assert refusal(again, caller, 100) is None
    assert refusal(again, caller, 1) is not None
    asyncio.run(again.close())


def test_a_table_of_more_rows_than_a_second_has_is_paid_off(tmp_path: Path) -> None:
    """It passes when nothing is owed, and the next request waits for as long as its rows take."""
    clock = [50.0]
    limits, caller = limits_of(tmp_path, clock, rows_per_second=10)
    assert refusal(limits, caller, 100) is None
    over = refusal(limits, caller, 1)
    assert over is not None
    assert (over.reason, round(over.retry_after_s, 6)) == ("rate", 9.1)
    clock[0] += 9.1
    assert refusal(limits, caller, 1) is None
    asyncio.run(limits.close())


def test_what_the_application_counts_again_was_given_back(tmp_path: Path) -> None:
    """A request that falls from the fast lane is counted once."""
    clock = [50.0]
    limits, caller = limits_of(tmp_path, clock, requests_per_second=2, rows_per_second=5, rows_per_day=5, concurrent=1)
    for _ in range(20):
        limits.enter(caller)
        limits.rows(caller, 5)
        limits.back(caller, 5)
    assert refusal(limits, caller, 5) is None
    asyncio.run(limits.close())


def test_own_limits_win_and_nothing_is_no_limit(tmp_path: Path) -> None:
    """Of a key before those of the server, each by itself; 0 lifts the server's."""
    limits = Limits(LimitSettings(requests_per_second=5, rows_per_day=9), tmp_path, largest=100)
    allowed = limits.allowances(
        {"own": KeyLimits(requests_per_second=7.5), "none": KeyLimits(0, rows_per_day=0), "plain": KeyLimits()}
    )
    assert "none" not in allowed
    assert allowed["own"].policy == '"requests";q=7;w=1, "quota";q=9;w=86400;qu="rows"'
    assert allowed["plain"].policy == '"requests";q=5;w=1, "quota";q=9;w=86400;qu="rows"'
    asyncio.run(limits.close())
    unlimited = Limits(LimitSettings(), tmp_path / "none", largest=100)
    assert Keys((), unlimited).anybody.limits is None
    assert not (tmp_path / "none").exists()


def key_with(cache: Cache, **own: Any) -> str:
    """A key with limits."""
    secret = cache.key(SCOPES)
    cache.keys[-1] = type(cache.keys[-1])(
        cache.keys[-1].id, cache.keys[-1].sha256, cache.keys[-1].scopes, cache.keys[-1].models, KeyLimits(**own)
    )
    return secret


def test_a_refusal_says_when_to_come_back(deployed: Cache) -> None:
    """429, Retry-After in whole seconds, what is left and of what; counted, and other keys go on."""
    slow, other = key_with(deployed, requests_per_second=0.01, rows_per_day=1_000), deployed.key(SCOPES)
    deployed.deploy(1)

    async def scenario() -> None:
        async with serving(deployed, other) as served:
            client = served.client
            first = await client.post("/predict", json=ROW, headers={"x-api-key": slow})
            assert first.status_code == 200
            assert first.headers["ratelimit-policy"] == '"requests";q=1;w=100, "quota";q=1000;w=86400;qu="rows"'
            rest = re.match(r'"requests";r=0;t=(\d+), "quota";r=999;t=\d+', first.headers["ratelimit"])
            assert rest is not None
            assert 1 <= int(rest[1]) <= 100
            for path in ("/predict", "/v2/models/toy/infer", "/v1/models/toy:predict", "/invocations", "/feedback"):
                reply = await client.post(path, json=ROW, headers={"x-api-key": slow})
                assert reply.status_code == 429, path
                assert 1 <= int(reply.headers["retry-after"]) <= 100
                assert reply.headers["ratelimit"].startswith('"requests";r=0;t=')
            reply = await client.get("/models", headers={"x-api-key": slow})
            assert reply.json()["error"]["code"] == "rate_limited"
            ordinary = await served.predict()
            assert ordinary["predictions"] == [107.0]
            found = await metrics(served)
            assert found["perene_rejected_total", ("rate",)] == 6
            assert "ratelimit-policy" not in (await client.get("/models")).headers

    run(scenario)


def test_requests_at_once_are_bounded(deployed: Cache) -> None:
    """One more than allowed is refused, the next one may come. Positive control: without the limit none is."""
    deployed.deploy(1)

    async def refused_of(**limits: Any) -> int:
        async with serving(deployed, auth=False, limits=LimitSettings(**limits)) as served:
            begun, goes_on = [0], asyncio.Event()

            async def slowly() -> Any:
                begun[0] += 1
                yield b'{"rows": '
                await goes_on.wait()
                yield b"[]}"

            async def all_are_there() -> bool:
                return begun[0] + sum(task.done() for task in asked) == 5

            head = {"content-type": "application/json"}
            asked = [
                asyncio.create_task(served.client.post("/predict", content=slowly(), headers=head)) for _ in range(5)
            ]
            await served.until(all_are_there)
            goes_on.set()
            replies = await asyncio.gather(*asked)
            assert (await served.client.post("/predict", json=ROW)).status_code == 200
            assert (await metrics(served))["perene_rejected_total", ("concurrency",)] == sum(
                r.status_code == 429 for r in replies
            )
            return sum(reply.status_code == 429 for reply in replies)

    assert asyncio.run(refused_of(concurrent=2)) == 3
    assert asyncio.run(refused_of(rows_per_day=100)) == 0


def test_a_day_of_rows_is_one_over_both_lanes_and_a_restart(deployed: Cache) -> None:
    """Refused ones cost nothing, those that fall from the fast lane count once, and a restart forgets nothing."""
    deployed.deploy(1)
    few = LimitSettings(rows_per_day=10, requests_per_second=1_000)

    async def scenario(*sent: tuple[str, bytes, int]) -> None:
        async with lanes(deployed, auth=False, limits=few) as at:
            one_day(at.app)
            for lane, data, status in sent:
                answer = await send(getattr(at, lane), data)
                assert answer.startswith(b"HTTP/1.1 %d" % status), (lane, answer[:200])
                assert b"ratelimit-policy: " in answer
            # refused alike in both lanes, unless the second changed in between
            assert await refused_alike(at, sent[-1][1]) or await refused_alike(at, sent[-1][1])
            assert at.app.state.service.limits._counts.busy(deployed_slot(at.app)) == 0

    asyncio.run(
        scenario(
            ("fast", request(body=rows(ROW, ROW, ROW)), 200),
            ("slow", request(body=rows(ROW, ROW, ROW)), 200),
            ("fast", request(body=b"{"), 400),
            ("fast", request(body=rows(*[ROW] * 5)), 429),
        )
    )
    asyncio.run(
        scenario(
            ("slow", request(body=rows(*[ROW] * 5)), 429),
            ("fast", request("/predict", rows(ROW, ROW), "X-Model-Version: 1"), 200),
            ("fast", request(body=rows(ROW, ROW)), 200),
            ("fast", request(), 429),
            ("slow", request(), 429),
        )
    )


async def refused_alike(at: Lanes, data: bytes) -> bool:
    answers = await asyncio.gather(send(at.fast, data), send(at.slow, data))
    fast, slow = (normal(re.sub(rb"\r\nratelimit: [^\r]*", b"", answer)) for answer in answers)
    return fast == slow and all(answer.startswith(b"HTTP/1.1 429") for answer in answers)


def one_day(app: Any) -> None:
    """The server's clock on the wall stands: midnight would begin a new count."""
    app.state.service.limits._wall = lambda: 20_000.0 * DAY


def deployed_slot(app: Any) -> int:
    slot: int = app.state.service._keys.anybody.limits.slot
    return slot


def test_usage_is_counted_for_each_key(deployed: Cache) -> None:
    """Requests, rows and seconds, by both lanes and every dialect; refusals are on nobody's bill."""
    keys = [deployed.key(SCOPES) for _ in range(2)]
    names = [key.split("_")[1] for key in keys]
    deployed.deploy(1)

    async def scenario() -> None:
        began = time.monotonic()
        async with lanes(deployed) as at:
            for port in (at.fast, at.slow):
                assert b" 200 OK" in await send(port, request(body=rows(ROW, ROW), key=keys[0]))
                assert b" 422 " in await send(port, request(body=rows({}), key=keys[0]))
            body = {"instances": [ROW] * 3}
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{at.fast}", headers=bearer(keys[1])) as client:
                assert (await client.post("/v1/models/toy:predict", json=body)).status_code == 200
                text = (await client.get("/metrics")).text
        found = dict(
            line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(("perene_key", "perene_cost"))
        )
        assert [float(found[f'perene_key_requests_total{{key="{name}"}}']) for name in names] == [2, 1]
        assert [float(found[f'perene_key_rows_total{{key="{name}"}}']) for name in names] == [4, 3]
        took = time.monotonic() - began
        assert all(0 < float(found[f'perene_cost_seconds_total{{key="{name}"}}']) < took for name in names)

    run(scenario)


@contextmanager
def redis_server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A real one, on a port of its own."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.fail("redis-server is missing: run scripts/apt")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(6_000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.01)
        yield f"redis://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("gone", ["killed", "stopped"])
def test_machines_share_their_limits_in_redis(
    gone: str,
    deployed: Cache,
    tmp_path: Path,
    offsets: dict[int, Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two servers with homes of their own count as one; when Redis goes, each counts alone, says so, and answers."""
    # a Redis that is only slow for a moment must not be taken for one that is away
    monkeypatch.setattr(limits_redis, "TIMEOUT_S", 3.0)
    other = Cache(tmp_path / "other" / "cache")
    other.add(1, offsets[1])
    for cache in (deployed, other):
        cache.deploy(1)

    async def scenario() -> None:
        with redis_server(tmp_path) as (url, process):
            settings = LimitSettings(rows_per_day=10, requests_per_second=1_000, rows_per_second=10_000, redis=url)
            async with (
                lanes(deployed, auth=False, limits=settings) as one,
                lanes(other, auth=False, limits=settings) as two,
            ):
                for at in (one, two):
                    one_day(at.app)
                asked = [await send(at.fast, request(body=rows(ROW, ROW))) for at in (one, two) * 3]
                assert [answer[9:12] for answer in asked] == [b"200"] * 5 + [b"429"]
                assert b'ratelimit-policy: "requests";q=1000;w=1' in asked[0]
                process.send_signal(signal.SIGKILL if gone == "killed" else signal.SIGSTOP)
                if gone == "killed":
                    process.wait()
                asked = await asyncio.gather(*(send(at.fast, request(body=rows(ROW))) for at in (one, two) * 5))
                assert [answer[9:12] for answer in asked] == [b"200"] * 10
                assert b'fallbacks_total{kind="limits",model=""} ' in await send(
                    one.fast, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
                )
                assert "limits_redis_away" in caplog.text

    asyncio.run(scenario())


def test_grpc_is_limited_alike(every: tuple[Cache, str]) -> None:
    """Calls and rows count as over HTTP; the refusal says what is used up, and usage is counted."""
    cache, _ = every
    key = key_with(cache, rows_per_day=5, requests_per_second=1_000)
    cache.deploy(1, model="regression")

    async def scenario() -> None:
        async with talking(cache, key) as (served, client):
            one_day(served.app)
            three = infer_request("regression", rows_of(CONTRACTS["regression"], 3), raw=False).SerializeToString()
            await client.call("ServerMetadata")
            await client.send("ModelInfer", three)
            assert "rows of the day" in await client.refused(StatusCode.RESOURCE_EXHAUSTED, three)
            found = await metrics(served)
            assert found["perene_rejected_total", ("quota",)] == 1
            assert found["perene_key_rows_total", (key.split("_")[1],)] == 3

    run(scenario)
