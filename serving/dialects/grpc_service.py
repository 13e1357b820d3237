"""The Open Inference Protocol over gRPC, and grpc.health.v1: on the event loop of the server, by the same keys.

gRPC takes 12 MB and 50 ms of a CPU to import: only a server that is asked for it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Final

from registry import __version__
from registry.errors import ConfigInvalid, ModelUnknown, PereneError
from serving.access.auth import ANYBODY, Caller, secret_of
from serving.answering import INLINE_BYTES, charged, find, request_id_of
from serving.dataplane import Read, Who
from serving.decode import Batch, Decoder
from serving.dialects.dialect import about, sentence
from serving.dialects.grpc_body import parsed, read_message, write_message
from serving.dialects.oip import model_metadata, moved_by_the_ledger, repository
from serving.dialects.proto import messages
from serving.dialects.tabular import read_table
from serving.dialects.tensors import cells_of, check_outputs, outputs_of
from serving.errors import InferenceFailed, Limited, Overloaded, status_of
from serving.observed.seen import Seen

if TYPE_CHECKING:
    from serving.service import Service

PROTOCOL: Final = "grpc"
DRAIN_S: Final = 8.0
LEAST_S: Final = 0.5
_MOST_CALLS: Final = 1_000
_MOST_DETAILS: Final = 2_000
"""Details travel in a header of a bounded size."""
_CODES: Final[Mapping[int, str]] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}
_WATCH_S: Final = 1.0
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3
_SERVICES: Final = ("", "inference.GRPCInferenceService")
_log = logging.getLogger("perene.serving")


@dataclass(frozen=True, slots=True)
class Call:
    """One call: its message, who makes it and what its metadata say; `headers` are sent back as metadata."""

    request: Any
    size: int
    caller: Caller
    metadata: Mapping[str, str]
    request_id: str
    headers: dict[str, str]
    seen: Seen


@dataclass(frozen=True, slots=True)
class _Lane:
    """What calls share: the service, the end of it, and the work of shadows that is under way."""

    service: Service
    closing: asyncio.Event
    shadows: set[asyncio.Task[None]]


Method = Callable[[_Lane, Call], Awaitable[Any]]


@contextlib.asynccontextmanager
async def listening(service: Service, port: int) -> AsyncIterator[None]:
    """Serve while the block runs; calls in flight are answered before it ends.

    Raises:
        ConfigInvalid: the port cannot be bound.
    """
    import grpc.aio

    lane = _Lane(service, asyncio.Event(), set())
    most = service.settings.max_body_bytes
    options = [
        ("grpc.max_receive_message_length", most),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", int(service.settings.workers > 1)),
    ]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_MOST_CALLS)
    server.add_generic_rpc_handlers(_handlers(lane))
    host = service.settings.host
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigInvalid(
            f"serving.grpc_port = {port} cannot be bound", where="serving.grpc_port", hint="choose another port"
        ) from error
    await server.start()
    _log.info("serving.grpc", extra={"address": address})
    try:
        yield
    finally:
        lane.closing.set()
        # calls in flight went on while HTTP was drained: what is left of the time is theirs
        await server.stop(min(DRAIN_S, max(LEAST_S, service.ends_at - monotonic())))
        await asyncio.gather(*lane.shadows)


def _handlers(lane: _Lane) -> Any:
    import grpc

    def told(answer: Any) -> bytes:
        return bytes(answer.SerializeToString())

    inference = {
        name: grpc.unary_unary_rpc_method_handler(
            partial(_answer, lane, f"{name}Request", scope, method), response_serializer=told
        )
        for name, (scope, method) in METHODS.items()
    }
    health = {
        "Check": grpc.unary_unary_rpc_method_handler(
            partial(_answer, lane, "HealthCheckRequest", None, _check), response_serializer=told
        ),
        "Watch": grpc.unary_stream_rpc_method_handler(partial(_watch, lane), response_serializer=told),
    }
    return (
        grpc.method_handlers_generic_handler("inference.GRPCInferenceService", inference),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
    )


async def _answer(lane: _Lane, name: str, scope: str | None, method: Method, data: bytes, context: Any) -> Any:
    """Authentication first, then the method; errors become status codes here and nowhere else."""
    service = lane.service
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    request_id = request_id_of(metadata.get("x-request-id", ""))
    headers = {"x-request-id": request_id}
    seen = Seen(request_id, PROTOCOL, rpc=_rpc(name))
    named = ""
    service.metrics.requests_in_progress.inc()
    caller, entered = ANYBODY, False
    try:
        # the key before the message: a stranger's bytes are not looked at
        caller = ANYBODY if scope is None else service.allow(secret_of(metadata), scope, None)
        seen.key = caller.id
        await service.limits.admit(caller)
        entered = True
        request = parsed(name, data)
        named = getattr(request, "model_name", "") or getattr(request, "name", "")
        if named and scope is not None:
            caller.may_use(named)
        answer = await method(lane, Call(request, len(data), caller, metadata, request_id, headers, seen))
        if scope not in (None, "predict"):  # a prediction is counted with its version and arm
            _count(service, named, 200)
        failed: PereneError | None = None
    except PereneError as error:
        failed = error.with_traceback(None)  # else it holds this frame, and what it was raised in, and this frame it
    except Exception:  # a defect of ours: gRPC would send its text to the caller
        _log.exception("serving.failed", extra={"request_id": request_id})
        failed = InferenceFailed("the server failed on this call")
    finally:
        service.metrics.requests_in_progress.dec()
        if entered:
            service.limits.leave(caller)
    headers.update(service.limits.headers(caller))
    seen.model = named if named in service.table.models else ""
    seen.rpc_code = "OK" if failed is None else _code(failed).name
    service.observer.tell(seen, 200 if failed is None else status_of(failed), metadata)
    if failed is not None:
        await _refuse(service, named, failed, headers, context)
    await context.send_initial_metadata(tuple(headers.items()))
    return answer


async def _refuse(service: Service, named: str, error: PereneError, headers: dict[str, str], context: Any) -> None:
    status = status_of(error)
    _count(service, named, status)
    if status in (400, 413, 422):
        service.metrics.validation_errors_total.labels(kind=error.code).inc()
    elif isinstance(error, Limited | Overloaded):
        if isinstance(error, Limited):
            service.metrics.rejected_total.labels(reason=error.reason).inc()
        headers["retry-after"] = str(max(1, ceil(error.retry_after_s)))
    elif status >= 500:
        _log.error("serving.failed", extra={"code": error.code, "request_id": headers["x-request-id"]})
    await context.abort(_code(error), sentence(error)[:_MOST_DETAILS], tuple(headers.items()))


def _code(error: PereneError) -> Any:
    import grpc

    return grpc.StatusCode[_CODES.get(status_of(error), "INTERNAL")]


def _rpc(name: str) -> str:
    """Service and method of a request's message."""
    method = name.removesuffix("Request")
    return "grpc.health.v1.Health/Check" if method == "HealthCheck" else f"{_SERVICES[1]}/{method}"


def _count(service: Service, named: str, status: int) -> None:
    service.count(named if named in service.table.models else "", "", "", status, PROTOCOL)


async def _infer(lane: _Lane, call: Call) -> Any:
    began = perf_counter()
    service, request = lane.service, call.request
    model, pinned = find(service, request.model_name, request.model_version or None)
    model, pinned = await service.residents.ready(model, pinned)
    (pinned or model.champion).batcher.admit()
    infer = read_message(request, most_rows=service.settings.max_rows)

    def read(decoder: Decoder) -> Batch:
        check_outputs(decoder.contract.output, infer.outputs)
        told = about(call.metadata, infer.parameters)
        cells, count = cells_of(decoder.contract, infer.inputs)
        return read_table(decoder, cells, count, entity=told.entity, at=told.at)

    who = Who(call.caller.id, call.request_id, pinned, header=call.metadata.get)
    reading: Read = read
    if call.caller.limits is not None:
        reader = pinned or model.champion
        reading = await charged(service, call.caller, read, reader, heavy=call.size >= INLINE_BYTES)
    with service.residents.using(model.name):
        done = await service.plane.predict(model, reading, who, heavy=call.size >= INLINE_BYTES)
    encoding = perf_counter()
    version = str(done.version.version)
    call.headers.update({"x-model-name": model.name, "x-model-version": version, "x-prediction-id": done.ids[0]})
    if done.shadow is not None:
        # the loop keeps only a weak reference to a task
        task = asyncio.create_task(done.shadow())
        lane.shadows.add(task)
        task.add_done_callback(lane.shadows.discard)
    message = write_message(done, infer, outputs_of(done, infer.outputs))
    ended = perf_counter()
    service.meters.of(model.name, done.version.version, done.arm, PROTOCOL).answered(
        len(done.ids), done.parse_s, done.infer_s, ended - encoding, ended - began, done.queue_s
    )
    service.usage.of(call.caller.id).answered(len(done.ids), done.parse_s + done.infer_s + ended - encoding)
    call.seen.predicted(done, PROTOCOL, ended - encoding)
    return message


async def _live(_lane: _Lane, _call: Call) -> Any:
    return messages()["ServerLiveResponse"](live=True)


async def _ready(lane: _Lane, _call: Call) -> Any:
    return messages()["ServerReadyResponse"](ready=bool(lane.service.table.models))


async def _server(_lane: _Lane, _call: Call) -> Any:
    return messages()["ServerMetadataResponse"](name="perene", version=__version__, extensions=["model_repository"])


async def _model_ready(lane: _Lane, call: Call) -> Any:
    find(lane.service, call.request.name, call.request.version or None)
    return messages()["ModelReadyResponse"](ready=True)


async def _model(lane: _Lane, call: Call) -> Any:
    found = find(lane.service, call.request.name, call.request.version or None)
    return messages()["ModelMetadataResponse"](**model_metadata(*found))


async def _index(lane: _Lane, call: Call) -> Any:
    return messages()["RepositoryIndexResponse"](models=repository(lane.service.table, call.caller))


async def _moved_by_the_ledger(_lane: _Lane, _call: Call) -> Any:
    raise moved_by_the_ledger()


async def _check(lane: _Lane, call: Call) -> Any:
    status = _health(lane.service, call.request.service)
    if status == _SERVICE_UNKNOWN:
        raise ModelUnknown("there is no such service", where="service", expected=_SERVICES[1])
    return messages()["HealthCheckResponse"](status=status)


async def _watch(lane: _Lane, data: bytes, context: Any) -> AsyncIterator[Any]:
    """The status now, and whenever it changes, until the server ends."""
    try:
        name = parsed("HealthCheckRequest", data).service
    except PereneError as error:
        await _refuse(lane.service, "", error, {"x-request-id": request_id_of("")}, context)
        return
    last = -1
    while not lane.closing.is_set() and not context.cancelled():
        status = _health(lane.service, name)
        if status != last:
            yield messages()["HealthCheckResponse"](status=status)
            last = status
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WATCH_S):
                await lane.closing.wait()


def _health(service: Service, name: str) -> int:
    if name not in _SERVICES:
        return _SERVICE_UNKNOWN
    return _SERVING if service.table.models else _NOT_SERVING


METHODS: Final[Mapping[str, tuple[str | None, Method]]] = {
    "ServerLive": (None, _live),
    "ServerReady": (None, _ready),
    "ServerMetadata": ("read", _server),
    "ModelReady": ("read", _model_ready),
    "ModelMetadata": ("read", _model),
    "ModelInfer": ("predict", _infer),
    "RepositoryIndex": ("read", _index),
    "RepositoryModelLoad": ("admin", _moved_by_the_ledger),
    "RepositoryModelUnload": ("admin", _moved_by_the_ledger),
}
"""The scope that each call needs (None: no key), and what answers it."""
