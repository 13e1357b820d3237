"""One line for each request: who was asked, what came of it and where the time went. Never a value.

The event loop appends a tuple; the thread of the process's log makes lines of it. A line is made by one format string,
a third of what an encoder of JSON takes: every text in it is a plain word already (an id, a name, a route of ours).
"""

from __future__ import annotations

import re
from collections import deque
from time import gmtime, strftime, time
from typing import Final, NamedTuple

MOST_WAITING: Final = 16_384
_AT_ONCE: Final = 256
"""Lines made before other threads get their turn: a quarter of a millisecond."""
_LINE: Final = (
    '{"event":"request","at":"%s.%03dZ","request_id":"%s",%s"model":"%s","version":%s,"arm":"%s","protocol":"%s",'
    '%s"status":%d,"rows":%d,"parse_ms":%.3f,"queue_ms":%.3f,"infer_ms":%.3f,"encode_ms":%.3f,"total_ms":%.3f,'
    '"key":"%s"}\n'
)
_TEXT: Final = "%s.%03dZ request %d %s %s v%s %s %s rows=%d total=%.3fms key=%s id=%s\n"
_TRACE: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?\Z")


class Line(NamedTuple):
    """A request that was answered or refused."""

    request_id: str
    model: str
    version: int
    """0 where no version answered."""
    arm: str
    protocol: str
    rows: int
    status: int
    seconds: tuple[float, float, float, float, float]
    """Reading, waiting, the engine, writing; and all of it from the first look at the request to its answer."""
    key: str
    """The key's id, never its secret."""
    traceparent: bytes = b""
    """The header as it came; what is no W3C trace context is left out."""
    route: str = ""
    """The route's pattern, never the path."""


class RequestLog:
    """Lines of requests that wait to be written; a source of `registry.line_writer`."""

    def __init__(self, *, as_text: bool = False) -> None:
        self._waiting: deque[tuple[float, Line]] = deque()
        self._format = _as_text if as_text else _as_json
        self._lost = 0

    def line(self, line: Line) -> None:
        """Note a request; when nobody writes, the newest lines are lost and counted."""
        if len(self._waiting) >= MOST_WAITING:
            self._lost += 1
            return
        self._waiting.append((time(), line))

    def take(self) -> bytes:
        """The next lines, in order; nothing when none wait."""
        waiting = self._waiting
        found: list[str] = []
        if self._lost:
            lost, self._lost = self._lost, 0
            found.append(f'{{"event":"log.lost","at":"{_second(time())}Z","level":"warning","lines":{lost}}}\n')
        make = self._format
        while waiting and len(found) < _AT_ONCE:
            found.append(make(*waiting.popleft()))
        return "".join(found).encode()


def trace_id_of(traceparent: bytes) -> str:
    """The trace of a `traceparent` header, or nothing when it is none.

    >>> trace_id_of(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    '4bf92f3577b34da6a3ce929d0e0e4736'
    """
    found = _TRACE.match(traceparent)
    return found[1].decode() if found else ""


_last: tuple[int, str] = (0, "")


def _second(at: float) -> str:
    """Seconds of UTC as text: the requests of one second share it."""
    global _last  # noqa: PLW0603 - one thread makes lines
    whole = int(at)
    if _last[0] != whole:
        _last = (whole, strftime("%Y-%m-%dT%H:%M:%S", gmtime(whole)))
    return _last[1]


def _as_json(at: float, line: Line) -> str:
    request_id, model, version, arm, protocol, rows, status, seconds, key, traceparent, route = line
    parse, queue, infer, encode, whole = seconds
    trace = trace_id_of(traceparent) if traceparent else ""
    return _LINE % (
        _second(at),
        at % 1 * 1e3,
        request_id,
        f'"trace_id":"{trace}",' if trace else "",
        model,
        version or "null",
        arm,
        protocol,
        f'"route":"{route}",' if route else "",
        status,
        rows,
        parse * 1e3,
        queue * 1e3,
        infer * 1e3,
        encode * 1e3,
        whole * 1e3,
        key,
    )


def _as_text(at: float, line: Line) -> str:
    return _TEXT % (
        _second(at),
        at % 1 * 1e3,
        line.status,
        line.protocol,
        line.model or "-",
        line.version or "-",
        line.arm or "-",
        line.route or "-",
        line.rows,
        line.seconds[-1] * 1e3,
        line.key or "-",
        line.request_id,
    )
