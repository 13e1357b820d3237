"""The OpenAPI document of what is deployed now: typed rows, ranges, an example row, every status."""

from __future__ import annotations

import re
from typing import Any, Final

from registry.contract import EXACT_INT, Contract
from serving.described import STATUSES, described, headers, parameters, problem_schema
from serving.dialects import documented
from serving.errors import MAX_FIELD_ERRORS
from serving.experiments.documented import SCHEMAS as EXPERIMENTS
from serving.experiments.documented import experiment_paths
from serving.explanations.documented import SCHEMAS as EXPLANATIONS
from serving.explanations.documented import explain_path
from serving.jobs.documented import SCHEMAS, deferred, job_paths
from serving.labels import MOST_OUTCOMES
from serving.loaded.models import Table
from serving.wire.body import JSON

_BEYOND_FLOAT32: Final = (2 - 2**-24) * 2.0**127
"""The least number that is rounded to infinity."""
_REASON = ("code", "message", "expected", "got")


def document(table: Table, version: str, default_model: str | None = None) -> dict[str, Any]:
    """An OpenAPI 3.1 document with one operation per route and deployed model."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Error": _error_schema(), "Problem": problem_schema(), "Results": _results()}
    schemas.update(documented.ERRORS)
    schemas.update({**SCHEMAS, **EXPLANATIONS, **EXPERIMENTS})
    for name, model in sorted(table.models.items()):
        contract = model.champion.contract
        schemas[f"{name}.Row"] = _row(contract)
        schemas[f"{name}.Answer"] = _answer(contract)
        schemas[f"{name}.Label"] = _label(contract)
        operation = _predict(name, contract, model.champion.version)
        paths[f"/models/{name}/predict"] = {"post": operation}
        paths |= job_paths(name)
        paths[f"/models/{name}/explain"] = explain_path(name, operation["requestBody"]["content"][JSON])
        paths[f"/models/{name}/feedback"] = {"post": _feedback(name)}
        paths |= experiment_paths(name)
        for part in ("", "/schema", "/card"):
            paths[f"/models/{name}{part}"] = {"get": _read(name, part)}
        for number in sorted(model.versions):
            pinned = {
                **operation,
                "operationId": f"predict_{name}_{number}",
                "summary": f"Predict with version {number}",
                "responses": {c: r for c, r in operation["responses"].items() if c not in ("202", "507")},
            }
            paths[f"/models/{name}/versions/{number}/predict"] = {"post": pinned}
    if len(table.models) == 1 or default_model in table.models:
        alone = default_model if default_model in table.models else next(iter(table.models))
        paths["/predict"] = {"post": {**paths[f"/models/{alone}/predict"]["post"], "operationId": "predict"}}
    if table.models:
        paths["/feedback"] = {"post": {**_feedback(*sorted(table.models), named=True), "operationId": "feedback"}}
    paths |= job_paths("")
    paths["/models"] = {"get": _read("", "")}
    paths.update(_open())
    paths.update(documented.paths(table, STATUSES))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Perene", "version": version, "description": "Predictions, and what became of them."},
        "paths": _identified(described(paths)),
        "components": {
            "schemas": schemas,
            "headers": headers(),
            "parameters": parameters(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{"bearer": []}, {"header": []}],
    }


def _predict(name: str, contract: Contract, version: int) -> dict[str, Any]:
    row = {"$ref": f"#/components/schemas/{name}.Row"}
    body = {
        "type": "object",
        "required": ["rows"],
        "additionalProperties": False,
        "properties": {
            "rows": {"type": "array", "minItems": 1, "items": row},
            "entity": {
                "type": ["string", "null"],
                "description": "whom the rows are about; keeps an entity on one arm",
            },
            "at": {
                "type": ["string", "null"],
                "format": "date-time",
                "description": "the event's own time, when not now; since 1900, and at most a day ahead",
            },
            "params": {"type": ["object", "null"]},
        },
    }
    responses = documented.with_arrow(_responses({"$ref": f"#/components/schemas/{name}.Answer"}))
    responses["200"]["links"] = {"feedback": _link(name, contract)}
    responses |= deferred()
    return {
        "operationId": f"predict_{name}",
        "summary": f"Predict with {name} (champion: version {version})",
        "requestBody": documented.with_tables(
            _json({"oneOf": [body, row]}, {"rows": [contract.example_row()]}, required=True)
        ),
        "responses": responses,
    }


def _link(name: str, contract: Contract) -> dict[str, Any]:
    """What an answer leads to: the label of its first row."""
    label = contract.output.classes[0] if contract.output.classes else 1.0
    return {
        "description": "what really happened",
        "operationRef": f"#/paths/~1models~1{name}~1feedback/post",
        "requestBody": [{"prediction_id": "$response.body#/prediction_ids/0", "label": label}],
    }


def _row(contract: Contract) -> dict[str, Any]:
    """A row, with the numbers that it can hold exactly."""
    whole = EXACT_INT[contract.precision]
    limits: dict[str, dict[str, float]] = {"int": {"minimum": -whole, "maximum": whole}}
    if contract.precision == "float32":
        limits["float"] = {"exclusiveMinimum": -_BEYOND_FLOAT32, "exclusiveMaximum": _BEYOND_FLOAT32}
    schema = contract.json_schema()
    columns = {c.name: {**schema["properties"][c.name], **limits.get(c.dtype, {})} for c in contract.columns}
    return {**schema, "properties": columns}


def _answer(contract: Contract) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "model": {"type": "string"},
        "version": {"type": "integer"},
        "arm": {"enum": ["champion", "candidate", "fallback", "segment", "pinned"]},
        "predictions": {"type": "array", "items": _several(_value(contract), len(contract.output.targets))},
        "prediction_ids": {"type": "array", "items": {"type": "string", "format": "uuid"}},
    }
    if contract.output.classes:
        numbers = {"type": "array", "items": {"type": "number"}}
        answer["scores" if contract.output.scores else "probabilities"] = {"type": "array", "items": numbers}
    return {"type": "object", "required": list(answer), "properties": answer}


def _label(contract: Contract) -> dict[str, Any]:
    properties = {
        "prediction_id": {"type": "string", "format": "uuid"},
        "label": _value(contract),
        "outcomes": {
            "type": "object",
            "description": "numbers by name that came of the prediction; of each name the one told last counts",
            "minProperties": 1,
            "maxProperties": MOST_OUTCOMES,
            "propertyNames": {"pattern": "^[a-z][a-z0-9_]{0,39}$"},
            "additionalProperties": {"type": "number"},
            "example": {"revenue": 12.5},
        },
        "at": {"type": ["string", "null"], "format": "date-time"},
    }
    # each way in full: beside common properties, generators of clients take the alternatives for "anything"
    told = ("label", "outcomes")
    return {"anyOf": [{"type": "object", "required": ["prediction_id", t], "properties": properties} for t in told]}


def _results() -> dict[str, Any]:
    result = {
        "type": "object",
        "required": ["prediction_id", "status"],
        "properties": {
            "prediction_id": {"type": "string"},
            "status": {"enum": ["accepted", "rejected"]},
            "error": {"type": "object", "properties": {n: {"type": "string"} for n in _REASON}},
        },
    }
    return {"type": "object", "required": ["results"], "properties": {"results": {"type": "array", "items": result}}}


def _feedback(name: str, *others: str, named: bool = False) -> dict[str, Any]:
    """Labels of a model, or of several, when each names its own."""
    item: dict[str, Any] = {"$ref": f"#/components/schemas/{name}.Label"}
    if named:
        item = {
            "anyOf": [
                {
                    "allOf": [{"$ref": f"#/components/schemas/{model}.Label"}],
                    "required": ["model"],
                    "properties": {"model": {"enum": [model]}},
                }
                for model in (name, *others)
            ]
        }
    return {
        "operationId": f"feedback_{name}",
        "summary": f"Say what really happened after a prediction of {'any model' if named else name}",
        "requestBody": _json({"type": "array", "minItems": 1, "items": item}, None, required=True),
        "responses": _responses({"$ref": "#/components/schemas/Results"}),
    }


def _open() -> dict[str, Any]:
    """What no key is asked for."""
    text, verbose = {"schema": {"type": "string"}}, {"name": "verbose", "in": "query", "schema": {"type": "string"}}
    state = {JSON: {"schema": {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}}}
    paths: dict[str, Any] = {}
    for path, content in (
        ("/livez", state),
        ("/readyz", state),
        ("/healthz", state),
        ("/metrics", {"text/plain": text}),
        ("/openapi.json", {JSON: {"schema": {"type": "object"}}}),
        ("/docs", {"text/html": text}),
    ):
        operation: dict[str, Any] = {"operationId": path[1:], "security": []}
        operation["responses"] = {"200": {"description": "Yes.", "content": content}}
        if path in ("/readyz", "/healthz"):
            operation["parameters"] = [verbose]
            operation["responses"]["503"] = {"description": "Not yet; add ?verbose to learn why.", "content": content}
        paths[path] = {"get": operation}
    return paths


def _read(name: str, part: str) -> dict[str, Any]:
    what = f"read_{name}{part.replace('/', '_')}" if name else "list_models"
    statuses = {code: text for code, text in STATUSES.items() if code in ("401", "403", "404")}
    content = {JSON: {"schema": {"type": "object"}}}
    if part == "/card":
        content = {"text/markdown": {"schema": {"type": "string"}}}
    return {
        "operationId": what,
        "responses": {"200": {"description": "What was asked for.", "content": content}, **_errors(statuses)},
    }


def _identified(paths: dict[str, Any]) -> dict[str, Any]:
    """Every operation's id is an identifier, and no other one's: generators make functions of them."""
    taken: set[str] = set()
    found: dict[str, Any] = {}
    for path, item in paths.items():
        found[path] = {}
        for method, operation in item.items():
            plain = wanted = re.sub(r"\W", "_", operation["operationId"])
            while wanted in taken:
                wanted = f"{plain}_{len(taken)}"
            taken.add(wanted)
            found[path][method] = {**operation, "operationId": wanted}
    return found


def _several(value: dict[str, Any], targets: int) -> dict[str, Any]:
    return {"type": "array", "items": value, "minItems": targets, "maxItems": targets} if targets else value


def _value(contract: Contract) -> dict[str, Any]:
    if contract.output.classes:
        return {"enum": list(contract.output.classes)}
    return {"type": "number"}


def _responses(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "200": {"description": "Done.", **_json(schema, None)},
        **_errors({c: t for c, t in STATUSES.items() if c != "409"}),
    }


def _errors(statuses: dict[str, str]) -> dict[str, Any]:
    """What `described` completes."""
    return {code: {"description": text} for code, text in statuses.items()}


def _json(schema: dict[str, Any], example: Any, *, required: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"content": {"application/json": content}, **({"required": True} if required else {})}


def _error_schema() -> dict[str, Any]:
    names = ("code", "message", "where", "expected", "got", "hint", "request_id", "docs")
    parts = ("where", "message", "expected", "got", "hint")
    field = {"type": "object", "properties": {name: {"type": "string"} for name in parts}}
    several = {"errors": {"type": "array", "maxItems": MAX_FIELD_ERRORS, "items": field}}
    inner = {"type": "object", "properties": {**{name: {"type": "string"} for name in names}, **several}}
    return {"type": "object", "properties": {"error": inner}, "required": ["error"]}
