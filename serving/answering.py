"""One prediction over HTTP in any dialect: the target, the body, the data plane, the reply, the counts."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from monitoring.intake.ids import uuid7, uuid7s
from registry.errors import VersionUnknown
from serving.access.auth import Caller
from serving.dataplane import Predicted, Read, Who
from serving.errors import Malformed
from serving.loaded.models import Model, Version
from serving.observed.timing import server_timing
from serving.wire.body import JSON, media_type, read_body

if TYPE_CHECKING:
    from serving.service import Service

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
IDS = "perene.ids"
RECEIVED = "perene.received"
"""Where a scope says how the answers are named, if not by new ids."""
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

    async def predict(request: Request, caller: Caller, request_id: str) -> Response:
        began = time.perf_counter()
        model, pinned = target(service, request, caller)
        kind = media_type(request, media)
        model, pinned = await service.residents.ready(model, pinned)
        (pinned or model.champion).batcher.admit()
        data = await read_body(request, service.settings.max_body_bytes)
        asked = understand(data, kind, request)
        heavy = asked.heavy or len(data) >= INLINE_BYTES
        read = asked.read
        if caller.limits is not None:
            read = await charged(service, caller, read, pinned or model.champion, heavy=heavy)
        named, received = request.scope.get(IDS, uuid7s), request.scope.get(RECEIVED)
        who = Who(caller.id, request_id, pinned, named, received, partial(_only, request))
        with service.residents.using(model.name):
            done = await service.plane.predict(model, read, who, heavy=heavy)
        encoding = time.perf_counter()
        reply = asked.reply(done)
        version = str(done.version.version)
        headers = {
            "x-request-id": request_id,
            "x-model-name": model.name,
            "x-model-version": version,
            "x-prediction-id": done.ids[0],
            "server-timing": server_timing(done.parse_s, done.queue_s, done.infer_s),
            **reply.headers,
        }
        task = BackgroundTask(done.shadow) if done.shadow is not None else None
        ended = time.perf_counter()
        service.meters.of(model.name, done.version.version, done.arm, asked.protocol).answered(
            len(done.ids), done.parse_s, done.infer_s, ended - encoding, ended - began, done.queue_s
        )
        service.usage.of(caller.id).answered(len(done.ids), done.parse_s + done.infer_s + ended - encoding)
        request.state.seen.predicted(done, asked.protocol, ended - encoding)
        return Response(reply.body, media_type=reply.media, headers=headers, background=task)

    async def handler(request: Request, caller: Caller, request_id: str) -> Response:
        if "idempotency-key" not in request.headers:
            return await predict(request, caller, request_id)
        response = await service.idempotency.once(request, caller, request_id, predict)
        if "idempotency-replayed" in response.headers:
            model, version = response.headers["x-model-name"], response.headers["x-model-version"]
            service.count(model, version, "", 200, request.state.seen.protocol)
        return response

    return handler


def _only(request: Request, name: str) -> str | None:
    """A header that was given once; of several, none says what the caller meant."""
    given = request.headers.getlist(name)
    return given[0] if len(given) == 1 else None


def target(service: Service, request: Request, caller: Caller) -> tuple[Model, Version | None]:
    """The model that a request is for, and the version that it asks for.

    Raises:
        PereneError: there is none, or it is not the caller's to ask.
    """
    parts = request.path_params
    if "model" in parts:
        model, pinned = find(service, parts["model"], parts.get("version"), parts.get("alias"))
    else:
        model, pinned = service.table.default(service.settings.default_model), None
    caller.may_use(model.name)
    return model, _by_header(service, request, caller, model, pinned)


def _by_header(
    service: Service, request: Request, caller: Caller, model: Model, pinned: Version | None
) -> Version | None:
    """The version that `X-Model-Version` asks for, else the one of the path.

    Raises:
        NotAllowed: the caller may not read which versions there are.
        VersionUnknown: it is not served.
        Malformed: the path, or the same header, names another one.
    """
    wanted = set(request.headers.getlist("x-model-version"))
    if not wanted:
        return pinned
    caller.may("read")
    found = [find(service, model.name, version)[1] for version in wanted]
    version = found[0]
    if len(found) > 1 or pinned not in (None, version):
        raise Malformed("several versions are named", where="X-Model-Version", expected="one version, or none")
    return version


async def charged(service: Service, caller: Caller, read: Read, reader: Version, *, heavy: bool) -> Read:
    """Read a request and count its rows; how it is to be read from now on.

    Raises:
        Limited: they are too many for now.
    """
    batch = await asyncio.to_thread(read, reader.decoder) if heavy else read(reader.decoder)
    await service.limits.charge(caller, len(batch.rows))
    return lambda decoder: batch if decoder is reader.decoder else read(decoder)


def request_id_of(given: str) -> str:
    """The caller's own id of its request where it is a plain word, else a new one."""
    return given_id(given) or uuid7()


def given_id(given: str) -> str:
    """The caller's own id of its request where it is a plain word, else nothing."""
    return given if _REQUEST_ID.match(given) else ""


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
