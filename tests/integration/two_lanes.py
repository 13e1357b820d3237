"""The same deployment behind both lanes, and how bytes are sent to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from monitoring.alerting.metrics import ServeMetrics
from monitoring.intake.spool import Spool
from serving.app import create_app
from serving.settings import ServingSettings
from serving.wire.bounded import BoundedProtocol, Bounds, Watch
from serving.wire.lane import protocol_of
from tests.integration.serving_toy import ANY_HOST, PATIENT, ROW, Cache

BODY = json.dumps({"rows": [ROW]}).encode()
_OWN = re.compile(
    rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}|date: [^\r]*|(?<=;dur=)[0-9.]+"
    rb'|(?<="created":")[^"]*'
)


class Slow(BoundedProtocol):
    """Everything goes to the application."""

    watch = Watch(Bounds().sweep_s)


@dataclass(frozen=True)
class Lanes:
    """The same deployment behind both protocols."""

    fast: int
    slow: int
    spool: Spool
    app: FastAPI


@contextlib.asynccontextmanager
async def lanes(cache: Cache, bounds: Bounds = Bounds(), **settings: Any) -> AsyncIterator[Lanes]:  # noqa: B008
    spool = Spool.open(cache.folder.parent / "spool", commit_interval_s=0.01)
    app = create_app(
        ServingSettings(**{"poll_seconds": 0.01, "device": "cpu", "web": ANY_HOST, "queue": PATIENT, **settings}),
        cache.folder,
        spool,
        ServeMetrics(CollectorRegistry()),
    )
    protocols: list[type[HttpToolsProtocol]] = [protocol_of(app.state.service, bounds), Slow]
    try:
        async with app.router.lifespan_context(app), contextlib.AsyncExitStack() as stack:
            ports = [await stack.enter_async_context(server(app, protocol)) for protocol in protocols]
            yield Lanes(ports[0], ports[1], spool, app)
    finally:
        spool.close()


@contextlib.asynccontextmanager
async def server(app: FastAPI, protocol: type[HttpToolsProtocol]) -> AsyncIterator[int]:
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        http=protocol,
        ws="none",
        lifespan="off",
        log_level="critical",
        server_header=False,
    )
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.01)
    yield running.servers[0].sockets[0].getsockname()[1]
    running.should_exit = True
    await task


async def _next(reader: asyncio.StreamReader, naps: int) -> bytes:
    """What comes within so many naps of 0.04 s; nothing at the end.

    Naps instead of one long wait: the server is in this process, and a pause of the machine is one nap for both.
    """
    reading = asyncio.ensure_future(reader.read(1 << 16))
    try:
        for _ in range(naps):
            await asyncio.wait({reading}, timeout=0.04)
            if reading.done():
                return reading.result()
        return b""
    finally:
        reading.cancel()


async def send(port: int, data: bytes, *, split: int = 0) -> bytes:
    """Everything the server says to `data` until it closes, or is silent for 0.2 s after an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    pieces = [data] if not split else [data[i : i + split] for i in range(0, len(data), split)]
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        if split:
            await asyncio.sleep(0)
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := await _next(reader, naps=5 if found else 1_500):
            found += part
    writer.close()
    return found


def normal(answer: bytes) -> list[bytes]:
    """An answer without what differs from request to request: ids and the date; headers in any order."""
    lines: list[bytes] = []
    for message in _OWN.sub(b"*", answer).split(b"HTTP/1.1 "):
        head, _, body = message.partition(b"\r\n\r\n")
        status, *headers = head.split(b"\r\n")
        lines += [status, *sorted(headers), body]
    return lines


def request(
    path: str = "/predict", body: bytes = BODY, *headers: str, method: str = "POST", version: str = "1.1", key: str = ""
) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: perene", *headers]
    if not any(h.lower().startswith("content-type") for h in headers):
        lines.append("Content-Type: application/json")
    if not any(h.lower().startswith(("content-length", "transfer-encoding")) for h in headers):
        lines.append(f"Content-Length: {len(body)}")
    if key:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def rows(*values: Any, **more: Any) -> bytes:
    return json.dumps({"rows": list(values), **more}).encode()


async def alike(at: Lanes, data: bytes, *, split: int = 0) -> bool:
    fast, slow = await asyncio.gather(send(at.fast, data, split=split), send(at.slow, data))
    return normal(slow) == normal(fast)
