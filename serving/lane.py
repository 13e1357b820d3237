"""The fast lane: ordinary predictions are answered in the HTTP protocol, without a trip through ASGI and FastAPI.

It takes what it knows how to answer and nothing else. Whatever is not an ordinary request for an ordinary answer
(another route, a wrong key, a bad body, a model that fails) goes to the application with the same bytes, so there is
one place where refusals are made, and both lanes cannot disagree on them.

The protocol also owns the deadlines that uvicorn has not: a connection that trickles its header or body is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Collection, Mapping
from functools import partial
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from monitoring.events import Arm
from monitoring.ids import uuid7
from registry.errors import PereneError
from serving.answering import INLINE_BYTES, request_id_of
from serving.dataplane import Predicted, Record
from serving.engine import Answer
from serving.routing import Choice, choose

if TYPE_CHECKING:
    from serving.app import Service
    from serving.models import Model, Version

HEADER_DEADLINE_S: Final = 10.0
BODY_DEADLINE_S: Final = 30.0
SWEEP_S: Final = 1.0
_SPECIAL: Final = frozenset((b"content-encoding", b"transfer-encoding", b"expect", b"upgrade"))
"""Headers that an ordinary request has not."""
_JSON: Final = frozenset((b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"))


class _NoEvent:
    """Takes the place of a cycle's event: nothing waits for the parts of a fast request."""

    def set(self) -> None:
        """Nobody is waiting."""


class FastCycle:
    """A request in the fast lane, in the form in which the protocol keeps requests of an application."""

    def __init__(
        self, model: Model, pinned: Version | None, url: bytes, headers: dict[bytes, bytes], *, keep_alive: bool
    ) -> None:
        self.model = model
        self.pinned = pinned
        self.url = url
        self.headers = headers
        self.keep_alive = keep_alive
        self.body = bytearray()
        self.more_body = True
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NoEvent()
        self.began = perf_counter()


class FastLane:
    """Answers fast requests with the service's own parts."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._routes: dict[bytes, tuple[Model, Version | None]] = {}
        self._table: object = None
        self._sweeping = False

    def target(self, url: bytes) -> tuple[Model, Version | None] | None:
        """The model and pinned version of a predict route, if this is one."""
        if self._service.table is not self._table:
            self._table = self._service.table
            self._routes = _routes(self._service)
        return self._routes.get(url)

    def answer(self, cycle: FastCycle, reply: Callable[[bytes, bytes], None], fall: Callable[[], None]) -> None:
        """Answer soon with `reply(head, body)`, or leave the request to the application with `fall()`."""
        service, model = self._service, cycle.model
        reader = cycle.pinned or model.champion
        try:
            caller = service.allow(_secret(cycle.headers), "predict", model.name)
            rows = reader.decoder.read(bytes(cycle.body))
            service.plane.check_time(rows.at)
        except PereneError:
            fall()
            return
        request_id = request_id_of(cycle.headers.get(b"x-request-id", b"").decode("latin-1"))
        choice = Choice(reader.version, "champion") if cycle.pinned else choose(model.route, rows.entity or request_id)
        version = model.versions[choice.version]
        batcher = version.batcher
        if choice.shadow is not None or batcher is None or version.contract.layout != reader.contract.layout:
            fall()
            return
        arm: Arm = "pinned" if cycle.pinned else choice.arm
        parsed = perf_counter()

        def done(outcome: Answer | PereneError, seconds: float) -> None:
            if isinstance(outcome, PereneError):
                fall()
                return
            encoding = perf_counter()
            ids = [uuid7() for _ in rows.values]
            taken = (encoding - cycle.began) * 1e3
            record = Record(arm, rows.values, rows.at, rows.entity or "", caller.id, taken)
            service.plane.log(version, record, outcome, ids)
            reply(*_response(Predicted(version, arm, outcome, ids), request_id))
            ended = perf_counter()
            service.meters.of(model.name, version.version, arm).answered(
                len(ids), parsed - cycle.began, seconds, ended - encoding, ended - cycle.began
            )

        batcher.submit(rows.values, done)

    def watch(self, connections: Collection[Any]) -> None:
        """Close connections past their deadline, now and then as long as there are any."""
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep, connections)

    def _sweep(self, connections: Collection[Any]) -> None:
        now = monotonic()
        for connection in list(connections):
            if isinstance(connection, FastProtocol) and connection.deadline < now:
                connection.expire()
        self._sweeping = bool(connections)
        if self._sweeping:
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep, connections)


class FastProtocol(HttpToolsProtocol):
    """uvicorn's protocol with the fast lane and deadlines in front."""

    lane: FastLane

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first header."""
        super().connection_made(transport)
        self.deadline = monotonic() + HEADER_DEADLINE_S
        self.lane.watch(self.connections)

    def expire(self) -> None:
        """Close a connection that was too slow; the application sees a client that went away."""
        self.transport.abort()

    def on_message_begin(self) -> None:
        """Keep what the lane needs; the application's scope is made only for the application."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.deadline = monotonic() + HEADER_DEADLINE_S

    def on_headers_complete(self) -> None:
        """Take the request, or let the application have it."""
        self.deadline = monotonic() + BODY_DEADLINE_S
        cycle = self._fast_cycle()
        if cycle is not None:
            self.cycle = cycle  # type: ignore[assignment]
            return
        self._make_scope(self.url, self.headers)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        cycle: Any = self.cycle
        if isinstance(cycle, FastCycle):
            cycle.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The whole request is here."""
        self.deadline = math.inf
        cycle: Any = self.cycle
        if isinstance(cycle, FastCycle):
            self.lane.answer(cycle, partial(self._reply, cycle), partial(self._fall, cycle))
        else:
            super().on_message_complete()

    def _fast_cycle(self) -> FastCycle | None:
        before: Any = self.cycle
        if (before is not None and not before.response_complete) or self.flow.write_paused:
            return None  # answers leave in the order of their requests
        parser = self.parser
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1" or parser.should_upgrade():
            return None
        target = self.lane.target(self.url)
        if target is None:
            return None
        headers = dict(self.headers)
        if len(headers) != len(self.headers) or not _SPECIAL.isdisjoint(headers):
            return None
        length = headers.get(b"content-length", b"")
        if headers.get(b"content-type") not in _JSON or not length.isdigit() or len(length) > 6:
            return None
        if not 0 < int(length) < INLINE_BYTES:
            return None
        return FastCycle(*target, self.url, headers, keep_alive=parser.should_keep_alive())

    def _reply(self, cycle: FastCycle, head: bytes, body: bytes) -> None:
        cycle.response_complete = True
        if self.transport.is_closing():
            return
        default = b"".join(b"%b: %b\r\n" % header for header in self.server_state.default_headers)
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        self.transport.write(b"HTTP/1.1 200 OK\r\n" + default + head + end + body)
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _fall(self, fast: FastCycle) -> None:
        """Give the request to the application, as if it had come there at first."""
        fast.response_complete = True
        if self.transport.is_closing():
            return
        current: Any = self.cycle
        self._make_scope(fast.url, list(fast.headers.items()))
        self.scope |= {"method": "POST", "path": fast.url.decode(), "raw_path": fast.url, "query_string": b""}
        cycle = RequestResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=fast.keep_alive,
            on_response=self.on_response_complete,
        )
        cycle.body, cycle.more_body = fast.body, False
        cycle.message_event.set()
        if current is fast:
            self.cycle = cycle
        self._start_asgi_task(cycle, self.app)

    def _make_scope(self, url: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        expects = self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers


def protocol_of(service: Service) -> type[FastProtocol]:
    """uvicorn makes a protocol from a class, so the class carries the lane."""

    class Bound(FastProtocol):
        lane = FastLane(service)

    return Bound


def _response(predicted: Predicted, request_id: str) -> tuple[bytes, bytes]:
    """Headers and body, as the application writes them."""
    body = predicted.body()
    head = (
        f"x-request-id: {request_id}\r\nx-model-name: {predicted.version.model}\r\n"
        f"x-model-version: {predicted.version.version}\r\nx-prediction-id: {predicted.ids[0]}\r\n"
        f"content-length: {len(body)}\r\ncontent-type: application/json\r\n"
    )
    return head.encode(), body


def _routes(service: Service) -> dict[bytes, tuple[Model, Version | None]]:
    found: dict[bytes, tuple[Model, Version | None]] = {}
    for name, model in service.table.models.items():
        found[f"/models/{name}/predict".encode()] = (model, None)
        for number, version in model.versions.items():
            found[f"/models/{name}/versions/{number}/predict".encode()] = (model, version)
    with contextlib.suppress(PereneError):  # no model is the default: the application says so
        found[b"/predict"] = (service.table.default(service.settings.default_model), None)
    return found


def _secret(headers: Mapping[bytes, bytes]) -> str:
    bearer = headers.get(b"authorization", b"")
    found = bearer[7:] if bearer[:7].lower() == b"bearer " else headers.get(b"x-api-key", b"")
    return found.decode("latin-1").strip()
