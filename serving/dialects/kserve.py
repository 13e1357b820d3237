"""KServe v1, which TensorFlow Serving speaks too: `instances` by rows, `inputs` by columns."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from registry.errors import ContractViolation, FieldError
from serving.access.auth import Caller
from serving.answering import Asked, Reply, find, prediction
from serving.dataplane import Predicted
from serving.decode import Batch, Decoder
from serving.dialects.dialect import KSERVE, about
from serving.dialects.json_rows import parse, read_columns, read_rows
from serving.errors import Malformed
from serving.wire.body import JSON

if TYPE_CHECKING:
    from serving.dialects import Add, Handler
    from serving.service import Service

_FORMS = ("instances", "inputs")


def mount(add: Add, service: Service) -> None:
    """Add the routes."""
    register_url_convertor("word", _Word())
    predict, model = prediction(service, partial(_understand, service.settings.max_rows)), "/v1/models/{model:word}"
    for path in (model, model + "/versions/{version:word}", model + "/labels/{alias:word}"):
        add(f"{path}:predict", "POST", "predict", predict, KSERVE)
        add(path, "GET", "read", _status(service), KSERVE)
    add("/v1/models", "GET", "read", _list(service), KSERVE)


class _Word(StringConvertor):
    """A part of a path up to the colon of a verb: `GET …/m:predict` asks for no model of that name."""

    regex = "[^/:]+"


def _understand(most_rows: int, data: bytes, _media: str, request: Request) -> Asked:
    body = cache(lambda: form(parse(data, most_rows=most_rows)))

    def read(decoder: Decoder) -> Batch:
        name, rows, parameters = body()
        who = about(request.headers, parameters)
        if name == "inputs" and isinstance(rows, dict):
            return read_columns(decoder, rows, entity=who.entity, at=who.at)
        return read_rows(decoder, rows, entity=who.entity, at=who.at)

    def reply(done: Predicted) -> Reply:
        return Reply(msgspec.json.encode(answer(done, "predictions" if body()[0] == "instances" else "outputs")))

    return Asked(read, reply, protocol=KSERVE.protocol)


def form(body: dict[str, Any]) -> tuple[str, Any, Any]:
    """Which of the two forms a body has, its rows or columns, and its parameters.

    Raises:
        Malformed: neither, or both.
        ContractViolation: a signature that there is not.
    """
    named = [name for name in _FORMS if name in body]
    if len(named) != 1:
        raise Malformed("neither rows nor columns", where="body", expected="instances or inputs, one of them")
    if body.get("signature_name", "serving_default") != "serving_default":
        error = FieldError("signature_name", "there is one signature only", "serving_default, or nothing")
        raise ContractViolation(f"{error.path}: {error.message}", errors=(error,))
    return named[0], body[named[0]], body.get("parameters")


def answer(done: Predicted, name: str) -> dict[str, Any]:
    """Predictions under `name`, with the numbers that a classification has beside them and the ids for feedback."""
    body: dict[str, Any] = {name: done.answer.predictions}
    if done.answer.scores is not None:
        body["scores"] = done.answer.scores
    elif done.version.contract.output.classes:
        body["probabilities"] = done.answer.values
    body["prediction_ids"] = done.ids
    return body


def _list(service: Service) -> Handler:
    async def handler(_request: Request, caller: Caller, request_id: str) -> Response:
        names = [name for name in sorted(service.table.models) if not caller.models or name in caller.models]
        return _json({"models": names}, request_id)

    return handler


def _status(service: Service) -> Handler:
    async def handler(request: Request, _caller: Caller, request_id: str) -> Response:
        parts = request.path_params
        model, pinned = find(service, parts["model"], parts.get("version"), parts.get("alias"))
        shown = [pinned.version] if pinned is not None else sorted(model.versions)
        fine = {"error_code": "OK", "error_message": ""}
        states = [{"version": str(number), "state": "AVAILABLE", "status": fine} for number in shown]
        return _json({"name": model.name, "ready": True, "model_version_status": states}, request_id)

    return handler


def _json(value: Any, request_id: str) -> Response:
    return Response(msgspec.json.encode(value), 200, {"x-request-id": request_id}, JSON)
