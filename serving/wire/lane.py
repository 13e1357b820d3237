"""The fast lane: ordinary predictions are answered in the HTTP protocol, without a trip through ASGI and FastAPI.

It takes what it knows how to answer and nothing else. Whatever is not an ordinary request for an ordinary answer
(another route, a wrong key, a bad body, a model that fails) goes to the application with the same bytes, so there is
one place where refusals are made, and both lanes cannot disagree on them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from monitoring.intake.ids import uuid7s
from registry.errors import PereneError
from serving.access.visit import Visit
from serving.answering import INLINE_BYTES, request_id_of
from serving.dataplane import Predicted, Record
from serving.engine import Answer
from serving.errors import Limited, Overloaded
from serving.observed.request_log import Line
from serving.observed.seen import Seen
from serving.queues.patience import CandidateLate, Within
from serving.queues.runner import Done
from serving.wire.bounded import BoundedProtocol, Bounds, Watch
from serving.wire.fast_cycle import ANSWERED, FastCycle, Way, way_of
from serving.wire.refused import PROBLEM, Forms
from serving.wire.wording import body_of, head_of, line_of

if TYPE_CHECKING:
    from serving.decode import Rows
    from serving.loaded.models import Model, Version
    from serving.service import Service

_SPECIAL: Final = frozenset(
    {
        *(b"content-encoding", b"transfer-encoding", b"expect", b"upgrade"),
        *(b"origin", b"sec-fetch-site", b"x-model-version", b"idempotency-key", b"prefer"),
        *(b"x-entity", b"x-event-time"),
    }
)
"""Headers that an ordinary request has not."""
_JSON: Final = frozenset((b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"))


class Reply(Protocol):
    """Sends an answer to the connection of a request."""

    def __call__(self, head: bytes, body: bytes, status: int = 200, /) -> None:
        """Send these headers, each with its end of line, and this body."""


class _Asked(msgspec.Struct, frozen=True):
    """A request that waits for its answer, with the two ways out."""

    cycle: FastCycle
    rows: Rows
    way: Way
    reply: Reply
    fall: Callable[[], None]
    parsed: float


class FastLane:
    """Answers fast requests with the service's own parts."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._routes: dict[bytes, tuple[Model, Version | None]] = {}
        self._table: object = None
        self._default: object = None
        self._default_line = b""
        self._forms = Forms(service.counter)
        self.names_us = service.guard.host
        self.traces = service.observer.tracing is not None
        """Spans are made in the application."""

    def target(self, url: bytes) -> tuple[Model, Version | None] | None:
        """The model and pinned version of a predict route, if this is one."""
        if self._service.table is not self._table:
            self._table = self._service.table
            self._routes = _routes(self._service)
        return self._routes.get(url)

    def default(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The headers of every answer as they are written; uvicorn makes a new list each second, for the date."""
        if headers is not self._default:
            self._default, self._default_line = headers, line_of(headers)
        return self._default_line

    def answer(self, cycle: FastCycle, reply: Reply, fall: Callable[[], None]) -> None:
        """Answer soon with `reply(head, body)`, or leave the request to the application with `fall()`."""
        service, model = self._service, cycle.model
        if service.residents.most is not None:
            service.residents.touch(model.name)
        reader = cycle.pinned or model.champion
        visit: Visit | None = None
        try:
            caller = service.predicts(cycle.headers, model.name)
            cycle.key = caller.id
            if caller.limits is not None:
                if service.limits.shared:
                    fall()
                    return
                visit = Visit(service.limits, caller, reply, fall)
                reply, fall = visit.reply, visit.fall
                visit.enter()
            reader.batcher.admit()
            rows = reader.decoder.read(bytes(cycle.body))  # the very bytes where they came as one piece
            service.plane.check_time(rows.at)
            if visit is not None:
                visit.rows(len(rows.values))
        except (Overloaded, Limited) as error:
            self._refuse(cycle, error, reply)
            return
        except Exception:  # refused, or a defect of ours: the application says which
            fall()
            return
        way = way_of(cycle, reader, rows)
        if way is None:
            fall()
            return
        asked = _Asked(cycle, rows, way, reply, fall, perf_counter())
        if way.arm == "candidate":
            self._try(asked)
        else:
            way.version.batcher.submit(rows.values, partial(self._told, asked), lambda: cycle.disconnected)

    def _try(self, asked: _Asked) -> None:
        """Ask a candidate, for as long as its caller may wait for it; then the champion."""
        batcher, rows = asked.way.version.batcher, asked.rows.values
        if batcher.behind:
            self._instead(asked, CandidateLate("the candidate is behind"))
            return
        told: Done = partial(self._tried, asked)
        within = batcher.patience(len(rows), asked.cycle.model.champion.batcher)
        if within == math.inf:
            batcher.submit(rows, told, lambda: asked.cycle.disconnected)
            return
        bounded = Within(told, within)
        batcher.submit(rows, bounded, lambda: bounded.told or asked.cycle.disconnected)

    def _tried(self, asked: _Asked, outcome: Answer | PereneError, queue_s: float, infer_s: float) -> None:
        if isinstance(outcome, PereneError):
            self._instead(asked, outcome)
        else:
            self._told(asked, outcome, queue_s, infer_s)

    def _instead(self, asked: _Asked, error: PereneError) -> None:
        """Have the champion answer for a candidate that did not: it reads rows in the same way."""
        way, champion = asked.way, asked.cycle.model.champion
        self._service.plane.fell(way.version, error, "candidate")
        way = msgspec.structs.replace(way, version=champion, arm="fallback")
        asked = msgspec.structs.replace(asked, way=way)
        champion.batcher.submit(asked.rows.values, partial(self._told, asked), lambda: asked.cycle.disconnected)

    def _told(self, asked: _Asked, outcome: Answer | PereneError, queue_s: float, infer_s: float) -> None:
        """Reply; then count and log."""
        service, cycle, rows, way = self._service, asked.cycle, asked.rows, asked.way
        if isinstance(outcome, PereneError):
            # what waited too long must not wait again
            if isinstance(outcome, Overloaded):
                self._refuse(cycle, outcome, asked.reply)
            else:
                asked.fall()
            return
        encoding = perf_counter()
        version, arm = way.version, way.arm
        ids = uuid7s(len(rows.values))
        request_id = way.request_id or ids[0]  # a request without a name of its own has that of its first answer
        taken = (encoding - cycle.began) * 1e3
        revision = 0 if arm == "pinned" else cycle.model.route.revision
        record = Record(arm, rows.values, rows.at, rows.entity or "", cycle.key, taken, None, revision, way.assigned)
        service.plane.log(version, record, outcome, ids)
        parse_s = asked.parsed - cycle.began
        predicted = Predicted(version, arm, outcome, ids, None, parse_s, queue_s, infer_s)
        body = body_of(predicted)
        asked.reply(head_of(predicted, request_id, len(body)), body)
        ended = perf_counter()
        encode_s, whole_s = ended - encoding, ended - cycle.began
        meter = service.meters.of(version.model, version.version, arm)
        meter.answered(len(ids), parse_s, infer_s, encode_s, whole_s, queue_s)
        service.usage.of(cycle.key).answered(len(ids), parse_s + infer_s + encode_s)
        if service.observer.log is not None:
            times = (parse_s, queue_s, infer_s, encode_s, whole_s)
            trace = cycle.headers.get(b"traceparent", b"")
            told = (request_id, version.model, version.version, arm, "perene", len(ids), 200, times)
            service.observer.log.line(Line(*told, cycle.key, trace, cycle.route))
        if way.shadow is not None:
            service.plane.shadow(cycle.model, way.shadow, rows, outcome, ids)

    def _refuse(self, cycle: FastCycle, error: Overloaded | Limited, reply: Reply) -> None:
        """Say no in the words of the application, for a tenth of its price: under overload that is most of the work."""
        request_id = request_id_of(cycle.headers.get(b"x-request-id", b"").decode("latin-1"))
        named = "" if cycle.url == b"/predict" else cycle.model.name
        problem = PROBLEM.encode() in cycle.headers.get(b"accept", b"")
        status, head, body = self._forms.of(error, request_id, named, problem=problem)
        if isinstance(error, Limited):
            self._service.metrics.rejected_total.labels(reason=error.reason).inc()
        if self._service.observer.log is not None:
            times = (0.0, 0.0, 0.0, 0.0, perf_counter() - cycle.began)
            trace = cycle.headers.get(b"traceparent", b"")
            self._service.observer.log.line(
                Line(request_id, named, 0, "", "perene", 0, status, times, cycle.key, trace, cycle.route)
            )
        reply(head, body, status)


class FastProtocol(BoundedProtocol):
    """uvicorn's protocol with the fast lane and bounds in front."""

    lane: FastLane
    leaving = False
    """Set on the class while the server drains: then the next answer is the last one of its connection."""

    def on_message_begin(self) -> None:
        """Keep what the lane needs; the application's scope is made only for the application."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.begin()

    def on_headers_complete(self) -> None:
        """Take the request, or let the application have it."""
        self.check_head()
        if self.upgrades():
            return
        cycle = self._fast_cycle()
        if cycle is not None:
            self.cycle = cycle  # type: ignore[assignment]
            return
        self._make_scope(self.url, self.headers)
        self.to_application()
        if self.leaving:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        cycle: Any = self.cycle
        if isinstance(cycle, FastCycle):
            if not cycle.body:
                cycle.body = body
                return
            if type(cycle.body) is bytes:
                cycle.body = bytearray(cycle.body)
            cycle.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The whole request is here."""
        cycle: Any = self.cycle
        if isinstance(cycle, FastCycle) and not self._plain:
            self.deadline = math.inf
            cycle.more_body = False
            self.lane.answer(cycle, partial(self._reply, cycle), partial(self._fall, cycle))
        else:
            super().on_message_complete()

    def _fast_cycle(self) -> FastCycle | None:
        before: Any = self.cycle
        if self.leaving or (before is not None and not before.response_complete) or self.flow.write_paused:
            return None  # answers leave in the order of their requests
        parser = self.parser
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
            return None
        target = self.lane.target(self.url)
        if target is None or self.lane.traces:
            return None
        headers = dict(self.headers)
        if len(headers) != len(self.headers) or not _SPECIAL.isdisjoint(headers):
            return None
        if not self.lane.names_us(headers.get(b"host")):
            return None
        length = headers.get(b"content-length", b"")
        if headers.get(b"content-type") not in _JSON or not length.isdigit() or len(length) > 6:
            return None
        if not 0 < int(length) < INLINE_BYTES:
            return None
        return FastCycle(*target, self.url, headers, keep_alive=parser.should_keep_alive())

    def _reply(self, cycle: FastCycle, head: bytes, body: bytes, status: int = 200) -> None:
        cycle.response_complete = True
        current: Any = self.cycle
        if current is cycle:
            self.cycle = ANSWERED  # type: ignore[assignment]
        if self.transport.is_closing():
            return
        default = self.lane.default(self.server_state.default_headers)
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        self.transport.write(b"".join((STATUS_LINE[status], default, head, end, body)))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _fall(self, fast: FastCycle) -> None:
        """Give the request to the application, as if it had come there at first."""
        answered, fast.response_complete = fast.response_complete, True
        if answered or self.transport.is_closing():
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
        cycle.body, cycle.more_body = bytearray(fast.body), False
        cycle.message_event.set()
        if current is fast:
            self.cycle = cycle
        self._start_asgi_task(cycle, self.app)

    def _make_scope(self, url: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        expects = self.expect_100_continue
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers


def protocol_of(service: Service, bounds: Bounds = Bounds()) -> type[FastProtocol]:  # noqa: B008 - it is frozen
    """uvicorn makes a protocol from a class, so the class carries the lane."""
    given = bounds

    class Bound(FastProtocol):
        lane = FastLane(service)
        bounds = given
        watch = Watch(given.sweep_s)
        counted = staticmethod(partial(_count_refused, service))

    return Bound


def _count_refused(service: Service, status: int, request_id: str) -> None:
    """What is no HTTP, or beyond a bound, has no route and no caller."""
    service.count("", "", "", status, "http")
    service.observer.tell(Seen(request_id, "http"), status, {})


def _routes(service: Service) -> dict[bytes, tuple[Model, Version | None]]:
    found: dict[bytes, tuple[Model, Version | None]] = {}
    if service.settings.cache_rows or service.settings.strict:
        return found  # answers are looked for, and wait for the disk, in the application
    for name, model in service.table.models.items():
        if not model.resident:
            continue  # the application loads it
        if not model.route.rules:  # the application finds out the segment
            found[f"/models/{name}/predict".encode()] = (model, None)
        for number, version in model.versions.items():
            found[f"/models/{name}/versions/{number}/predict".encode()] = (model, version)
    with contextlib.suppress(PereneError):  # no model is the default: the application says so
        model = service.table.default(service.settings.default_model)
        if model.resident and not model.route.rules:
            found[b"/predict"] = (model, None)
    return found
