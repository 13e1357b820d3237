"""Hostile HTTP against a real server process: a documented answer or a closed connection, cheap, and nothing echoed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvicorn

from tests.acceptance.hostile_server import hostile_server
from tests.acceptance.test_serving_process import Server
from tests.hostile.bodies import Dear, dear
from tests.hostile.requests import CANARY, CAP, GOOD, SILENCE, Attack, attacks, head

QUIET_S = 1.0
"""A server that says nothing for so long, with everything sent, is not going to before its deadline."""
PATIENCE_S = 60.0
"""Where there must be an answer it is waited for, however busy the machine is."""
CPU_S = 1.0
"""Twenty times the bar of 50 ms, which is measured beside: machines differ."""
FULL = os.environ.get("PERENE_CHAOS") == "full"
DEAR = CAP if FULL else CAP // 4
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Struck:
    """What came of an attack: statuses in order, the longest answer, all that was said, and what it took."""

    statuses: list[int]
    longest: int
    said: bytes
    cpu_s: float
    grown: int


@pytest.fixture(scope="module")
def server(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with hostile_server(toy_bundle, tmp_path_factory.mktemp("hostile")) as running:
        yield running


def strike(server: Server, attack: Attack) -> Struck:
    """Send everything, as far as the server takes it, and hear everything that it says."""
    process = psutil.Process(server.process.pid)
    before, memory = process.cpu_times(), process.memory_info().rss
    most = memory
    said = b""
    for part in exchange(server.port, attack):
        said += part
        most = max(most, process.memory_info().rss)
    after = process.cpu_times()
    found = list(answers(said))
    took = after.user + after.system - before.user - before.system
    longest = max([size for _, size in found], default=0)
    return Struck([status for status, _ in found], longest, said, took, most - memory)


def exchange(port: int, attack: Attack) -> Iterator[bytes]:
    """What the server says, piece by piece, while everything is sent to it; empty pieces where it says nothing."""
    parts = attack.parts()
    quiet = QUIET_S if SILENCE in attack.statuses else PATIENCE_S
    pending, said = memoryview(next(parts)), b""
    chooser = selectors.DefaultSelector()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setblocking(False)
        chooser.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        heard = time.monotonic()
        try:
            while time.monotonic() < heard + quiet and (pending or len(list(answers(said))) < attack.answers):
                for _, events in chooser.select(QUIET_S):
                    heard = time.monotonic()
                    if events & selectors.EVENT_READ:
                        part = connection.recv(1 << 20)
                        said += part
                        yield part
                        if not part:
                            return
                    if events & selectors.EVENT_WRITE:
                        pending = pending[connection.send(pending) :] or memoryview(next(parts, b""))
                        yield b""
                        if not pending:
                            chooser.modify(connection, selectors.EVENT_READ)
        except ConnectionError:
            return


def answers(said: bytes) -> Iterator[tuple[int, int]]:
    """Status and size of each complete answer."""
    while said:
        start, end, rest = said.partition(b"\r\n\r\n")
        if not end:
            return
        assert re.match(rb"HTTP/1\.1 \d{3} ", start), start[:100]
        length = _LENGTH.search(start + b"\r\n")
        size = int(length[1]) if length else 0
        if len(rest) < size:
            return
        yield int(start[9:12]), len(start) + 4 + size
        said = rest[size:]


@contextlib.contextmanager
def unbounded() -> Iterator[int]:
    """uvicorn as it comes, on a thread; its application takes whatever body comes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(app, port=0, http="httptools", ws="none", lifespan="off", log_level="critical")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield running.servers[0].sockets[0].getsockname()[1]
    running.should_exit = running.force_exit = True
    thread.join()


def wrongs(server: Server, attack: Attack, struck: Struck, most_memory: int) -> Iterator[str]:
    """Promises that what came of an attack breaks."""
    allowed = attack.statuses | ({200} if 100 in attack.statuses else set())
    # what follows a request that was answered may be no request any more
    allowed |= {400} if struck.statuses[:1] != struck.statuses[-1:] else set()
    if not set(struck.statuses) <= allowed:
        yield f"{struck.statuses[:5]}, not of {sorted(allowed)}"
    if not struck.statuses and SILENCE not in allowed:
        yield f"no answer, not of {sorted(allowed)}"
    if CANARY.encode() in struck.said or b"Traceback" in struck.said:
        yield "said what nobody should hear"
    if struck.longest > 16 * 1024:
        yield f"{struck.longest} bytes of answer"
    if struck.cpu_s > CPU_S * max(1, len(struck.statuses) / 100):
        yield f"{struck.cpu_s:.2f} s of CPU"
    if struck.grown > most_memory:
        yield f"{struck.grown >> 20} MiB more memory"
    status, _ = server.ask("POST", "/predict", json.loads(GOOD))
    if status != 200:
        yield f"{status} for a good request afterwards"


def trial(server: Server, catalogue: list[Attack], most_memory: int, figures: str) -> list[str]:
    """Everything that is wrong; the figures go to a file where one is named."""
    wrong: list[str] = []
    lines: list[str] = []
    for attack in catalogue:
        struck = strike(server, attack)
        wrong += [f"{attack.name}: {told}" for told in wrongs(server, attack, struck, most_memory)]
        cells = (attack.name, struck.statuses[:3], f"{struck.cpu_s * 1e3:.0f}", struck.grown >> 10, struck.longest)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    if "PERENE_FIGURES" in os.environ:
        (Path(os.environ["PERENE_FIGURES"]) / figures).write_text("\n".join(lines) + "\n")
    return wrong


def test_hostile_requests_are_refused_cheaply(server: Server) -> None:
    """The whole catalogue, one connection each, and a good request after each."""
    assert trial(server, attacks(server.key), 2 * CAP, "requests.md") == []
    assert "Traceback" not in (server.home / "serve.log").read_text()


def test_dear_bodies_are_refused_cheaply(server: Server) -> None:
    """Bodies made to cost more than their size: CPU and memory stay in proportion to it."""

    def asks(path: str, media: str, body: bytes) -> bytes:
        length = f"Content-Length: {len(body)}"
        return head(f"Content-Type: {media}", length, key=server.key, start=f"POST {path} HTTP/1.1") + body

    def attack(one: Dear) -> Attack:
        return Attack(f"{one.path}: {one.name}", one.status, lambda: iter((asks(one.path, one.media, one.body()),)))

    assert trial(server, [attack(one) for one in dear(DEAR)], 16 * CAP, "bodies.md") == []
    assert "Traceback" not in (server.home / "serve.log").read_text()


def test_a_server_without_bounds_is_found() -> None:
    """The control: uvicorn's own protocol takes what is too large, and the same table sees it."""
    large = {"1,000 headers", "64 KB in a header", "a million chunks of a byte"}
    taken: set[str] = set()
    with unbounded() as port:
        for attack in attacks("key"):
            if attack.name in large:
                statuses = {status for status, _ in answers(b"".join(exchange(port, attack)))}
                taken |= {attack.name} if statuses and not statuses <= attack.statuses else set()
    assert taken == large
