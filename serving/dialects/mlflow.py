"""MLflow's scoring protocol, version 3: what `mlflow models serve` takes and answers, without MLflow."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from registry import __version__
from registry.errors import ContractViolation, FieldError
from serving.access.auth import Caller
from serving.answering import Asked, Reply, prediction
from serving.dataplane import Predicted
from serving.decode import Batch, Decoder
from serving.dialects import columns
from serving.dialects.csv_rows import read_csv
from serving.dialects.dialect import MLFLOW, about
from serving.dialects.json_rows import parse, read_columns, read_rows
from serving.dialects.kserve import answer
from serving.dialects.tabular import check_count
from serving.dialects.tensors import check_inputs
from serving.errors import Malformed
from serving.wire.body import JSON

if TYPE_CHECKING:
    from serving.dialects import Add, Handler
    from serving.service import Service

CSV = "text/csv"
TEXT = "text/plain"
"""MLflow says that these are JSON, which they are not."""
FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")


def mount(add: Add, service: Service) -> None:
    """Add the routes."""
    understand = partial(_understand, service.settings.max_rows)
    add("/invocations", "POST", "predict", prediction(service, understand, (JSON, CSV, *columns.MEDIA)), MLFLOW)
    add("/ping", "GET", None, _ping(service), MLFLOW)
    add("/health", "GET", None, _ping(service), MLFLOW)
    add("/version", "GET", None, _version, MLFLOW)


def _understand(most_rows: int, data: bytes, media: str, request: Request) -> Asked:
    if media in columns.MEDIA:
        return columns.asked(data, media, request, mode="mlflow", protocol=MLFLOW.protocol)
    body = cache(lambda: parse(data, most_rows=most_rows, nan=True))

    def read(decoder: Decoder) -> Batch:
        if media == CSV:
            who = about(request.headers)
            return read_csv(decoder, data, entity=who.entity, at=who.at)
        return _read(decoder, body(), request)

    return Asked(read, _reply, protocol=MLFLOW.protocol)


def _read(decoder: Decoder, body: dict[str, Any], request: Request) -> Batch:
    named = [name for name in FORMS if name in body]
    if len(named) != 1:
        raise Malformed("none or several of the forms of rows", where="body", expected=f"one of {', '.join(FORMS)}")
    who = about(request.headers, body.get("params"))
    rows = body[named[0]]
    if named[0] == "dataframe_split":
        rows = _split(rows, decoder)
    as_columns = named[0] in ("dataframe_split", "inputs") and isinstance(rows, dict)
    read = partial(read_columns if as_columns else read_rows, decoder, rows, mode="mlflow")
    return read(entity=who.entity, at=who.at)


def _split(frame: Any, decoder: Decoder) -> dict[str, Any]:
    """pandas' `split` form as columns by name."""
    names = frame.get("columns") if isinstance(frame, dict) else None
    rows = frame.get("data") if isinstance(frame, dict) else None
    check_inputs(len(names) if isinstance(names, list) else 0)
    if (
        not isinstance(names, list)
        or not isinstance(rows, list)
        or not all(isinstance(name, str) for name in names)
        or len(set(names)) != len(names)
    ):
        error = FieldError("dataframe_split", "of the wrong form", '{"columns": [names, each once], "data": [rows]}')
        raise ContractViolation(f"{error.path}: {error.message}", errors=(error,))
    check_count(decoder, max(1, len(rows)))
    ragged = [n for n, row in enumerate(rows) if not isinstance(row, list) or len(row) != len(names)]
    if ragged:
        errors = tuple(FieldError(f"rows[{n}]", "of another length", f"{len(names)} values") for n in ragged[:20])
        raise ContractViolation(f"{errors[0].path}: {errors[0].message}", errors=errors)
    if not rows:
        return {name: [] for name in names}
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _reply(done: Predicted) -> Reply:
    return Reply(msgspec.json.encode(answer(done, "predictions")))


def _ping(service: Service) -> Handler:
    async def handler(_request: Request, _caller: Caller, request_id: str) -> Response:
        return Response("\n", 200 if service.table.models else 503, {"x-request-id": request_id}, TEXT)

    return handler


async def _version(_request: Request, _caller: Caller, request_id: str) -> Response:
    return Response(__version__, 200, {"x-request-id": request_id}, TEXT)
