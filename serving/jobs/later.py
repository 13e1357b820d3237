"""Predictions that can wait: `Prefer: respond-async`. What is accepted is answered by the route's own handler, later.

The handler logs, counts and limits as ever. The ids of the answers follow from the job's, and the job is done once its
events are on disk: whoever is killed between the two leaves an attempt more, whose events have the same ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from monitoring.intake.ids import uuid7
from registry.errors import PereneError, StoreUnavailable
from serving.access.auth import Caller
from serving.access.idempotency import key_of
from serving.answering import IDS, INLINE_BYTES, RECEIVED, Understand, target
from serving.errors import Limited, status_of
from serving.jobs.job import Failure, Job, ids_of, told
from serving.jobs.queue import failure_of
from serving.observed.seen import Seen
from serving.wire.body import JSON, media_type, read_body

if TYPE_CHECKING:
    from serving.service import Service

Handler = Callable[[Request, Caller, str], Awaitable[Response]]
LOOK_S: Final = 0.5
COUNT_S: Final = 1.0
STOP_S: Final = 2.0
_KEPT: Final = ("content-type", "x-model-version", "x-entity", "x-event-time", "traceparent")
"""Headers that the handler looks at, beside those that tell segments."""
_MOST_VALUES: Final = 2
"""Of one header: of several no one counts, and two are several."""
_log = logging.getLogger("perene.serving")


class Asked(msgspec.Struct, frozen=True):
    """A prediction's request as it is kept."""

    path: str
    params: dict[str, str]
    headers: list[tuple[str, str]]
    request_id: str
    body: bytes


def wants_later(request: Request) -> bool:
    """Whether the caller would rather not wait (RFC 7240)."""
    asked = ",".join(request.headers.getlist("prefer")).lower().split(",")
    return any(preference.partition(";")[0].strip() == "respond-async" for preference in asked)


def deferrable(service: Service, now: Handler, understand: Understand, media: Collection[str] = (JSON,)) -> Handler:
    """The handler of a predict route that answers at once, or later where the caller prefers that."""

    async def handler(request: Request, caller: Caller, request_id: str) -> Response:
        if not wants_later(request):
            return await now(request, caller, request_id)
        model, pinned = target(service, request, caller)
        kind = media_type(request, media)
        body = await read_body(request, service.settings.max_body_bytes)
        asked = understand(body, kind, request)
        reader = pinned or model.champion
        # what the contract does not allow is refused now: later nobody could mend it
        if asked.heavy or len(body) >= INLINE_BYTES:
            batch = await asyncio.to_thread(asked.read, reader.decoder)
        else:
            batch = asked.read(reader.decoder)
        service.plane.check_time(batch.at)
        names = dict.fromkeys((*_KEPT, *model.route.headers))
        kept = [(name, value) for name in names for value in request.headers.getlist(name)[:_MOST_VALUES]]
        params = {name: str(value) for name, value in request.path_params.items()}
        stored = msgspec.msgpack.encode(Asked(request.url.path, params, kept, request_id, body))
        job = Job(
            id=uuid7(),
            kind="predict",
            model=model.name,
            version=0,
            key=caller.id,
            idempotency=idempotency_of(request),
            fingerprint=fingerprint(request.url.path, *(f"{n}={v}" for n, v in kept), body),
            asked=stored,
            size=len(stored),
        )
        made, new = await service.desk.do(service.desk.queue.add, job)
        service.desk.woken.set()
        service.count(model.name, "", "", 202)
        return accepted(service, made, f"/jobs/{made.id}", request_id, new=new, preferred=True)

    return handler


def accepted(
    service: Service, job: Job, location: str, request_id: str, *, new: bool, preferred: bool = False
) -> Response:
    """The answer 202: the job is on disk."""
    headers = {"location": location, "x-request-id": request_id, "retry-after": "1"}
    if preferred:
        headers["preference-applied"] = "respond-async"
    if not new:
        headers["idempotency-replayed"] = "true"
    body = msgspec.json.encode(told(job, service.desk.queue.now()))
    return Response(body, 202, headers, JSON)


def fingerprint(*parts: str | bytes) -> str:
    """Tells one request from another."""
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        hashed.update(hashlib.sha256(data).digest())
    return hashed.hexdigest()


def idempotency_of(request: Request) -> str:
    """The idempotency key of a request, or nothing.

    Raises:
        Malformed: it is none.
    """
    return key_of(request) if "idempotency-key" in request.headers else ""


class Answerer:
    """Answers the predictions that wait, in one serve process."""

    def __init__(self, service: Service, now: Handler) -> None:
        self._service = service
        self._now = now
        self._running: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Work while the block runs; what is under way at its end has a moment to be answered."""
        working, counting = asyncio.create_task(self._work()), asyncio.create_task(self._count())
        try:
            yield
        finally:
            for task in (working, counting):
                task.cancel()
            await asyncio.gather(working, counting, return_exceptions=True)
            if self._running:
                await asyncio.wait(self._running, timeout=STOP_S)
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _work(self) -> None:
        desk = self._service.desk
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await desk.woken.wait()
            desk.woken.clear()
            try:
                while len(self._running) < desk.settings.parallel and (
                    job := await desk.do(desk.queue.take, "predict")
                ):
                    task = asyncio.create_task(self._answer(job))
                    self._running.add(task)
                    task.add_done_callback(self._ended)
            except PereneError:  # a disk that is full or away now may be there later
                _log.error("serving.jobs_unreachable")

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._service.desk.woken.set()

    async def _count(self) -> None:
        while True:
            with contextlib.suppress(PereneError):
                await self._service.desk.count()
            await asyncio.sleep(COUNT_S)

    async def _answer(self, job: Job) -> None:
        queue = self._service.desk.queue
        try:
            answer = await self._answered(job)
        except PereneError as error:
            status = status_of(error)
            self._service.count(job.model, "", "", status)
            mendable = status >= 500 or isinstance(error, Limited)
            await self._written(partial(queue.again if mendable else queue.failed, job, failure_of(error)))
            return
        except Exception as error:  # a defect of ours: nothing of the queue may hang on it
            _log.exception("serving.job_failed", extra={"job": job.id})
            await self._written(partial(queue.again, job, Failure("http_500", f"it failed ({type(error).__name__})")))
            return
        await self._written(partial(queue.done, job, answer=answer, size=len(answer)))

    async def _written(self, write: Callable[[], object]) -> None:
        """Write down how a job ended, as soon as the disk lets us: until then it is nobody else's."""
        while True:
            try:
                await self._service.desk.do(write)
            except PereneError as error:
                _log.warning("serving.job_not_written", extra={"code": error.code})
                await asyncio.sleep(LOOK_S)
            else:
                return

    async def _answered(self, job: Job) -> bytes:
        service = self._service
        asked = msgspec.msgpack.decode(job.asked, type=Asked)
        caller = service.caller(job.key)
        caller.may("predict")
        request = _request(asked, job)
        seen = request.state.seen = Seen(asked.request_id, "perene", "POST", "/jobs/{job}")
        seen.key = caller.id
        status = 500
        try:
            response = await self._now(request, caller, asked.request_id)
            if response.background is not None:
                await response.background()
            # everything that was logged before it is on disk then
            await asyncio.wrap_future(service.spool.append_durable(()))
            status = 200
        except PereneError as error:
            status = status_of(error)
            raise
        finally:
            service.observer.tell(seen, status, request.headers)
        if response.media_type != JSON:
            raise StoreUnavailable("the answer is no JSON")
        return bytes(response.body)


def _request(asked: Asked, job: Job) -> Request:
    """The request, once more."""
    messages = iter([{"type": "http.request", "body": asked.body, "more_body": False}])

    async def receive() -> Message:
        return next(messages, {"type": "http.disconnect"})

    scope = {
        "type": "http",
        "method": "POST",
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in asked.headers],
        "path_params": asked.params,
        "state": {},
        IDS: ids_of(job.id),
        RECEIVED: job.created,
    }
    return Request(scope, receive)
