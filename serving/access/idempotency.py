"""A request that a caller sends again under the same `Idempotency-Key` gets the answer it had, and no second event.

Answers are kept for a day, in one SQLite file that the processes of a machine share; only requests that carry the
header pay for it. A process that is killed between answering and keeping has kept nothing: the repeat is answered anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from registry.errors import StoreUnavailable
from serving.access.answers import Answer, Answers, Busy, Conflict
from serving.access.auth import Caller
from serving.errors import IdempotencyConflict, Malformed
from serving.wire.body import read_body

WAIT_S: Final = 2.0
_LOOK_S: Final = 0.02
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}\Z")
_TELLING: Final = (
    "content-type", "accept", "inference-header-content-length", "x-entity", "x-event-time", "x-model-version",
)  # fmt: skip
"""Headers that change what is answered: another one makes it another request."""
_log = logging.getLogger("perene.serving")

_P = ParamSpec("_P")
_T = TypeVar("_T")
Handler = Callable[[Request, Caller, str], Awaitable[Response]]


class Idempotency:
    """The kept answers of one machine, as one process uses them."""

    def __init__(self, folder: Path, most_body: int, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._most_body = most_body
        self._clock = clock
        self._answers: Answers | None = None
        # not one of the threads that read large bodies and load models: a file that is locked must hold up neither
        self._thread = ThreadPoolExecutor(1, "idempotency")

    async def once(self, request: Request, caller: Caller, request_id: str, handler: Handler) -> Response:
        """The answer that was kept for this key, or that of `handler`, which is kept when it is a good one.

        Raises:
            Malformed: the key is none.
            IdempotencyConflict: it came with another request, or with one that is still being answered.
            StoreUnavailable: the answers cannot be read, so that nobody knows whether this is a repeat.
        """
        key = key_of(request)
        body = await read_body(request, self._most_body)
        digest = _digest(request, body)
        found = await self._begin(caller.id, key, digest)
        if found is not None:
            headers = {**found.headers, "x-request-id": request_id, "idempotency-replayed": "true"}
            return Response(found.body, 200, headers)
        answer: Answer | None = None
        try:
            response = await handler(Request(request.scope, _again(body)), caller, request_id)
            if response.status_code == 200:
                answer = Answer(dict(response.headers), bytes(response.body))
        finally:
            await self._end(caller.id, key, answer)
        return response

    def close(self) -> None:
        """Close the file."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._answers is not None:
            self._answers.close()
            self._answers = None

    async def _begin(self, caller: str, key: str, digest: bytes) -> Answer | None:
        until = time.monotonic() + WAIT_S
        while True:
            found = await self._aside(self._open().begin, caller, key, digest, self._clock())
            if isinstance(found, Conflict):
                raise IdempotencyConflict(
                    "this idempotency key came before, with another request",
                    where="Idempotency-Key",
                    expected="a new key for each request",
                )
            if not isinstance(found, Busy):
                return found
            if time.monotonic() >= until:
                error = IdempotencyConflict(
                    "the request with this idempotency key is still being answered",
                    where="Idempotency-Key",
                    hint="try again after Retry-After",
                )
                error.retry_after_s = 1.0
                raise error
            await asyncio.sleep(_LOOK_S)

    async def _end(self, caller: str, key: str, answer: Answer | None) -> None:
        try:
            await self._aside(self._open().end, caller, key, answer, self._clock())
        except StoreUnavailable:  # the answer is good; only a repeat of it will be answered anew
            _log.warning("serving.idempotency_not_kept")

    async def _aside(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **kwargs))

    def _open(self) -> Answers:
        if self._answers is None:
            self._answers = Answers(self._folder / "idempotency.db")
        return self._answers


def key_of(request: Request) -> str:
    """The idempotency key of a request that has one.

    Raises:
        Malformed: it is none.
    """
    keys = request.headers.getlist("idempotency-key")
    if len(keys) != 1 or not _KEY.match(keys[0]):
        raise Malformed(
            "the idempotency key is none",
            where="Idempotency-Key",
            expected="one, of at most 255 visible characters of ASCII, for example a UUID",
        )
    return keys[0]


def _digest(request: Request, body: bytes) -> bytes:
    hashed = hashlib.sha256()
    told = (request.headers.get(name, "") for name in _TELLING)
    for part in (request.url.path, request.url.query, *told):
        hashed.update(hashlib.sha256(part.encode("utf-8", "surrogateescape")).digest())
    hashed.update(body)
    return hashed.digest()


def _again(body: bytes) -> Callable[[], Awaitable[Message]]:
    """A body that was read, to be read once more."""
    parts = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        return next(parts, {"type": "http.disconnect"})

    return receive
