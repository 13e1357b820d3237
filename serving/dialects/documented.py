"""The part of the OpenAPI document that tells of the dialects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from registry.contract import Contract
from serving.dialects import columns, mlflow
from serving.dialects.tensors import TYPES, input_types
from serving.models import Model, Table

_TEXT: Final = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_CODED: Final = {
    "type": "object",
    "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
    "required": ["error_code", "message"],
}
_READ: Final = ("401", "403", "404")
_FINE: Final = {"type": "object"}


def paths(table: Table, statuses: Mapping[str, str]) -> dict[str, Any]:
    """The path items of every dialect, each operation with every status that it can have."""
    found = dict(_server(statuses))
    for name, model in sorted(table.models.items()):
        found.update(_model(name, model, statuses))
    return found


def with_tables(body: dict[str, Any]) -> dict[str, Any]:
    """A request's body that may be a table instead."""
    return {**body, "content": {**body["content"], **_binary(*columns.MEDIA)}}


def with_arrow(responses: dict[str, Any]) -> dict[str, Any]:
    """Responses of which the good one may be an Arrow stream instead."""
    done = responses["200"]
    return {**responses, "200": {**done, "content": {**done["content"], **_binary(columns.ARROW)}}}


def _server(statuses: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    for path, operation in (("/v2/health/live", "v2_live"), ("/version", "mlflow_version")):
        yield path, {"get": _open(operation, {"200": "Yes."})}
    for path in ("/v2/health/ready", "/ping", "/health"):
        yield path, {"get": _open(path[1:].replace("/", "_"), {"200": "Yes.", "503": "Not yet."})}
    forbidden = {code: statuses[code] for code in ("401", "403")}
    yield "/v2", {"get": _operation("v2", "The server", forbidden, _TEXT)}
    yield "/v1/models", {"get": _operation("v1_models", "Deployed models", forbidden, _TEXT)}
    yield "/v2/repository/index", {"post": _operation("v2_index", "What is loaded", forbidden, _TEXT)}
    frame = {"type": "object", "description": f"one of {', '.join(mlflow.FORMS)}, and params"}
    bodies = {"application/json": {"schema": frame}, **_binary(mlflow.CSV, *columns.MEDIA)}
    invoke = _operation("invocations", "Predict with the default model, as MLflow's scorer does", statuses, _CODED)
    yield "/invocations", {"post": {**invoke, "requestBody": {"required": True, "content": bodies}}}


def _model(name: str, model: Model, statuses: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    read = {code: statuses[code] for code in _READ}
    contract = model.champion.contract
    pins = [("", ""), *((f"/versions/{number}", f"_{number}") for number in sorted(model.versions))]
    labels = [("/labels/champion", "_champion")]
    if model.route.candidate in model.versions:
        labels.append(("/labels/candidate", "_candidate"))
    for pin, suffix in pins:
        path, identifier = f"/v2/models/{name}{pin}", f"v2_{name}{suffix}"
        yield path, {"get": _operation(identifier, "Inputs and outputs", read, _TEXT)}
        yield f"{path}/ready", {"get": _operation(f"{identifier}_ready", "Whether it is loaded", read, _TEXT)}
        infer = _operation(f"{identifier}_infer", "Open Inference Protocol v2", statuses, _TEXT)
        yield f"{path}/infer", {"post": {**infer, "requestBody": _infer_body(contract)}}
    for pin, suffix in pins + labels:
        path, identifier = f"/v1/models/{name}{pin}", f"v1_{name}{suffix}"
        yield path, {"get": _operation(identifier, "Its versions", read, _TEXT)}
        predict = _operation(f"{identifier}_predict", "KServe v1 and TensorFlow Serving", statuses, _TEXT)
        yield f"{path}:predict", {"post": {**predict, "requestBody": _rows_body(name, contract)}}
    refused = {code: statuses[code] for code in ("401", "403")}
    for verb in ("load", "unload"):
        operation = _operation(f"v2_{name}_{verb}", "Always refused: the ledger says what is served", refused, _TEXT)
        del operation["responses"]["200"]
        yield f"/v2/repository/models/{name}/{verb}", {"post": operation}


def _infer_body(contract: Contract) -> dict[str, Any]:
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "datatype": {"enum": list(TYPES)},
            "parameters": {"type": "object"},
            "data": {"type": "array"},
        },
    }
    asked = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    schema = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "inputs": {"type": "array", "minItems": 1, "items": tensor},
            "outputs": {"type": "array", "items": asked},
            "parameters": {"type": "object"},
            "id": {"type": "string"},
        },
    }
    row = contract.example_row()
    inputs = [{"name": n, "datatype": kind, "shape": [1], "data": [row[n]]} for n, kind, _ in input_types(contract)]
    content = {"application/json": {"schema": schema, "example": {"inputs": inputs}}}
    return {"required": True, "content": {**content, **_binary("application/octet-stream")}}


def _rows_body(name: str, contract: Contract) -> dict[str, Any]:
    row = {"$ref": f"#/components/schemas/{name}.Row"}
    schema = {
        "type": "object",
        "properties": {
            "instances": {"type": "array", "minItems": 1, "items": {"oneOf": [row, {"type": "array"}]}},
            "inputs": {"description": "columns by name, or rows"},
            "parameters": {"type": "object"},
        },
    }
    example = {"instances": [contract.example_row()]}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def _binary(*media: str) -> dict[str, Any]:
    return {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media}


def _open(identifier: str, answers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "operationId": identifier,
        "security": [],
        "responses": {code: {"description": text} for code, text in answers.items()},
    }


def _operation(identifier: str, summary: str, statuses: Mapping[str, str], error: dict[str, Any]) -> dict[str, Any]:
    errors = {
        code: {"description": text, "content": {"application/json": {"schema": error}}}
        for code, text in statuses.items()
    }
    done = {"200": {"description": "Done.", "content": {"application/json": {"schema": _FINE}}}}
    return {"operationId": identifier, "summary": summary, "responses": {**done, **errors}}
