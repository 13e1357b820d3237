"""uvicorn's HTTP protocol with the bounds that it lacks: of headers, of time, of small pieces, of what nobody reads.

What breaks one of them gets a short answer where that is still possible, and the connection ends. Of a request that
was refused the rest is thrown away for a while, so that the caller can finish sending and read why.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from monitoring.intake.ids import uuid7
from registry.errors import PereneError
from serving.dialects.dialect import of_path
from serving.errors import HeadersTooLarge, Malformed, status_of

UPLOADS: Final = b"/batch"
"""The end of routes that take files."""
PATIENCE: Final = "perene.patience"
"""Where such a route finds in its scope how to ask for more time."""
_UPGRADE: Final = frozenset((b"upgrade", b"connection", b"http2-settings"))


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one connection may take; tests have shorter ones."""

    header_s: float = 10.0
    """Until the head of a request is complete, also when nothing of it came yet."""
    body_s: float = 30.0
    """From there until its body is."""
    take_s: float = 30.0
    """For the caller to take an answer that does not fit into the buffers between."""
    linger_s: float = 2.0
    """For the caller to finish sending what was refused already."""
    sweep_s: float = 1.0
    """How often deadlines are looked at."""
    head_bytes: int = 32 * 1024
    headers: int = 100
    pieces: int = 1_024
    """Chunks of a body that may be smaller, on average, than `piece_bytes`."""
    piece_bytes: int = 64
    unread_bytes: int = 16 * 1024 * 1024
    """Of a body that nobody reads any more."""


class Watch:
    """Ends connections past their deadline, now and then as long as there are any."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._sweeping = False

    def over(self, connections: Collection[Any]) -> None:
        """Look at these connections from now on."""
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(self._every_s, self._sweep, connections)

    def _sweep(self, connections: Collection[Any]) -> None:
        now = monotonic()
        for connection in list(connections):
            if isinstance(connection, BoundedProtocol) and connection.deadline < now:
                connection.transport.abort()
        self._sweeping = bool(connections)
        if self._sweeping:
            asyncio.get_running_loop().call_later(self._every_s, self._sweep, connections)


class BoundedProtocol(HttpToolsProtocol):
    """One connection; `deadline` is when it ends unless something happens before."""

    bounds: Bounds = Bounds()
    watch: Watch
    counted: Callable[[int, str], None] = staticmethod(lambda status, request_id: None)
    """Told the status of each request that is refused here."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first head."""
        super().connection_made(transport)
        self.deadline = monotonic() + self.bounds.header_s
        self._in_head = self._refused = self._chunked = False
        self._first = self._later = self._size = 0
        self._pieces = self._held = self._wire = self._unread = 0
        self._wrong: PereneError | None = None
        self._plain = b""
        self._running: Any = None
        self.watch.over(self.connections)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody takes the answer that is under way; uvicorn tells only the request that came last."""
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        self._running = None
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn does not where the connection was reset: its clock keeps it

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and look at what it amounts to."""
        size = self._size = len(data)
        if self._refused:
            self._throw_away(size)
            return
        if self._in_head:
            self._later += size
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        if self._in_head:
            # the chunk in which the head began may be full of other requests, so its bytes are not counted here
            if self._later > self.bounds.head_bytes and not self._refused:
                self._wrong = _head_too_large(self.bounds)
                self.send_400_response("")
        elif self._chunked:
            self._check_chunks(size)
        elif self.deadline == math.inf and self.timeout_keep_alive_task is None:
            # empty lines between requests stop uvicorn's clock and begin nothing
            cycle: Any = self.cycle
            if cycle.response_complete and not self._refused:
                self.deadline = monotonic() + self.bounds.header_s

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # httptools leaves the body of such a request to the other protocol, and there is none here
            plain, self._plain = self._plain, b""
            if not plain:
                raise httptools.HttpParserError from None
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self._parse(plain + data[upgrade.args[0] :])

    def begin(self) -> None:
        """A request begins."""
        self.deadline = monotonic() + self.bounds.header_s
        self._in_head, self._chunked = True, False
        self._first, self._later = self._size, 0

    def check_head(self) -> None:
        """The head is complete: refuse one that is too large by leaving the parser."""
        self.deadline = monotonic() + self.bounds.body_s
        self._in_head = False
        if len(self.headers) > self.bounds.headers or (
            self._first + self._later > self.bounds.head_bytes and self._head() > self.bounds.head_bytes
        ):
            self._wrong = _head_too_large(self.bounds)
            raise self._wrong

    def upgrades(self) -> bool:
        """Whether the request asks for another protocol; it is then read again as one that does not."""
        if not self.parser.should_upgrade():
            return False
        if self.parser.get_method() == b"CONNECT":
            raise Malformed("this is no proxy")
        kept = [b"%b: %b" % header for header in self.headers if header[0] not in _UPGRADE]
        self._plain = b"\r\n".join((self.parser.get_method() + b" " + self.url + b" HTTP/1.1", *kept, b"", b""))
        return True

    def on_message_begin(self) -> None:
        """A request begins."""
        self.begin()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The application takes the request."""
        self.check_head()
        if not self.upgrades():
            self.to_application()

    def to_application(self) -> None:
        """Hand over a request whose head is complete."""
        self._pieces = self._held = self._unread = 0
        self._wire = -self._size  # what came with the head is bounded already, and may be other requests
        self._chunked = any(name == b"transfer-encoding" for name, _ in self.headers)
        if self.url.partition(b"?")[0].endswith(UPLOADS):
            self.scope[PATIENCE] = self._wait  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

    def _wait(self) -> None:
        """The application, which knows the caller, takes a long body: its time counts anew."""
        if self.deadline < math.inf:
            self.deadline = monotonic() + self.bounds.body_s

    def on_body(self, body: bytes) -> None:
        """A piece of the body; after the answer it is only counted."""
        cycle: Any = self.cycle
        if cycle.response_complete:
            self._throw_away(len(body))
            return
        self._pieces += 1
        self._held += len(body)
        if self._pieces > self.bounds.pieces and self._held < self._pieces * self.bounds.piece_bytes:
            raise self._many_pieces()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The whole request is here."""
        if not self._plain:
            self.deadline = math.inf
            self._chunked = False
            super().on_message_complete()

    def pause_writing(self) -> None:
        """The answer does not fit: the caller has to take it."""
        super().pause_writing()
        self.deadline = monotonic() + self.bounds.take_s

    def resume_writing(self) -> None:
        """It has been taken."""
        super().resume_writing()
        cycle: Any = self.cycle
        unfinished = self._in_head or (cycle is not None and cycle.more_body)
        self.deadline = monotonic() + self.bounds.body_s if unfinished else math.inf

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that is idle, also where its last answer was never taken."""
        super().timeout_keep_alive_handler()
        self.deadline = monotonic() + self.bounds.linger_s

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and close: in the form of every other error, with its status."""
        error = self._wrong or Malformed("the request is not HTTP/1.1", expected="HTTP/1.1")
        self._refused = True
        self.deadline = monotonic() + self.bounds.linger_s
        cycle: Any = self.cycle
        waiting = cycle is not None and not cycle.response_complete
        if self.transport.is_closing() or (waiting and self.pipeline):
            self.transport.abort()
            return
        if waiting and not self._body_is_open():
            cycle.keep_alive = False  # the request before it is sound: its answer is the last one
            self.deadline = monotonic() + self.bounds.take_s
            return
        if waiting:
            cycle.disconnected = True
            cycle.message_event.set()
        status = status_of(error)
        request_id = uuid7()
        self.counted(status, request_id)
        body = of_path(getattr(self, "url", b"").decode("latin-1")).envelope(error, request_id)
        head = f"x-request-id: {request_id}\r\ncontent-length: {len(body)}\r\ncontent-type: application/json\r\n"
        default = b"".join(b"%b: %b\r\n" % header for header in self.server_state.default_headers)
        self.transport.write(STATUS_LINE[status] + default + head.encode() + b"connection: close\r\n\r\n" + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _body_is_open(self) -> bool:
        """Whether the request that is being answered is the one that is wrong, and has no answer yet."""
        cycle: Any = self.cycle
        return bool(cycle.more_body) and not getattr(cycle, "response_started", False)

    def _head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _check_chunks(self, size: int) -> None:
        """Refuse chunks that are all wrapping: extensions and trailers are kept by nobody, and count for nothing."""
        self._wire += size
        if self._refused or self.cycle.response_complete:
            return
        if self._wire - self._held > 2 * self.bounds.head_bytes + self._held or len(self.headers) > self.bounds.headers:
            self._many_pieces()
            self.send_400_response("")

    def _many_pieces(self) -> Malformed:
        wrong = Malformed("the body comes in too small pieces", where="body", expected="larger chunks")
        self._wrong = wrong
        return wrong

    def _throw_away(self, size: int) -> None:
        self._unread += size
        if self._unread > self.bounds.unread_bytes:
            self.transport.abort()


def _head_too_large(bounds: Bounds) -> HeadersTooLarge:
    return HeadersTooLarge(
        "the head of the request is too large",
        where="headers",
        expected=f"at most {bounds.headers} headers of {bounds.head_bytes} bytes in all",
    )
