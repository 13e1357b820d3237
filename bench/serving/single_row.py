"""Single-row JSON predictions over keep-alive connections: server on core 0, load on core 1, every add-on on.

`python -m bench.serving.single_row --home HOME --model NAME` prints a Markdown table. The home must hold a deployed
model and this machine's own key, as `perene up` leaves them. Loopback only; ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

PORT = 8177


async def connection(request: bytes, until: float, latencies: list[float]) -> None:
    """One keep-alive connection that waits for each answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    while time.perf_counter() < until:
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.split(b"\r\n", 1)[0].decode())
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        latencies.append(time.perf_counter() - began)
    writer.close()


async def load(request: bytes, connections: int, seconds: float) -> tuple[float, list[float]]:
    """Requests per second and latencies in seconds."""
    latencies: list[float] = []
    began = time.perf_counter()
    await asyncio.gather(*(connection(request, began + seconds, latencies) for _ in range(connections)))
    return len(latencies) / (time.perf_counter() - began), latencies


def request_for(model: str, key: str) -> bytes:
    """The model's own example row as a raw HTTP/1.1 request."""
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/openapi.json") as answer:
        paths = json.load(answer)["paths"]
    example = paths[f"/models/{model}/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    body = json.dumps({**example, "entity": "bench"}).encode()
    head = f"POST /models/{model}/predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def rss_mib(pid: int) -> float:
    """Resident memory of a process, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_ready() -> None:
    """Until /readyz answers 200."""
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz"):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not become ready")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".perene"))
    parser.add_argument("--model", default="flight-time")
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args()
    began = time.perf_counter()
    server = subprocess.Popen(
        ["taskset", "-c", "0", sys.executable, "-m", "serving", "--home", str(given.home), "--port", str(PORT)],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_ready()
        ready = time.perf_counter() - began
        os.sched_setaffinity(0, {1})
        request = request_for(given.model, (given.home / "keys" / "local").read_text().strip())
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        print(f"{machine}, ready in {ready:.1f} s\n")
        print("| connections | requests/s | p50 ms | p99 ms | server CPU µs/request | RSS MiB |")
        print("|---:|---:|---:|---:|---:|---:|")
        asyncio.run(load(request, 4, 1.0))
        for connections in (1, 8, 64):
            before = cpu_seconds(server.pid)
            rate, latencies = asyncio.run(load(request, connections, given.seconds))
            cpu = (cpu_seconds(server.pid) - before) / len(latencies) * 1e6
            p99 = statistics.quantiles(latencies, n=100)[98]
            middle = statistics.median(latencies)
            cells = f"{rate:,.0f} | {middle * 1e3:.2f} | {p99 * 1e3:.2f} | {cpu:.0f} | {rss_mib(server.pid):.0f}"
            print(f"| {connections} | {cells} |")
    finally:
        server.terminate()
        server.wait(timeout=20)


if __name__ == "__main__":
    main()
