"""The routes of jobs: hand a file in, ask how it stands, fetch the result, end it."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from typing import IO, TYPE_CHECKING, Final, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from monitoring.intake.ids import uuid7
from registry.errors import PereneError, StoreUnavailable
from serving.access.auth import Caller
from serving.answering import target
from serving.errors import JobNotDone, Malformed, NotReady, Overloaded, TooLarge
from serving.jobs.child import Task
from serving.jobs.files import Places, check_free, check_name, check_there, has_room, read_parts
from serving.jobs.job import Job, State, told
from serving.jobs.later import accepted, fingerprint, idempotency_of
from serving.jobs.store import no_room, storage_full
from serving.jobs.webhook import target_of
from serving.wire.body import JSON, media_type, read_body
from serving.wire.bounded import PATIENCE

if TYPE_CHECKING:
    from serving.loaded.models import Version
    from serving.service import Service

Handler = Callable[[Request, Caller, str], Awaitable[Response]]
PARQUET: Final = "application/vnd.apache.parquet"
CSV: Final = "text/csv"
ENDINGS: Final = {PARQUET: ".parquet", CSV: ".csv"}
_ERRORS: Final = ("refuse", "skip", "null")
_PIECE: Final = 1 << 20
_QUERY: Final = frozenset(("errors", "keep", "format", "callback"))
_MOST_KEPT: Final = 1_000


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A job on files of the shared folder."""

    input: str
    output: str
    errors: str = "refuse"
    keep: list[str] = []
    callback: str = ""


def submit(service: Service) -> Handler:
    """`POST /models/{model}/batch`."""

    async def handler(request: Request, caller: Caller, request_id: str) -> Response:
        model, pinned = target(service, request, caller)
        version = pinned or model.champion
        media = media_type(request, (JSON, *ENDINGS))
        repeat = idempotency_of(request)
        desk = service.desk
        if desk.uploads.locked():
            raise Overloaded("several files are being received already", where="body")
        async with desk.uploads:
            places = Places(desk.run, uuid7())
            try:
                if media == JSON:
                    wanted, fingerprinted = await _of_folder(service, request)
                    _check(service, wanted)
                    size = 0
                    ending = f".{wanted.output.rpartition('.')[2]}"
                    task = Task(
                        *(version.version, version.digest, wanted.input, ending, str(desk.shared), wanted.output),
                        *(wanted.errors, wanted.keep),
                    )
                    await asyncio.to_thread(places.make)
                else:
                    wanted, ending = _of_query(request, ENDINGS[media])
                    _check(service, wanted)
                    name = f"input{ENDINGS[media]}"
                    size, fingerprinted = await _receive(service, request, caller, places, name)
                    task = Task(version.version, version.digest, name, ending, errors=wanted.errors, keep=wanted.keep)
                job = Job(
                    id=places.job,
                    kind="batch",
                    model=model.name,
                    version=version.version,
                    key=caller.id,
                    idempotency=repeat,
                    # not the version: a repeat after a promotion is still a repeat
                    fingerprint=fingerprint(request.url.path, request.url.query, media, fingerprinted),
                    asked=msgspec.json.encode(task),
                    size=size,
                    callback=wanted.callback,
                )
                await asyncio.to_thread(_settle, service, places, version)
            except BaseException as error:
                await asyncio.shield(asyncio.to_thread(places.remove))
                if isinstance(error, OSError):
                    raise _disk(error) from error
                raise
            try:
                made, new = await desk.do(desk.queue.add, job)
            except PereneError:  # and nothing else: whoever breaks off here does not know whether it was accepted
                await asyncio.to_thread(places.remove)
                raise
            if not new:
                await asyncio.to_thread(places.remove)
        return accepted(service, made, f"/models/{made.model}/batch/{made.id}", request_id, new=new)

    return handler


def one(service: Service) -> Handler:
    """`/models/{model}/batch/{job}`, `/jobs/{job}`: GET says how a job stands, DELETE ends it if it has not ended."""

    async def handler(request: Request, caller: Caller, request_id: str) -> Response:
        job = await _find(service, request, caller)
        if request.method == "DELETE":
            job = await service.desk.do(service.desk.queue.cancel, job.id)
        return _json(told(job, service.desk.queue.now()), request_id)

    return handler


def result(service: Service) -> Handler:
    """`GET /models/{model}/batch/{job}/result`: the file, or with `?of=errors` the rows without an answer."""

    async def handler(request: Request, caller: Caller, request_id: str) -> Response:
        job = await _find(service, request, caller)
        of = request.query_params.get("of", "answers")
        if of not in ("answers", "errors"):
            raise Malformed("this is no part of a result", where="of", expected="answers or errors")
        if job.state != "done" or (of == "errors" and not job.rejected):
            hint = "every row has an answer" if job.state == "done" else f"it is {job.state}"
            raise JobNotDone("the job has no such result", where="job", hint=hint)
        task = msgspec.json.decode(job.asked, type=Task)
        name = "result.errors.csv" if of == "errors" else task.result
        try:
            length, parts = await asyncio.to_thread(read_parts, Places(service.desk.run, job.id).folder / name)
        except OSError as error:
            raise StoreUnavailable("the result cannot be read", where="job") from error
        media = CSV if name.endswith(".csv") else PARQUET
        headers = {"content-length": str(length), "x-request-id": request_id}
        return StreamingResponse(parts, 200, headers, f"{media}; charset=utf-8" if media == CSV else media)

    return handler


def listed(service: Service) -> Handler:
    """`GET /jobs`: the key's own, those of all keys for an admin."""

    async def handler(request: Request, caller: Caller, request_id: str) -> Response:
        state = request.query_params.get("state")
        if state is not None and state not in get_args(State):
            raise Malformed("there is no such state", where="state", expected=", ".join(get_args(State)))
        key = None if "admin" in caller.scopes else caller.id
        queue = service.desk.queue
        jobs = await service.desk.do(queue.listed, key=key, state=state)  # type: ignore[arg-type]
        shown = [told(job, queue.now()) for job in jobs if not caller.models or job.model in caller.models]
        for facts in shown:
            facts.pop("answer", None)
        return _json({"jobs": shown}, request_id)

    return handler


async def _find(service: Service, request: Request, caller: Caller) -> Job:
    model = request.path_params.get("model")
    key = None if "admin" in caller.scopes else caller.id
    kind = "batch" if model is not None else None
    queue = service.desk.queue
    job = await service.desk.do(queue.find, request.path_params["job"], key=key, kind=kind, model=model)  # type: ignore[arg-type]
    caller.may_use(job.model)
    return job


async def _of_folder(service: Service, request: Request) -> tuple[Wanted, bytes]:
    body = await read_body(request, service.settings.max_body_bytes)
    try:
        wanted = msgspec.json.decode(body, type=Wanted)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Malformed(
            "the body is not that of a job", expected='{"input": "rows.parquet", "output": "answers.parquet"}'
        ) from None
    folder = service.settings.jobs.folder
    if not folder:
        raise Malformed("this server has no shared folder", where="input", hint="send the file itself")
    check_name(wanted.input, "input")
    check_name(wanted.output, "output")
    shared = service.desk.shared
    await asyncio.to_thread(check_there, shared, wanted.input)
    if not idempotency_of(request):  # of a repeat the output may be there
        await asyncio.to_thread(check_free, shared, wanted.output)
    return wanted, body


def _of_query(request: Request, ending: str) -> tuple[Wanted, str]:
    given = request.query_params
    unknown = set(given) - _QUERY
    if unknown:
        raise Malformed("there is no such parameter", where="query", expected=", ".join(sorted(_QUERY)))
    wanted = given.get("format", ending[1:])
    if f".{wanted}" not in ENDINGS.values():
        raise Malformed("a result has no such format", where="format", expected="parquet or csv")
    keep = given.getlist("keep")
    return Wanted("", "", given.get("errors", "refuse"), keep, given.get("callback", "")), f".{wanted}"


def _check(service: Service, wanted: Wanted) -> None:
    if wanted.errors not in _ERRORS:
        raise Malformed("rows that do not fit cannot be treated so", where="errors", expected=", ".join(_ERRORS))
    if len(wanted.keep) > _MOST_KEPT:
        raise TooLarge("too many columns are to be kept", where="keep", expected=f"at most {_MOST_KEPT}")
    if wanted.callback:
        if not service.settings.jobs.webhook_secret:
            raise Malformed("this server calls nobody back", where="callback", hint="ask how the job stands")
        target_of(wanted.callback, service.settings.jobs.webhook_hosts)


async def _receive(service: Service, request: Request, caller: Caller, places: Places, name: str) -> tuple[int, bytes]:
    """The file, on disk; returns its size and digest."""
    most = service.settings.jobs.max_upload_bytes
    declared = request.headers.get("content-length", "")
    known = int(declared) if declared.isdigit() and len(declared) < 16 else 0
    if known > most or len(declared) >= 16:
        raise _too_large(most)
    desk = service.desk
    await desk.do(desk.queue.check_room, caller.id, known)
    await asyncio.to_thread(places.make)
    if not await asyncio.to_thread(has_room, places.folder, known):
        raise storage_full()
    patience = request.scope.get(PATIENCE)
    hashed, size, waiting = hashlib.sha256(), 0, bytearray()
    file = await asyncio.to_thread((places.folder / name).open, "xb")

    def put(data: bytes) -> None:
        hashed.update(data)
        file.write(data)

    try:
        async for part in request.stream():
            waiting += part
            size += len(part)
            if size > most:
                raise _too_large(most)
            if len(waiting) >= _PIECE:
                data, waiting = bytes(waiting), bytearray()
                await asyncio.to_thread(put, data)
                if patience is not None:
                    patience()
        await asyncio.to_thread(_close, file, put, bytes(waiting))
    finally:
        await asyncio.to_thread(file.close)
    if not size:
        raise Malformed("the body is empty", expected="a file of rows")
    return size, hashed.digest()


def _close(file: IO[bytes], put: Callable[[bytes], None], data: bytes) -> None:
    put(data)
    file.flush()
    os.fsync(file.fileno())


def _settle(service: Service, places: Places, version: Version) -> None:
    """What the job needs is in its folder, and the folder outlasts a crash."""
    try:
        places.keep_bundle(service.stored(version))
    except FileNotFoundError:
        raise NotReady("the version leaves the cache just now", where="model", hint="try again") from None
    places.sync()


def _disk(error: OSError) -> Exception:
    if no_room(error):
        return storage_full()
    return StoreUnavailable("the file cannot be kept", where="body", hint="see the disk of the server's home")


def _too_large(most: int) -> TooLarge:
    return TooLarge("the file is too large", where="body", expected=f"at most {most} bytes", hint="send several files")


def _json(facts: object, request_id: str) -> Response:
    return Response(msgspec.json.encode(facts), 200, {"x-request-id": request_id}, JSON)
