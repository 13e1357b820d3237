"""One prediction over HTTP in any dialect: the target, the body, the data plane, the reply, the counts."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from monitoring.ids import uuid7
from registry.errors import VersionUnknown
from serving.auth import Caller
from serving.body import JSON, media_type, read_body
from serving.dataplane import Predicted, Read
from serving.errors import NotReady
from serving.models import Model, Version

if TYPE_CHECKING:
    from serving.app import Service

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
INLINE_BYTES = 64 * 1024
"""Larger bodies take milliseconds, so they take a thread: other requests do not wait for them."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A prediction in a dialect's words."""

    body: bytes
    media: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as its dialect understands it: how it is read by a contract, and how it is answered.

    `heavy` says that reading it takes longer than the event loop should wait, however few its bytes are.
    """

    read: Read
    reply: Callable[[Predicted], Reply]
    heavy: bool = False
    protocol: str = "perene"


Understand = Callable[[bytes, str, Request], Asked]
"""A dialect: what a body of a media type asks for. It is called on the event loop, so the work is left to `read`."""


def prediction(
    service: Service, understand: Understand, media: Collection[str] = (JSON,)
) -> Callable[[Request, Caller, str], Awaitable[Response]]:
    """The handler of a route that predicts."""

    async def handler(request: Request, caller: Caller, request_id: str) -> Response:
        began = time.perf_counter()
        parts = request.path_params
        if "model" in parts:
            model, pinned = find(service, parts["model"], parts.get("version"), parts.get("alias"))
        else:
            model, pinned = service.table.default(service.settings.default_model), None
        caller.may_use(model.name)
        kind = media_type(request, media)
        data = await read_body(request, service.settings.max_body_bytes)
        asked = understand(data, kind, request)
        work = partial(service.plane.predict, model, asked.read, key=caller.id, request_id=request_id, pinned=pinned)
        done = await in_its_place(service, model, work, heavy=asked.heavy or len(data) >= INLINE_BYTES)
        encoding = time.perf_counter()
        reply = asked.reply(done)
        version = str(done.version.version)
        headers = {
            "x-request-id": request_id,
            "x-model-name": model.name,
            "x-model-version": version,
            "x-prediction-id": done.ids[0],
            **reply.headers,
        }
        task = BackgroundTask(after, service, model, done.shadow) if done.shadow is not None else None
        ended = time.perf_counter()
        service.meters.of(model.name, done.version.version, done.arm, asked.protocol).answered(
            len(done.ids), done.parse_s, done.infer_s, ended - encoding, ended - began
        )
        return Response(reply.body, media_type=reply.media, headers=headers, background=task)

    return handler


async def in_its_place(service: Service, model: Model, work: Callable[[], Predicted], *, heavy: bool) -> Predicted:
    """Do the work on the event loop where that is microseconds, else beside it."""
    if not model.inline:
        return await service.lanes.run(model.name, work)
    return await asyncio.to_thread(work) if heavy else work()


async def after(service: Service, model: Model, work: Callable[[], None]) -> None:
    """A plain function given to BackgroundTask takes a thread; a light model is quicker on the loop."""
    if model.inline:
        work()
        return
    with contextlib.suppress(NotReady):  # nobody waits for a shadow's answer
        await service.lanes.run(model.name, work)


def request_id_of(given: str) -> str:
    """The caller's own id of its request where it is a plain word, else a new one."""
    return given if _REQUEST_ID.match(given) else uuid7()


def find(service: Service, name: str, version: str | None, alias: str | None = None) -> tuple[Model, Version | None]:
    """The deployed model of this name, and its version of this number or label.

    Raises:
        ModelUnknown, VersionUnknown: there is none.
    """
    model = service.table.get(name)
    if alias is not None:
        number = {"champion": model.route.champion, "candidate": model.route.candidate}.get(alias)
        if number is None:
            raise VersionUnknown(
                "no version has this label", where="label", expected="champion, or candidate while there is one"
            )
        return model, service.table.version(name, number)
    if version is None:
        return model, None
    if not version.isascii() or not version.isdigit() or len(version) > 9:
        raise VersionUnknown("a version is a whole number", where="version", expected="for example 3")
    return model, service.table.version(name, int(version))
