"""The part of the OpenAPI document that tells of the dialects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from registry.contract import Contract
from serving.dialects import columns, mlflow
from serving.dialects.tensors import TYPES, input_types
from serving.loaded.models import Model, Table

ERRORS: Final = {
    "ErrorText": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
    "ErrorCoded": {
        "type": "object",
        "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
        "required": ["error_code", "message"],
    },
}
"""Errors in words of the dialects that have others than Perene's."""
_READ: Final = ("401", "403", "404")


def _of(**properties: Any) -> dict[str, Any]:
    """An object that always has these properties."""
    return {"type": "object", "required": list(properties), "properties": properties}


_WORD: Final = {"type": "string"}
_LIST: Final = {"type": "array"}
_TENSOR: Final = _of(name=_WORD, datatype={"enum": list(TYPES)}, shape={"type": "array", "items": {"type": "integer"}})
_TENSORS: Final = {"type": "array", "items": _TENSOR}
_IDS: Final = {"type": "array", "items": {"type": "string", "format": "uuid"}}
_INFERRED: Final = _of(model_name=_WORD, model_version=_WORD, parameters={"type": "object"}, outputs=_TENSORS)
_PREDICTED: Final = {"oneOf": [_of(predictions=_LIST, prediction_ids=_IDS), _of(outputs=_LIST, prediction_ids=_IDS)]}


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
    plain, ready = {"text/plain": {"schema": _WORD}}, {"200": "Yes.", "503": "Not yet."}
    yield "/version", {"get": _open("mlflow_version", {"200": "Yes."}, plain)}
    for path in ("/ping", "/health"):
        yield path, {"get": _open(path[1:], ready, plain)}
    live = {"application/json": {"schema": _of(live={"type": "boolean"})}}
    yield "/v2/health/live", {"get": _open("v2_live", {"200": "Yes."}, live)}
    able = {"application/json": {"schema": _of(ready={"type": "boolean"})}}
    yield "/v2/health/ready", {"get": _open("v2_health_ready", ready, able)}
    forbidden = {code: statuses[code] for code in ("401", "403")}
    server = _of(name=_WORD, version=_WORD, extensions=_LIST)
    yield "/v2", {"get": _operation("v2", "The server", forbidden, server)}
    yield "/v1/models", {"get": _operation("v1_models", "Deployed models", forbidden, _of(models=_LIST))}
    yield "/v2/repository/index", {"post": _operation("v2_index", "What is loaded", forbidden, _LIST)}
    frame = {
        "type": "object",
        "oneOf": [{"required": [name]} for name in mlflow.FORMS],
        "properties": {
            "dataframe_split": _of(columns={"type": "array", "items": _WORD}, data={"type": "array", "items": _LIST}),
            "dataframe_records": {"type": "array", "minItems": 1, "items": {"type": "object"}},
            "instances": {"type": "array", "minItems": 1},
            "inputs": {"type": ["array", "object"]},
            "params": {"type": ["object", "null"], "properties": _about()},
        },
    }
    bodies = {"application/json": {"schema": frame}, **_binary(mlflow.CSV, *columns.MEDIA)}
    invoke = _operation("invocations", "Predict with the default model, as MLflow's scorer does", statuses, _PREDICTED)
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
        told = _of(name=_WORD, versions=_LIST, platform=_WORD, inputs=_TENSORS, outputs=_TENSORS)
        yield path, {"get": _operation(identifier, "Inputs and outputs", read, told)}
        ready = _of(name=_WORD, ready={"type": "boolean"})
        yield f"{path}/ready", {"get": _operation(f"{identifier}_ready", "Whether it is loaded", read, ready)}
        infer = _operation(f"{identifier}_infer", "Open Inference Protocol v2", statuses, _INFERRED)
        infer["responses"]["200"]["content"].update(_binary("application/octet-stream"))
        yield f"{path}/infer", {"post": {**infer, "requestBody": _infer_body(contract)}}
    for pin, suffix in pins + labels:
        path, identifier = f"/v1/models/{name}{pin}", f"v1_{name}{suffix}"
        state = _of(name=_WORD, ready={"type": "boolean"}, model_version_status=_LIST)
        yield path, {"get": _operation(identifier, "Its versions", read, state)}
        predict = _operation(f"{identifier}_predict", "KServe v1 and TensorFlow Serving", statuses, _PREDICTED)
        yield f"{path}:predict", {"post": {**predict, "requestBody": _rows_body(name, contract)}}
    refused = {code: statuses[code] for code in ("401", "403")}
    for verb in ("load", "unload"):
        operation = _operation(f"v2_{name}_{verb}", "Always refused: the ledger says what is served", refused, _LIST)
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
            "parameters": {"type": "object", "properties": _about()},
            "id": {"type": ["string", "null"]},
        },
    }
    row = contract.example_row()
    inputs = [{"name": n, "datatype": kind, "shape": [1], "data": [row[n]]} for n, kind, _ in input_types(contract)]
    content = {"application/json": {"schema": schema, "example": {"inputs": inputs}}}
    return {"required": True, "content": {**content, **_binary("application/octet-stream")}}


def _rows_body(name: str, contract: Contract) -> dict[str, Any]:
    row = {"$ref": f"#/components/schemas/{name}.Row"}
    width = len(contract.columns)
    cells = {"type": "array", "minItems": width, "maxItems": width, "description": "values in the contract's order"}
    rows: list[dict[str, Any]] = [{"type": "array", "minItems": 1, "items": kind} for kind in (row, cells)]
    if width == 1:
        rows.append({"type": "array", "minItems": 1})
    columns = {"type": "object", "description": "columns by name, each a list of values, all equally long"}
    parts = {
        "parameters": {"type": ["object", "null"], "properties": _about()},
        "signature_name": {"enum": ["serving_default"]},
    }
    schema = {
        "type": "object",
        "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
        "properties": {"instances": {"anyOf": rows}, "inputs": {"anyOf": [*rows, columns]}, **parts},
    }
    example = {"instances": [contract.example_row()]}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def _about() -> dict[str, Any]:
    """Perene's `entity` and `at`, among the parameters of the other dialects."""
    text = ["string", "null"]
    return {"entity": {"type": text}, "at": {"type": text, "format": "date-time"}}


def _binary(*media: str) -> dict[str, Any]:
    return {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media}


def _open(identifier: str, answers: Mapping[str, str], content: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": identifier,
        "security": [],
        "responses": {code: {"description": text, "content": content} for code, text in answers.items()},
    }


def _operation(identifier: str, summary: str, statuses: Mapping[str, str], done: dict[str, Any]) -> dict[str, Any]:
    """An operation whose good answer has the schema `done`; `serving.described` completes the others."""
    errors = {code: {"description": text} for code, text in statuses.items()}
    good = {"200": {"description": "Done.", "content": {"application/json": {"schema": done}}}}
    return {"operationId": identifier, "summary": summary, "responses": {**good, **errors}}
