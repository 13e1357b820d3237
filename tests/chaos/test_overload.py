"""Promise 12: five times as many requests as can be answered; what is taken is answered in time, the rest told so."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.serving import open_loop
from bench.serving.load import raw
from bench.serving.open_loop import Seen
from registry.bundle import seal
from tests.acceptance.test_serving_process import Server, offsets, until
from tests.integration.serving_toy import ROW, Cache

__all__ = ["offsets"]

FULL = os.environ.get("PERENE_CHAOS") == "full"
SECONDS = 60.0 if FULL else 4.0
PEAK_S = 2.0
CONNECTIONS = 16
FACTOR = 5
TRIES = 5
LATE_S = 1.0
"""A request may wait 0.1 s: what takes ten times as long was not refused in time, however busy the machine is."""
LATE_SHARE = 0.02
GRACE_S = 2.0
WIDTH = 256
LAYERS = 1_000
BODY = json.dumps({"rows": [ROW]}).encode()
OFF = {"queue": {"seconds": 3600.0, "max_requests": 1_000_000}}


@pytest.fixture(scope="module")
def slow(offsets: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that takes some milliseconds of a core for each row, in company or alone: the prediction is `hour`."""
    to = tmp_path_factory.mktemp("slow") / "bundle"
    shutil.copytree(offsets[1], to)
    contract = json.loads((to / "contract.json").read_text())
    numbers = [column["name"] for column in contract["columns"] if column["dtype"] != "string"]
    nodes = [
        helper.make_node("Gather", ["numbers", "position"], ["hour"], axis=1),
        helper.make_node("MatMul", ["hour", "spread"], ["x0"]),
        *(helper.make_node("MatMul", [f"x{n}", "same"], [f"x{n + 1}"]) for n in range(LAYERS)),
        helper.make_node("Gather", [f"x{LAYERS}", "first"], ["prediction"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [
            helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [None, len(numbers)]),
            helper.make_tensor_value_info(
                "strings", TensorProto.STRING, [None, len(contract["columns"]) - len(numbers)]
            ),
        ],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, [None, 1])],
        [
            helper.make_tensor("position", TensorProto.INT64, [1], [numbers.index("hour")]),
            helper.make_tensor("first", TensorProto.INT64, [1], [0]),
            numpy_helper.from_array(np.ones((1, WIDTH), np.float32), "spread"),
            numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), "same"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(made)
    (to / "model.onnx").write_bytes(made.SerializeToString())
    seal(to)
    return to


@pytest.fixture
def served(slow: Path, tmp_path: Path) -> Callable[..., Server]:
    def start(**settings: Any) -> Server:
        cache = Cache(tmp_path / "home" / "cache")
        cache.add(1, slow)
        cache.deploy(1)
        return Server(tmp_path / "home", "", auth=False, **{"queue": {}, **settings})

    return start


pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long the generator waits for the last answers."""
    monkeypatch.setattr(open_loop, "GRACE_S", GRACE_S)


def capacity(port: int) -> float:
    """Predictions a second that some connections get out of it, one after the other on each."""

    async def ask(until_then: float) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request, answered = raw(f"http://127.0.0.1:{port}/predict", BODY, {}), 0
        while time.monotonic() < until_then:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            answered += head.startswith(b"HTTP/1.1 200")
        writer.close()
        return answered

    async def everybody() -> int:
        until_then = time.monotonic() + PEAK_S
        return sum(await asyncio.gather(*(ask(until_then) for _ in range(CONNECTIONS))))

    return asyncio.run(everybody()) / PEAK_S


def flood(server: Server, rate: float) -> Seen:
    url = f"http://127.0.0.1:{server.port}/predict"
    return open_loop.open_loop(url, [raw(url, BODY, {})], rate=rate, seconds=SECONDS)


def broken(seen: Seen) -> list[str]:
    """What the promise forbids."""
    found = []
    if not seen.statuses.keys() <= {200, 503}:
        found.append(f"statuses {dict(seen.statuses)}")
    if seen.unanswered:
        found.append(f"{seen.unanswered} of {seen.planned} were never answered")
    times = [*seen.accepted, *seen.rejected]
    late = sum(took > LATE_S + seen.late_s for took in times)
    if late > LATE_SHARE * len(times):
        found.append(f"{late} of {len(times)} answers came late, the last after {max(times):.1f} s")
    return found


def test_what_cannot_be_answered_in_time_is_refused_at_once(served: Callable[..., Server]) -> None:
    """At five times the capacity: 200 or 503 with Retry-After, soon; work goes on; afterwards all is as before."""
    refusals: list[http.client.HTTPMessage] = []

    def watch(server: Server, over: threading.Event) -> None:
        while not over.wait(0.02):
            with closing(server.connect()) as connection:
                connection.request("POST", "/predict", BODY, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                if reply.status == 503:
                    refusals.append(reply.headers)
                    assert json.loads(reply.read())["error"]["code"] == "overloaded"

    def once(server: Server) -> list[str]:
        """What is wrong with a flood."""
        peak = capacity(server.port)
        over = threading.Event()
        watcher = threading.Thread(target=watch, args=(server, over))
        watcher.start()
        seen = flood(server, FACTOR * peak)
        over.set()
        watcher.join()
        assert seen.statuses.keys() <= {200, 503}
        found = broken(seen)
        if seen.statuses[503] <= seen.statuses[200] / 2:
            found.append(f"few are refused: {dict(seen.statuses)}")
        if seen.goodput < peak / 2:
            found.append(f"{seen.goodput:.0f} a second are answered, {peak:.0f} before")
        print(f"{peak:.0f} a second, then five times as many: {dict(seen.statuses)}, {found or 'in time'}")
        return found

    with served() as server:
        server.ready()
        # what else the machine does makes a flood worse, never better
        tries = (once(server) for _ in range(TRIES))
        wrong = next((found for found in tries if found == []), ["each time something"])
        assert wrong == []
        assert refusals
        assert all(int(headers["Retry-After"]) >= 1 for headers in refusals)
        until(lambda: all(server.ask("POST", "/predict", {"rows": [ROW]})[0] == 200 for _ in range(10)), "no recovery")


def test_without_a_bound_requests_come_late(served: Callable[..., Server]) -> None:
    """The control: a queue without a bound breaks what the check above looks at."""
    with served(**OFF) as server:
        server.ready()
        assert any(broken(flood(server, FACTOR * capacity(server.port))) for _ in range(TRIES))
