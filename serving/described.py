"""What the OpenAPI document says of every operation alike: the refusals that it may get, and headers in and out."""

from __future__ import annotations

import re
from typing import Any, Final

from serving.dialects.dialect import KSERVE, MLFLOW, OIP, PERENE, of_path
from serving.wire.body import JSON
from serving.wire.refused import PROBLEM

STATUSES: Final = {
    "400": "Not JSON, or not the JSON of this route; or not HTTP, or of no host or several.",
    "401": "No valid key.",
    "403": "The key does not permit this, or a page of another site asks.",
    "404": "No such model or version.",
    "409": "The idempotency key came with another request, or its first request is still being answered (Retry-After).",
    "413": "The body or its number of rows is over the limit.",
    "415": "The body is of a type that this route does not read.",
    "421": "The Host is none that is served here.",
    "422": "The rows do not satisfy the contract.",
    "429": "The key has used what it may use for now.",
    "431": "The head of the request is too large.",
    "500": "The model failed, its answer is not a finite number, or nobody foresaw it.",
    "503": "Not ready, overloaded, or the disk refuses labels.",
    "507": "There is no room to keep what was sent.",
}
_EVERYWHERE: Final = ("400", "403", "421", "431", "500")
_KEYED: Final = ("401", "429")
_PREDICTS: Final = re.compile(r"/predict$|:predict$|/infer$|/invocations$")
_PINS: Final = re.compile(r"/versions/|/labels/")


def described(paths: dict[str, Any]) -> dict[str, Any]:
    """The paths, each operation with what all of them have."""
    return {
        path: {method: _operation(path, operation) for method, operation in item.items()}
        for path, item in paths.items()
    }


def headers() -> dict[str, Any]:
    """The components that responses refer to."""

    def header(text: str, schema: dict[str, Any], *, always: bool = False) -> dict[str, Any]:
        return {"description": text, "schema": schema, **({"required": True} if always else {})}

    text, whole = {"type": "string"}, {"type": "integer", "minimum": 0}
    return {
        "RequestId": header("Yours, if you sent a plain word; else a new one.", text, always=True),
        "ModelName": header("Who answered.", text, always=True),
        "ModelVersion": header("Its version.", whole, always=True),
        "PredictionId": header("The id of the first row, for feedback.", {**text, "format": "uuid"}, always=True),
        "ServerTiming": header("Milliseconds of reading, waiting and predicting.", text),
        "RateLimit": header("What is left of the key's limits, where it has any.", text),
        "RateLimitPolicy": header("The key's limits, where it has any.", text),
        "Replayed": header("The answer is that of an earlier request with this idempotency key.", {"enum": ["true"]}),
        "RetryAfter": header("Seconds to wait.", {**whole, "minimum": 1}),
        "Location": header("Where the job is.", text, always=True),
        "Authenticate": header("How to say who you are.", text, always=True),
        "BinaryLength": header("Bytes of JSON before the tensors, where they come as bytes.", whole),
    }


def parameters() -> dict[str, Any]:
    """The components that operations refer to."""

    def header(name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
        return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}

    word = {"type": "string"}
    return {
        "RequestId": header("X-Request-ID", "your own id of the request: letters, digits and ._-, up to 128", word),
        "IdempotencyKey": header(
            "Idempotency-Key",
            "a repeat with the same key and the same request is given the same answer",
            {"type": "string", "pattern": "^[!-~]{1,255}$"},
        ),
        "Prefer": header(
            "Prefer",
            "`respond-async`: answer 202 at once, and the prediction later",
            {**word, "examples": ["respond-async"]},
        ),
        "ModelVersion": header(
            "X-Model-Version",
            "the version that is to answer; the key needs the scope read",
            {"type": "integer", "minimum": 1},
        ),
        "Entity": header("X-Entity", "whom the rows are about; keeps an entity on one arm", word),
        "EventTime": header(
            "X-Event-Time", "the event's own time, when not now", {"type": "string", "format": "date-time"}
        ),
        "BinaryLength": header(
            "Inference-Header-Content-Length", "bytes of JSON, where tensors follow as bytes", {"type": "integer"}
        ),
    }


def problem_schema() -> dict[str, Any]:
    """An error as RFC 9457 has it, for callers that accept `application/problem+json`."""
    properties = {name: {"type": "string"} for name in ("type", "title", "detail", "code", "request_id")}
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail", "code", "request_id"],
        "properties": {**properties, "status": {"type": "integer"}},
    }


def error_of(path: str) -> dict[str, Any]:
    """The schema of the errors of a path's dialect."""
    name = {PERENE: "Error", OIP: "ErrorText", KSERVE: "ErrorText", MLFLOW: "ErrorCoded"}[of_path(path)]
    return {"$ref": f"#/components/schemas/{name}"}


def _operation(path: str, operation: dict[str, Any]) -> dict[str, Any]:
    """One operation, completed."""
    keyed = operation.get("security") != []
    predicts, tells = bool(_PREDICTS.search(path)), path.endswith("/feedback")
    given = operation["responses"]
    codes = {*given, *_EVERYWHERE, *(_KEYED if keyed else ()), *(("409", "503") if predicts or tells else ())}
    answered = {code: response for code, response in given.items() if code == "200" or "content" in response}
    accepted = {code: response for code, response in given.items() if code == "202"}
    responses = {
        code: _good(answered[code], path, predicts=predicts)
        if code == "200"
        else _refusal(path, code, answered, keyed=keyed)
        for code in sorted(codes - accepted.keys())
    } | accepted
    own = (
        _parameters(path) if predicts else [_parameter("RequestId"), *([_parameter("IdempotencyKey")] if tells else [])]
    )
    taken = [*operation.get("parameters", ()), *own]
    return {**operation, "parameters": taken, "responses": responses}


def _good(response: dict[str, Any], path: str, *, predicts: bool) -> dict[str, Any]:
    if path.endswith("/feedback"):
        return {**response, "headers": _headers("RequestId", "Replayed")}
    if not predicts:
        return response
    told = ["RequestId", "ModelName", "ModelVersion", "PredictionId", "ServerTiming", "RateLimit", "RateLimitPolicy"]
    told += ["Replayed", *(("BinaryLength",) if path.endswith("/infer") else ())]
    return {**response, "headers": _headers(*told)}


def _refusal(path: str, code: str, answered: dict[str, Any], *, keyed: bool) -> dict[str, Any]:
    if code == "503" and not keyed:
        told_so: dict[str, Any] = answered.get(code, {"description": "Not yet."})
        return told_so
    told = ["RequestId"]
    told += {
        "401": ["Authenticate"],
        "409": ["RetryAfter"],
        "429": ["RetryAfter"],
        "503": ["RetryAfter"],
        "507": ["RetryAfter"],
    }.get(code, [])
    content = {JSON: {"schema": error_of(path)}, PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": STATUSES[code], "headers": _headers(*told), "content": content}


_NAMES: Final = {
    "RequestId": "X-Request-ID",
    "ModelName": "X-Model-Name",
    "ModelVersion": "X-Model-Version",
    "PredictionId": "X-Prediction-ID",
    "ServerTiming": "Server-Timing",
    "RateLimit": "RateLimit",
    "RateLimitPolicy": "RateLimit-Policy",
    "Replayed": "Idempotency-Replayed",
    "RetryAfter": "Retry-After",
    "Location": "Location",
    "Authenticate": "WWW-Authenticate",
    "BinaryLength": "Inference-Header-Content-Length",
}


def _headers(*told: str) -> dict[str, Any]:
    return {_NAMES[name]: {"$ref": f"#/components/headers/{name}"} for name in told}


def _parameters(path: str) -> list[dict[str, Any]]:
    names = ["RequestId", "IdempotencyKey"]
    names += ["Prefer"] if path.endswith("/predict") and not path.startswith("/v") and not _PINS.search(path) else []
    names += [] if _PINS.search(path) else ["ModelVersion"]
    names += ["Entity", "EventTime"]
    names += ["BinaryLength"] if path.endswith("/infer") else []
    return [_parameter(name) for name in names]


def _parameter(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/parameters/{name}"}
