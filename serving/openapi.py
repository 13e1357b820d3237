"""The OpenAPI document of what is deployed now: typed rows, ranges, an example row, every status."""

from __future__ import annotations

from typing import Any

from registry.contract import Contract
from serving.dialects import documented
from serving.models import Table

_STATUSES = {
    "400": "Not JSON, or not the JSON of this route.",
    "401": "No valid key.",
    "403": "The key does not permit this.",
    "404": "No such model or version.",
    "413": "The body or its number of rows is over the limit.",
    "415": "The body is of a type that this route does not read.",
    "422": "The rows do not satisfy the contract.",
    "500": "The model failed, or its answer is not a finite number.",
    "503": "Not ready.",
}


def document(table: Table, version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document with one operation per route and deployed model."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Error": _error_schema()}
    for name, model in sorted(table.models.items()):
        contract = model.champion.contract
        schemas[f"{name}.Row"] = contract.json_schema()
        operation = _predict(name, contract, model.champion.version)
        paths[f"/models/{name}/predict"] = {"post": operation}
        paths[f"/models/{name}/feedback"] = {"post": _feedback(name, contract)}
        for part in ("", "/schema", "/card"):
            paths[f"/models/{name}{part}"] = {"get": _read(name, part)}
        for number in sorted(model.versions):
            pinned = {
                **operation,
                "operationId": f"predict_{name}_{number}",
                "summary": f"Predict with version {number}",
            }
            paths[f"/models/{name}/versions/{number}/predict"] = {"post": pinned}
    if len(table.models) == 1:
        alone = next(iter(sorted(table.models)))
        for part in ("predict", "feedback"):
            only = paths[f"/models/{alone}/{part}"]["post"]
            paths[f"/{part}"] = {"post": {**only, "operationId": part}}
    paths["/models"] = {"get": _read("", "")}
    for path in ("/livez", "/readyz", "/metrics"):
        answers = {"200": {"description": "Yes."}}
        if path == "/readyz":
            answers["503"] = {"description": "Not yet; add ?verbose to learn why."}
        paths[path] = {"get": {"operationId": path[1:], "security": [], "responses": answers}}
    paths.update(documented.paths(table, _STATUSES))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Perene", "version": version, "description": "Predictions, and what became of them."},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{"bearer": []}, {"header": []}],
    }


def _predict(name: str, contract: Contract, version: int) -> dict[str, Any]:
    value = _value(contract)
    answer: dict[str, Any] = {
        "model": {"type": "string"},
        "version": {"type": "integer"},
        "arm": {"enum": ["champion", "candidate", "pinned"]},
        "predictions": {"type": "array", "items": _several(value, len(contract.output.targets))},
        "prediction_ids": {"type": "array", "items": {"type": "string", "format": "uuid"}},
    }
    if contract.output.classes:
        numbers = {"type": "array", "items": {"type": "number"}}
        answer["scores" if contract.output.scores else "probabilities"] = {"type": "array", "items": numbers}
    row = {"$ref": f"#/components/schemas/{name}.Row"}
    body = {
        "type": "object",
        "required": ["rows"],
        "additionalProperties": False,
        "properties": {
            "rows": {"type": "array", "minItems": 1, "items": row},
            "entity": {"type": "string", "description": "whom the rows are about; keeps an entity on one arm"},
            "at": {"type": "string", "format": "date-time", "description": "the event's own time, when not now"},
            "params": {"type": "object"},
        },
    }
    return {
        "operationId": f"predict_{name}",
        "summary": f"Predict with {name} (champion: version {version})",
        "requestBody": documented.with_tables(
            _json({"oneOf": [body, row]}, {"rows": [contract.example_row()]}, required=True)
        ),
        "responses": documented.with_arrow(_responses({"type": "object", "properties": answer})),
    }


def _feedback(name: str, contract: Contract) -> dict[str, Any]:
    item = {
        "type": "object",
        "required": ["prediction_id", "label"],
        "properties": {
            "prediction_id": {"type": "string", "format": "uuid"},
            "label": _value(contract),
            "at": {"type": "string", "format": "date-time"},
        },
    }
    result = {"type": "object", "properties": {"results": {"type": "array", "items": {"type": "object"}}}}
    return {
        "operationId": f"feedback_{name}",
        "summary": f"Say what really happened after a prediction of {name}",
        "requestBody": _json({"type": "array", "minItems": 1, "items": item}, None, required=True),
        "responses": _responses(result),
    }


def _read(name: str, part: str) -> dict[str, Any]:
    what = f"read_{name}{part.replace('/', '_')}" if name else "list_models"
    statuses = {code: text for code, text in _STATUSES.items() if code in ("401", "403", "404")}
    return {
        "operationId": what,
        "responses": {"200": {"description": "What was asked for."}, **_errors(statuses)},
    }


def _several(value: dict[str, Any], targets: int) -> dict[str, Any]:
    return {"type": "array", "items": value, "minItems": targets, "maxItems": targets} if targets else value


def _value(contract: Contract) -> dict[str, Any]:
    if contract.output.classes:
        return {"enum": list(contract.output.classes)}
    return {"type": "number"}


def _responses(schema: dict[str, Any]) -> dict[str, Any]:
    return {"200": {"description": "Done.", **_json(schema, None)}, **_errors(_STATUSES)}


def _errors(statuses: dict[str, str]) -> dict[str, Any]:
    reference = _json({"$ref": "#/components/schemas/Error"}, None)
    return {code: {"description": text, **reference} for code, text in statuses.items()}


def _json(schema: dict[str, Any], example: Any, *, required: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"content": {"application/json": content}, **({"required": True} if required else {})}


def _error_schema() -> dict[str, Any]:
    names = ("code", "message", "where", "expected", "got", "hint", "request_id", "docs")
    inner = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    return {"type": "object", "properties": {"error": inner}, "required": ["error"]}
