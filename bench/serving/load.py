"""Closed-loop load: each connection sends its next request when the answer is there. wrk where it is installed."""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from bench.serving.process import Server

SCRIPT = Path(__file__).with_name("post.lua")


@dataclass(frozen=True)
class Load:
    """What one run saw. Times in milliseconds; `cpu_us` is CPU of the whole server for one request."""

    tool: str
    connections: int
    requests: int
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None = None


class Refused(Exception):
    """A server answered with something else than 2xx, or closed connections: there is no rate to report."""


def measure(
    server: Server,
    url: str,
    bodies: Sequence[bytes],
    *,
    headers: Mapping[str, str],
    connections: int,
    seconds: float,
) -> Load:
    """Load `url` and read the server's CPU before and after.

    Raises:
        Refused: an answer was not 2xx.
    """
    before = server.cpu_seconds()
    load = closed_loop(url, bodies, headers=headers, connections=connections, seconds=seconds)
    spent = server.cpu_seconds() - before
    return replace(load, cpu_us=spent / load.requests * 1e6)


def closed_loop(
    url: str, bodies: Sequence[bytes], *, headers: Mapping[str, str], connections: int, seconds: float
) -> Load:
    """Post `bodies` in turn over keep-alive connections.

    Raises:
        Refused: an answer was not 2xx.
    """
    run = _wrk if shutil.which("wrk") else _asyncio
    return run(url, bodies, headers, connections, seconds)


def _wrk(url: str, bodies: Sequence[bytes], headers: Mapping[str, str], connections: int, seconds: float) -> Load:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(b"\n".join(bodies) + b"\n")
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
        command += ["-s", str(SCRIPT), url, "--", file.name, *(f"{name}: {value}" for name, value in headers.items())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stdout.rstrip().rsplit("\n", 1)[-1]
    if done.returncode or not last.startswith("{"):
        raise Refused(f"wrk ended with {done.returncode}: {done.stderr.strip() or last}")
    found = json.loads(last)
    if found["refused"] or found["broken"] or not found["requests"]:
        raise Refused(f"{found['refused']} answers were not 2xx, {found['broken']} connections broke")
    rate = found["requests"] / found["us"] * 1e6
    return Load("wrk", connections, found["requests"], rate, found["p50_us"] / 1e3, found["p99_us"] / 1e3)


def raw(url: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A POST as it goes over the wire."""
    path = urlsplit(url).path
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: application/json\r\n{head}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _asyncio(url: str, bodies: Sequence[bytes], headers: Mapping[str, str], connections: int, seconds: float) -> Load:
    requests = [raw(url, body, headers) for body in bodies]
    began = time.perf_counter()
    latencies = asyncio.run(_all(url, requests, connections, began + seconds))
    took = time.perf_counter() - began
    if len(latencies) < 2:
        raise Refused("fewer than two answers came back")
    cuts = statistics.quantiles(latencies, n=100)
    return Load("asyncio", connections, len(latencies), len(latencies) / took, cuts[49] * 1e3, cuts[98] * 1e3)


async def _all(url: str, requests: list[bytes], connections: int, until: float) -> list[float]:
    latencies: list[float] = []
    await asyncio.gather(*(_connection(url, requests, until, latencies) for _ in range(connections)))
    return latencies


async def _connection(url: str, requests: list[bytes], until: float, latencies: list[float]) -> None:
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    turn = 0
    while time.perf_counter() < until:
        began = time.perf_counter()
        writer.write(requests[turn % len(requests)])
        turn += 1
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 2"):
            raise Refused(head.split(b"\r\n", 1)[0].decode())
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        latencies.append(time.perf_counter() - began)
    writer.close()
