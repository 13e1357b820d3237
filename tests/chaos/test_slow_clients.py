"""Slow clients: whoever trickles a request or does not take an answer is closed, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from monitoring.alerting.metrics import ServeMetrics
from monitoring.intake.spool import Spool
from serving.app import create_app
from serving.settings import ServingSettings
from serving.wire.bounded import Bounds
from serving.wire.lane import protocol_of
from tests.integration.serving_toy import ROW, Cache, offset_bundle

FULL = os.environ.get("PERENE_CHAOS") == "full"
CLIENTS = 1_000 if FULL else 200
BOUNDS = Bounds() if FULL else Bounds(header_s=1.0, body_s=1.5, take_s=1.5, linger_s=0.5, sweep_s=0.2)
WITHIN_S = 35.0 if FULL else 30.0
"""Much longer than the bounds, for busy machines: who is not closed by a bound stays for ever."""
ANSWERS = 50
"""Of a healthy client, while slow ones are there."""
STAY_S = 4.0
"""Longer than the bounds of the short form."""
BODY = json.dumps({"rows": [ROW]}).encode()
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
MANY = json.dumps({"rows": [ROW] * 10_000}).encode()


@dataclass(frozen=True)
class Slow:
    """A client that begins with `start`, then sends `drip` now and then; or takes nothing, where that is its way."""

    start: bytes
    drip: bytes
    reads: bool = True


@dataclass(frozen=True)
class At:
    """A server's port, and the connections that it holds."""

    port: int
    held: set[Any]


KINDS: dict[str, Slow] = {
    "silent": Slow(b"", b""),
    "a method, letter by letter": Slow(b"P", b""),
    "headers, byte by byte": Slow(HEAD + b"X-Slow: ", b"a"),
    "headers, one by one": Slow(HEAD, b"X-Slow: a\r\n"),
    "a body, byte by byte": Slow(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY[:5], b" "),
    "a body elsewhere": Slow(b"POST /feedback HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n[", b" "),
    "chunks": Slow(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "empty lines before": Slow(b"\r\n", b"\r\n"),
    "empty lines after": Slow(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY + b"\r\n", b"\r\n"),
    "a refused body that goes on": Slow(
        b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n", b" "
    ),
    "after an answer": Slow(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY + HEAD, b"X-Slow: a\r\n"),
    "a large answer, not taken": Slow(HEAD + b"Content-Length: %d\r\n\r\n" % len(MANY) + MANY, b"", reads=False),
}


@contextlib.asynccontextmanager
async def server(app: FastAPI, protocol: type[HttpToolsProtocol]) -> AsyncIterator[At]:
    config = uvicorn.Config(
        app, http=protocol, ws="none", lifespan="off", log_level="critical", timeout_keep_alive=75, backlog=4_096
    )
    running = uvicorn.Server(config)
    with socket.socket() as listening:
        # what is in the kernel's buffers is off the server's hands: they are small, so that an answer stays in its own
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        listening.bind(("127.0.0.1", 0))
        task = asyncio.create_task(running.serve(sockets=[listening]))
        while not running.started:
            await asyncio.sleep(0.01)
        yield At(listening.getsockname()[1], running.server_state.connections)
        running.should_exit = running.force_exit = True
        await task


async def closed_after(at: At, slow: Slow, give_up_s: float) -> float:
    """Seconds until the server closes a slow client; infinite when it does not in `give_up_s`."""
    loop = asyncio.get_running_loop()
    connection = socket.socket()
    connection.setblocking(False)
    if not slow.reads:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    began = time.monotonic()
    try:
        await loop.sock_connect(connection, ("127.0.0.1", at.port))
        name = connection.getsockname()
        await loop.sock_sendall(connection, slow.start)
        while time.monotonic() < began + give_up_s:
            with contextlib.suppress(asyncio.TimeoutError):
                if slow.reads:
                    async with asyncio.timeout(0.25):
                        if not await loop.sock_recv(connection, 1 << 16):
                            return time.monotonic() - began
                else:
                    await asyncio.sleep(0.25)
                    # who reads nothing does not hear of it
                    if all(held.client != name for held in at.held):
                        return time.monotonic() - began
            if slow.drip:
                await loop.sock_sendall(connection, slow.drip)
    except (ConnectionError, BrokenPipeError):
        return time.monotonic() - began
    finally:
        connection.close()
    return float("inf")


async def healthy(port: int, stop: Callable[[], bool], took: list[float]) -> None:
    """An ordinary client, all of whose requests are answered: the seconds of each go to `took`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not stop():
        began = time.monotonic()
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), timeout=WITHIN_S)
        assert head.startswith(b"HTTP/1.1 200"), head
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await asyncio.wait_for(reader.readexactly(int(length.split(b":")[1])), timeout=WITHIN_S)
        took.append(time.monotonic() - began)
        await asyncio.sleep(0.01)
    writer.close()


@pytest.fixture
def app(toy_bundle: Path, tmp_path: Path) -> FastAPI:
    cache = Cache(tmp_path / "cache")
    cache.add(1, offset_bundle(toy_bundle, tmp_path / "bundle", 100.0))
    cache.deploy(1)
    settings = ServingSettings(auth=False, device="cpu", request_log=False)
    spool = Spool.open(tmp_path / "spool")
    return create_app(settings, cache.folder, spool, ServeMetrics(CollectorRegistry()))


async def trial(
    app: FastAPI, protocol: type[HttpToolsProtocol], slow: list[Slow], give_up_s: float, *, least: int = 0
) -> tuple[list[tuple[Slow, float]], list[float]]:
    """When each slow client was closed, and how long a healthy one waited meanwhile for each answer.

    On a slow machine the slow clients come up to ten times, until the healthy one had `least` answers beside them:
    one that is held up has not even then.
    """
    closed: list[tuple[Slow, float]] = []
    took: list[float] = []
    async with app.router.lifespan_context(app), server(app, protocol) as at:
        done = False
        beside = asyncio.create_task(healthy(at.port, lambda: done, took))
        try:
            for _ in range(10):
                found = await asyncio.gather(*(closed_after(at, one, give_up_s) for one in slow))
                closed += zip(slow, found, strict=True)
                if len(took) >= least:
                    break
            beside_them = took.copy()
        finally:
            done = True
        await beside
    return closed, beside_them


@pytest.mark.timeout(120 + 10 * WITHIN_S)
def test_slow_clients_are_closed_and_hold_up_nobody(app: FastAPI) -> None:
    """Of every kind at once: each is closed in time, and requests beside are answered throughout."""
    each = -(-CLIENTS // (len(KINDS) - 1))
    # a large answer costs the server tens of milliseconds: there are few of those
    slow = [kind for kind in KINDS.values() for _ in range(each if kind.reads else min(each, 4))]
    closed, took = asyncio.run(trial(app, protocol_of(app.state.service, BOUNDS), slow, WITHIN_S, least=ANSWERS))
    late = {name for name, kind in KINDS.items() for one, at in closed if one is kind if at > WITHIN_S}
    waited = (
        f"median {statistics.median(took) * 1e3:.1f} ms, 99 % within {sorted(took)[-len(took) // 100] * 1e3:.1f} ms"
    )
    last = max(at for _, at in closed)
    print(f"{len(closed)} clients, the last closed after {last:.1f} s; beside: {waited}, {len(took)} requests")
    assert late == set()
    assert len(took) >= ANSWERS


def test_without_deadlines_they_stay(app: FastAPI) -> None:
    """The control: uvicorn's own protocol keeps every kind of them, and the same check sees it."""
    kinds = [KINDS["silent"], KINDS["headers, byte by byte"], KINDS["a body elsewhere"], KINDS["empty lines after"]]
    kinds.append(KINDS["a large answer, not taken"])
    closed, _ = asyncio.run(trial(app, HttpToolsProtocol, kinds, STAY_S))
    assert [at for _, at in closed] == [float("inf")] * len(kinds)
