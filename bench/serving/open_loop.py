"""Open-loop load: requests leave on a clock whatever the answers do, and latency counts from the planned moment."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

MOST_CONNECTIONS = 4_000
CONNECTING = 64
"""More at once overflow the queue of a listening socket, and TCP then waits for seconds."""
TICK_S = 0.001
GRACE_S = 10.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)

Watch = Callable[[int, int, bytes], None]
"""Called with the number of the request in the list, the status and the body of an answer."""


@dataclass
class Seen:
    """What came back. Latencies in seconds.

    `late_s` is the most by which the generator itself lagged, `in_time` counts the 2xx that came while requests were
    still being sent, `unanswered` were sent or planned and never answered.
    """

    planned: int = 0
    seconds: float = 0.0
    late_s: float = 0.0
    accepted: list[float] = field(default_factory=list)
    in_time: int = 0
    rejected: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: int = 0

    @property
    def offered(self) -> float:
        """Requests a second that really left."""
        return self.planned / self.seconds

    @property
    def goodput(self) -> float:
        """2xx answers a second while requests were sent: what comes out of a queue afterwards does not count."""
        return self.in_time / self.seconds


def p99_ms(latencies: Sequence[float]) -> float | None:
    """In milliseconds; nothing for fewer than two."""
    return statistics.quantiles(latencies, n=100)[98] * 1e3 if len(latencies) > 1 else None


def open_loop(
    url: str,
    requests: Sequence[bytes],
    *,
    rate: float,
    seconds: float,
    watch: Watch | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Seen:
    """Send the raw `requests` in turn, `rate` a second, on as many keep-alive connections as it takes."""
    import uvloop

    return uvloop.run(_Run(url, requests, watch).go(rate, seconds, stop))


class _Connection(asyncio.Protocol):
    """One request at a time; goes back to the idle ones when its answer is there."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = b""
        self.turn = 0
        self.planned: float | None = None
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Idle from now on."""
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one in all but name

    def send(self, request: bytes, turn: int, planned: float) -> None:
        """Ask."""
        assert self.transport is not None
        self.turn, self.planned = turn, planned
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """An answer, or a part of one."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end]
        found = _LENGTH.search(head)
        length = int(found[1]) if found else 0
        if len(self._buffer) < end + 4 + length or self.planned is None:
            return
        body, self._buffer = self._buffer[end + 4 : end + 4 + length], b""
        self._run.answered(self, int(head[9:12]), head, body)

    def connection_lost(self, error: Exception | None) -> None:
        """A request in flight is never answered now."""
        self._run.lost(self)


class _Run:
    def __init__(self, url: str, requests: Sequence[bytes], watch: Watch | None) -> None:
        at = urlsplit(url)
        self._host, self._port = at.hostname or "127.0.0.1", at.port or 80
        self._requests = requests
        self._watch = watch
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._opening = 0
        self._waiting: deque[tuple[bytes, int, float]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.seen = Seen()

    async def go(self, rate: float, seconds: float, stop: Callable[[], bool]) -> Seen:
        """Plan, send, and wait a while for the last answers."""
        began = time.perf_counter()
        while (now := time.perf_counter()) < began + seconds and not stop():
            due = int((now - began) * rate)
            self.seen.late_s = max(self.seen.late_s, now - (began + self.seen.planned / rate))
            while self.seen.planned < due:
                self._ask(self.seen.planned % len(self._requests), began + self.seen.planned / rate)
                self.seen.planned += 1
            await asyncio.sleep(TICK_S)
        self.seen.seconds = time.perf_counter() - began
        until = time.perf_counter() + GRACE_S
        while self._in_flight() and time.perf_counter() < until:
            await asyncio.sleep(0.01)
        self.seen.unanswered += self._in_flight()
        self._waiting.clear()
        for connection in list(self._open):
            connection.planned = None
            if connection.transport is not None:
                connection.transport.close()
        await asyncio.sleep(0.05)
        return self.seen

    def answered(self, connection: _Connection, status: int, head: bytes, body: bytes) -> None:
        """Count it; the connection takes what waits, or idles."""
        assert connection.planned is not None
        took = time.perf_counter() - connection.planned
        connection.planned = None
        self.seen.statuses[status] += 1
        accepted = 200 <= status < 300
        (self.seen.accepted if accepted else self.seen.rejected).append(took)
        self.seen.in_time += accepted and not self.seen.seconds
        if self._watch is not None:
            self._watch(connection.turn, status, body)
        if b"lose" in head and _CLOSE.search(head):
            assert connection.transport is not None
            connection.transport.close()
        elif self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        """Forget the connection; its request counts as unanswered."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.planned is not None:
            connection.planned = None
            self.seen.unanswered += 1

    def _ask(self, turn: int, planned: float) -> None:
        request = self._requests[turn]
        if self._idle:
            self._idle.pop().send(request, turn, planned)
            return
        self._waiting.append((request, turn, planned))
        if len(self._open) + self._opening < MOST_CONNECTIONS and self._opening < min(CONNECTING, len(self._waiting)):
            self._opening += 1
            task = asyncio.ensure_future(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: _Connection(self), self._host, self._port)
        except OSError:
            if self._waiting:
                self._waiting.popleft()
                self.seen.unanswered += 1
            return
        finally:
            self._opening -= 1
        self._open.add(connection)
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _in_flight(self) -> int:
        return len(self._waiting) + sum(connection.planned is not None for connection in self._open)
