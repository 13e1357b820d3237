"""What the OpenAPI document says of jobs."""

from __future__ import annotations

from typing import Any, Final

from serving.jobs.job import KINDS, STATES
from serving.wire.body import JSON

PARQUET: Final = "application/vnd.apache.parquet"
CSV: Final = "text/csv"
_TIME: Final[dict[str, Any]] = {"type": ["string", "null"], "format": "date-time"}
_WHOLE: Final[dict[str, Any]] = {"type": "integer", "minimum": 0}
_REF: Final = {"$ref": "#/components/schemas/Job"}
SCHEMAS: Final[dict[str, Any]] = {
    "Job": {
        "type": "object",
        "required": ["job", "kind", "model", "state", "attempts"],
        "properties": {
            "job": {"type": "string"},
            "kind": {"enum": list(KINDS)},
            "model": {"type": "string"},
            "version": {"type": ["integer", "null"], "description": "of a file: the version that answers it"},
            "state": {"enum": list(STATES)},
            "attempts": _WHOLE,
            **dict.fromkeys(("created", "started", "ended", "next_attempt"), _TIME),
            "rows": _WHOLE,
            "rejected": _WHOLE,
            "progress": {"type": "number", "minimum": 0, "maximum": 1},
            "eta_seconds": {"type": ["number", "null"]},
            "error": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("code", "message", "where", "hint")},
            },
            "answer": {"type": "object", "description": "of a prediction: what its route answers"},
        },
    }
}


def deferred() -> dict[str, Any]:
    """The further answers of a route that may answer later."""
    headers = {
        "X-Request-ID": {"$ref": "#/components/headers/RequestId"},
        "Location": {"$ref": "#/components/headers/Location"},
        "Retry-After": {"$ref": "#/components/headers/RetryAfter"},
        "Idempotency-Replayed": {"$ref": "#/components/headers/Replayed"},
    }
    accepted = {"description": "It will be answered.", "headers": headers, "content": {JSON: {"schema": _REF}}}
    return {"202": accepted, "507": {"description": "There is no room to keep what was sent."}}


def job_paths(name: str) -> dict[str, Any]:
    """The routes of jobs of a model, or those of all."""
    if not name:
        listed = {"type": "object", "required": ["jobs"], "properties": {"jobs": {"type": "array", "items": _REF}}}
        states = {"name": "state", "in": "query", "schema": {"enum": list(STATES)}}
        return {
            "/jobs": {"get": _operation("list_jobs", {JSON: {"schema": listed}}, [states], missing=False)},
            "/jobs/{job}": _one("job"),
        }
    part = {"name": "of", "in": "query", "schema": {"enum": ["answers", "errors"]}}
    files = {PARQUET: {"schema": {}}, CSV: {"schema": {"type": "string"}}}
    result = _operation(f"result_{name}", files, [_parameter(), part])
    result["responses"]["409"] = {"description": "It has no such result."}
    result["responses"]["503"] = {"description": "The result cannot be read."}
    return {
        f"/models/{name}/batch": {"post": _submit(name)},
        f"/models/{name}/batch/{{job}}": _one(f"batch_{name}"),
        f"/models/{name}/batch/{{job}}/result": {"get": result},
    }


def _submit(name: str) -> dict[str, Any]:
    query: list[dict[str, Any]] = [
        {"name": "errors", "in": "query", "schema": {"enum": ["refuse", "skip", "null"]}},
        {"name": "format", "in": "query", "schema": {"enum": ["parquet", "csv"]}},
        {"name": "keep", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
        {"name": "callback", "in": "query", "schema": {"type": "string", "format": "uri"}},
        {"$ref": "#/components/parameters/IdempotencyKey"},
        {"$ref": "#/components/parameters/ModelVersion"},
    ]
    words = {"type": "string"}
    folder = {
        "type": "object",
        "required": ["input", "output"],
        "additionalProperties": False,
        "properties": {
            "input": words,
            "output": words,
            "errors": {"enum": ["refuse", "skip", "null"]},
            "keep": {"type": "array", "items": words},
            "callback": words,
        },
    }
    content = {PARQUET: {"schema": {}}, CSV: {"schema": {"type": "string"}}, JSON: {"schema": folder}}
    refusals = {code: {"description": "Refused."} for code in ("404", "409", "413", "415", "503")}
    return {
        "operationId": f"batch_{name}",
        "summary": f"Have {name} answer every row of a file",
        "parameters": query,
        "requestBody": {"content": content, "required": True},
        "responses": {**deferred(), **refusals},
    }


def _one(name: str) -> dict[str, Any]:
    content = {JSON: {"schema": _REF}}
    return {
        "get": _operation(f"read_{name}", content, [_parameter()]),
        "delete": _operation(f"cancel_{name}", content, [_parameter()]),
    }


def _operation(
    identifier: str, content: dict[str, Any], parameters: list[dict[str, Any]], *, missing: bool = True
) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": "What was asked for.", "content": content}}
    responses |= {"404": {"description": "No such job."}} if missing else {}
    responses["503"] = {"description": "The queue cannot be reached."}
    return {"operationId": identifier, "parameters": parameters, "responses": responses}


def _parameter() -> dict[str, Any]:
    return {"name": "job", "in": "path", "required": True, "schema": {"type": "string"}}
