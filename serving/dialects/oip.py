"""Open Inference Protocol v2 over HTTP, with its extension for binary tensors."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from registry import __version__
from registry.errors import NotAllowed
from serving.access.auth import Caller
from serving.answering import Asked, Reply, find, prediction
from serving.dataplane import Predicted
from serving.decode import Batch, Decoder
from serving.dialects.dialect import OIP, about
from serving.dialects.oip_body import read_infer, write_infer
from serving.dialects.tabular import read_table
from serving.dialects.tensors import cells_of, check_outputs, input_types, output_types, outputs_of
from serving.loaded.models import Model, Table, Version
from serving.wire.body import JSON

if TYPE_CHECKING:
    from serving.dialects import Add, Handler
    from serving.service import Service

EXTENSIONS: Final = ("binary_tensor_data", "model_repository")
# tritonclient names no media type when the body is JSON alone, nor when bytes follow it
_MEDIA: Final = (JSON, "application/octet-stream", "application/vnd.sagemaker-triton.binary+json", "")
_LENGTH: Final = "inference-header-content-length"


def mount(add: Add, service: Service) -> None:
    """Add the routes."""
    understand = partial(_understand, service.settings.max_rows)
    infer, model = prediction(service, understand, _MEDIA), "/v2/models/{model}"
    for path in (model, model + "/versions/{version}"):
        add(f"{path}/infer", "POST", "predict", infer, OIP)
        add(f"{path}/ready", "GET", "read", _ready(service), OIP)
        add(path, "GET", "read", _metadata(service), OIP)
    add("/v2", "GET", "read", _server, OIP)
    add("/v2/health/live", "GET", None, _live, OIP)
    add("/v2/health/ready", "GET", None, _server_ready(service), OIP)
    add("/v2/repository/index", "POST", "read", _index(service), OIP)
    for verb in ("load", "unload"):
        add(f"/v2/repository/models/{{model}}/{verb}", "POST", "admin", _move, OIP)


def _understand(most_rows: int, data: bytes, _media: str, request: Request) -> Asked:
    infer = cache(lambda: read_infer(data, request.headers.get(_LENGTH), most_rows=most_rows))

    def read(decoder: Decoder) -> Batch:
        asked = infer()
        check_outputs(decoder.contract.output, asked.outputs)
        who = about(request.headers, asked.parameters)
        cells, count = cells_of(decoder.contract, asked.inputs)
        return read_table(decoder, cells, count, entity=who.entity, at=who.at)

    def reply(done: Predicted) -> Reply:
        body, length = write_infer(done, infer(), outputs_of(done, infer().outputs))
        if length is None:
            return Reply(body)
        return Reply(body, "application/octet-stream", {_LENGTH: str(length)})

    return Asked(read, reply, protocol=OIP.protocol)


def model_metadata(model: Model, version: Version | None) -> dict[str, Any]:
    """What a model takes and answers."""
    shown = version or model.champion
    keys = ("name", "datatype", "shape")
    return {
        "name": model.name,
        "versions": [str(number) for number in sorted(model.versions)],
        "platform": "perene_native" if shown.engine.provider == "native" else "onnxruntime_onnx",
        "inputs": [dict(zip(keys, told, strict=True)) for told in input_types(shown.contract)],
        "outputs": [dict(zip(keys, told, strict=True)) for told in output_types(shown.contract.output)],
    }


def repository(table: Table, caller: Caller) -> list[dict[str, str]]:
    """Each version that is loaded, and each that could not be, as far as the caller may see the model."""
    loaded = [
        {"name": name, "version": str(number), "state": "READY", "reason": ""}
        for name, model in sorted(table.models.items())
        for number in sorted(model.versions)
    ]
    failed = [
        {"name": failure.model, "version": str(failure.version), "state": "UNAVAILABLE", "reason": failure.reason}
        for failure in table.failures
    ]
    return [told for told in loaded + failed if not caller.models or told["name"] in caller.models]


def _metadata(service: Service) -> Handler:
    async def handler(request: Request, _caller: Caller, request_id: str) -> Response:
        parts = request.path_params
        return _json(model_metadata(*find(service, parts["model"], parts.get("version"))), request_id)

    return handler


def _ready(service: Service) -> Handler:
    async def handler(request: Request, _caller: Caller, request_id: str) -> Response:
        parts = request.path_params
        model, _ = find(service, parts["model"], parts.get("version"))
        return _json({"name": model.name, "ready": True}, request_id)

    return handler


async def _server(_request: Request, _caller: Caller, request_id: str) -> Response:
    return _json({"name": "perene", "version": __version__, "extensions": EXTENSIONS}, request_id)


async def _live(_request: Request, _caller: Caller, request_id: str) -> Response:
    return _json({"live": True}, request_id)


def _server_ready(service: Service) -> Handler:
    async def handler(_request: Request, _caller: Caller, request_id: str) -> Response:
        ready = bool(service.table.models)
        return _json({"ready": ready}, request_id, status=200 if ready else 503)

    return handler


def _index(service: Service) -> Handler:
    async def handler(_request: Request, caller: Caller, request_id: str) -> Response:
        return _json(repository(service.table, caller), request_id)

    return handler


def moved_by_the_ledger() -> NotAllowed:
    """Why a caller can neither load nor unload a model."""
    return NotAllowed(
        "what is served is what the ledger says, not what a caller loads",
        where="repository",
        hint="perene promote and perene rollback move a model, with an entry in its history",
    )


async def _move(_request: Request, _caller: Caller, _request_id: str) -> Response:
    raise moved_by_the_ledger()


def _json(value: Any, request_id: str, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, {"x-request-id": request_id}, JSON)
