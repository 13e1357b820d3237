"""Hostile HTTP against a real server process: a documented answer or a closed connection, cheap, and nothing echoed."""

from __future__ import annotations

import json
import os
import re
import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.acceptance.test_serving_process import Server
from tests.hostile.requests import CANARY, CAP, GOOD, SILENCE, Attack, attacks, head
from tests.integration.serving_toy import Cache, offset_bundle

QUIET_S = 1.0
"""A server that says nothing for so long, with everything sent, is not going to before its deadline."""
CPU_S = 1.0
"""Twenty times the bar of 50 ms, which is measured beside: machines differ."""
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
    folder = tmp_path_factory.mktemp("hostile")
    cache = Cache(folder / "home" / "cache")
    cache.add(1, offset_bundle(toy_bundle, folder / "bundle", 100.0))
    key = cache.key({"predict", "feedback", "read"})
    cache.deploy(1)
    with Server(cache.folder.parent, key) as running:
        running.ready()
        assert running.ask("POST", "/predict", json.loads(GOOD))[0] == 200
        yield running


def strike(server: Server, attack: Attack) -> Struck:
    """Send everything, as far as the server takes it, and hear everything that it says."""
    process = psutil.Process(server.process.pid)
    before, memory = process.cpu_times(), process.memory_info().rss
    most = memory
    said = b""
    parts = attack.parts()
    pending = memoryview(next(parts))
    chooser = selectors.DefaultSelector()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.setblocking(False)
        chooser.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        heard = time.monotonic()
        try:
            while time.monotonic() < heard + QUIET_S:
                for _, events in chooser.select(QUIET_S):
                    if events & selectors.EVENT_READ:
                        part = connection.recv(1 << 20)
                        if not part:
                            raise ConnectionResetError
                        said += part
                        heard = time.monotonic()
                    if events & selectors.EVENT_WRITE:
                        pending = pending[connection.send(pending) :]
                        heard = time.monotonic()
                        if not pending:
                            pending = memoryview(next(parts, b""))
                        if not pending:
                            chooser.modify(connection, selectors.EVENT_READ)
                most = max(most, process.memory_info().rss)
                if not pending and len(list(answers(said))) >= attack.answers:
                    break
        except ConnectionError:
            pass
    most = max(most, process.memory_info().rss)
    after = process.cpu_times()
    found = list(answers(said))
    took = after.user + after.system - before.user - before.system
    return Struck([status for status, _ in found], max([size for _, size in found], default=0), said, took, most - memory)


def answers(said: bytes) -> Iterator[tuple[int, int]]:
    """Status and size of each complete answer."""
    while said:
        start, _, rest = said.partition(b"\r\n\r\n")
        assert re.match(rb"HTTP/1\.1 \d{3} ", start), start[:100]
        length = _LENGTH.search(start + b"\r\n")
        size = int(length[1]) if length else 0
        if len(rest) < size:
            return
        yield int(start[9:12]), len(start) + 4 + size
        said = rest[size:]


def test_hostile_requests_are_refused_cheaply(server: Server) -> None:
    """The whole catalogue, one connection each, and a good request after each; the figures go to a file on request."""
    table: list[tuple[str, Struck]] = []
    wrong: list[str] = []
    assert server.ask("POST", "/predict", json.loads(GOOD))[0] == 200
    for attack in attacks(server.key):
        struck = strike(server, attack)
        table.append((attack.name, struck))
        allowed = attack.statuses
        if not set(struck.statuses) <= allowed | {200 if 100 in allowed else SILENCE, 400 if 200 in allowed else SILENCE}:
            wrong.append(f"{attack.name}: {struck.statuses[:5]}, not of {sorted(allowed)}")
        if not struck.statuses and SILENCE not in allowed:
            wrong.append(f"{attack.name}: no answer, not of {sorted(allowed)}")
        if CANARY.encode() in struck.said:
            wrong.append(f"{attack.name}: said what it was sent")
        if struck.longest > 16 * 1024:
            wrong.append(f"{attack.name}: {struck.longest} bytes of answer")
        if struck.cpu_s > CPU_S * max(1, len(struck.statuses) / 100):
            wrong.append(f"{attack.name}: {struck.cpu_s:.2f} s of CPU")
        if struck.grown > 2 * CAP:
            wrong.append(f"{attack.name}: {struck.grown >> 20} MiB more memory")
        if server.ask("POST", "/predict", json.loads(GOOD))[0] != 200:
            wrong.append(f"{attack.name}: no answer to a good request afterwards")
    if os.environ.get("PERENE_FIGURES"):
        lines = [f"| {n} | {s.statuses[:3]} | {s.cpu_s * 1e3:.0f} | {s.grown >> 10} | {s.longest} |" for n, s in table]
        Path(os.environ["PERENE_FIGURES"]).write_text("\n".join(lines) + "\n")
    assert wrong == []
    assert "Traceback" not in (server.home / "serve.log").read_text()
