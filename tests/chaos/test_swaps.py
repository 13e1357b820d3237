"""Promise 6: hot swaps under 64 kept connections; every answer is 200 and what the version it names predicts."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

import psutil
import pytest

from tests.acceptance.test_serving_process import NO_LEDGER, ROOT, Server, cache, offsets, until
from tests.integration.serving_toy import ROW, Cache, answer

__all__ = ["cache", "offsets"]

SWAPS = 1_000 if os.environ.get("PERENE_CHAOS") == "full" else 200
CLIENTS = 64
RATE = 250.0
MOST_GROWTH = 50 << 20


class Load:
    """Clients in a thread of their own, each on one connection, together `RATE` requests a second."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.wrong: list[object] = []
        self.seen: Counter[int] = Counter()

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(n) for n in range(CLIENTS)))

    async def _client(self, n: int) -> None:
        generator = random.Random(n)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        try:
            while not self._stop.is_set():
                await asyncio.sleep(generator.expovariate(RATE / CLIENTS))
                row = {**ROW, "hour": generator.randrange(24)}
                status, body = await self._ask(reader, writer, json.dumps({"rows": [row]}).encode())
                version = int(body.get("version", 0))
                if status != 200 or body["predictions"] != [answer(100 * version, row)]:
                    self.wrong.append((status, body))
                self.seen[version] += 1
        # a connection that the server ended is a failed request
        except (OSError, asyncio.IncompleteReadError) as error:
            self.wrong.append(repr(error))
        finally:
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> tuple[int, Any]:
        head = (
            f"POST /models/toy/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._server.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answered = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answered.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(answered[9:12]), json.loads(await reader.readexactly(length))


def swap(server: Server, cache: Cache, times: int) -> None:
    """Change the champion `times` times; the next change follows when an answer names the version."""
    probe = server.connect()
    try:
        for number in range(times):
            champion = 2 - number % 2
            cache.deploy(champion)

            def swapped(wanted: int = champion) -> bool:
                status, body = server.on(probe, "POST", "/models/toy/predict", {"rows": [ROW]})
                assert status == 200
                return bool(body["version"] == wanted)

            until(swapped, f"swap {number} did not come about")
    finally:
        probe.close()


@pytest.mark.timeout(900)
def test_hot_swaps_fail_no_request(cache: Cache) -> None:
    """Over 200 swaps: no answer but 200, none of another version than it says, no connection lost, no memory kept."""
    key = cache.key({"predict"})
    cache.deploy(1)
    with Server(cache.folder.parent, key) as server:
        server.ready()
        with Load(server) as load:
            swap(server, cache, 20)
            process = psutil.Process(server.process.pid)
            before, began = process.memory_info().rss, time.monotonic()
            swap(server, cache, SWAPS)
            grown, took = process.memory_info().rss - before, time.monotonic() - began
    asked = sum(load.seen.values())
    print(f"\n{SWAPS} swaps in {took:.0f} s, {asked} answers, RSS {grown / 2**20:+.1f} MiB")
    assert load.wrong == []
    assert set(load.seen) == {1, 2}
    assert min(load.seen.values()) > SWAPS
    assert grown < MOST_GROWTH


RELOADS_IN_PLACE = """
import sys, time
import serving.loaded.models as models

build = models.Loader.build

def in_place(self, state, old):
    new = build(self, state, old)
    for name, model in new.models.items():
        if name in old.models and old.models[name].route.champion != model.route.champion:
            before = old.models[name].champion
            for part in ("engine", "batcher"):
                object.__setattr__(before, part, getattr(model.champion, part))
            time.sleep(0.1)
    return new

models.Loader.build = in_place
from serving.main import main
sys.exit(main())
"""


class InPlace(Server):
    """A build with the fault: the loaded version is changed under the requests that use it."""

    def start(self) -> None:
        (self.home / "in_place.py").write_text(RELOADS_IN_PLACE)
        command = [sys.executable, str(self.home / "in_place.py"), "--home", str(self.home), "--port", str(self.port)]
        command += ["--settings", str(self.home / "serve.json"), "--ledger-url", NO_LEDGER]
        with (self.home / "serve.log").open("ab") as log:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)


def test_control_a_reload_in_place_is_caught(cache: Cache) -> None:
    """Answers that name one version and come from another are seen by the same check."""
    key = cache.key({"predict"})
    cache.deploy(1)
    with InPlace(cache.folder.parent, key) as server:
        server.ready()
        with Load(server) as load:
            swap(server, cache, 10)
    assert [entry for entry in load.wrong if isinstance(entry, tuple) and entry[0] == 200]
