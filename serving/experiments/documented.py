"""What the OpenAPI document says of trials."""

from __future__ import annotations

from typing import Any, Final

from registry.experiment_options import OPTIONS
from serving.wire.body import JSON

_WORD: Final[dict[str, Any]] = {"type": "string"}
_MAYBE: Final[dict[str, Any]] = {"type": ["string", "null"]}
_WHOLE: Final[dict[str, Any]] = {"type": "integer"}
_NUMBERS: Final[dict[str, Any]] = {"type": ["object", "null"], "description": "the numbers behind it"}
_REASON: Final[dict[str, Any]] = {"type": "string", "minLength": 1, "maxLength": 2000}
_REF: Final = {"$ref": "#/components/schemas/Experiment"}
_PROPERTIES: Final[dict[str, Any]] = {
    "experiment_id": _WORD,
    "model": _WORD,
    "state": {**_WORD, "description": "requested, running, promoted, rejected, rolled_back, inconclusive or aborted"},
    "stage": {**_WORD, "description": "waiting, shadow, canary, ab, watch or done"},
    "champion": _WHOLE,
    "candidate": _WHOLE,
    "reason": _MAYBE,
    "started_at": {"type": "string", "format": "date-time"},
    "at": {"type": "string", "format": "date-time", "description": "of what was written of it last"},
    "why": {**_MAYBE, "description": "why it ended"},
    "facts": _NUMBERS,
}
SCHEMAS: Final[dict[str, Any]] = {
    "Experiment": {
        "type": "object",
        "required": ["experiment_id", "model", "state", "stage"],
        "properties": {
            **_PROPERTIES,
            "asked": {"type": ["object", "null"], "description": "by whom and why; null where retraining began it"},
            "look": {"type": ["object", "null"], "description": "how its tests stood when they were last looked at"},
            "decisions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["evidence", "action", "reason"],
                    "properties": {"evidence": _WHOLE, "action": _WORD, "reason": _WORD, "facts": _NUMBERS},
                },
            },
        },
    }
}
_REFUSALS: Final = ("400", "404", "413", "415", "422")


def experiment_paths(name: str) -> dict[str, Any]:
    """The routes of a model's trials."""
    options = {"type": "object", "description": f"instead of the model's settings: {', '.join(OPTIONS)}"}
    asked = {
        "candidate": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
        "reason": _REASON,
        "options": options,
    }
    listed = {
        "type": "object",
        "required": ["experiments"],
        "properties": {"experiments": {"type": "array", "items": _REF}},
    }
    root = f"/models/{name}/experiments"
    return {
        root: {
            "get": _operation(f"list_experiments_{name}", f"The trials of {name}, newest first", listed),
            "post": _asked(
                f"start_experiment_{name}",
                f"Ask for a trial of a version of {name}",
                asked,
                ["candidate", "reason"],
                "202",
            ),
        },
        f"{root}/{{id}}": {
            "get": _operation(f"read_experiment_{name}", "How a trial stands, and what was decided", _REF, [_ID])
        },
        f"{root}/{{id}}/approve": {
            "post": _asked(
                f"approve_experiment_{name}",
                "Approve its candidate; who registered it may not",
                {"reason": {**_REASON, "minLength": 0}},
                [],
                parameters=[_ID],
            )
        },
        f"{root}/{{id}}/abort": {
            "post": _asked(
                f"abort_experiment_{name}",
                "End a trial at once: its candidate answers nobody any more",
                {"reason": _REASON},
                ["reason"],
                parameters=[_ID],
            )
        },
    }


_ID: Final = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]+$"},
}


def _operation(
    identifier: str, summary: str, answer: dict[str, Any], parameters: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    responses = {"200": {"description": "What was asked for.", "content": {JSON: {"schema": answer}}}}
    refused = {code: {"description": "Refused."} for code in ("404", "503")}
    return {
        "operationId": identifier,
        "summary": summary,
        "parameters": parameters or [],
        "responses": {**responses, **refused},
    }


def _asked(
    identifier: str,
    summary: str,
    properties: dict[str, Any],
    required: list[str],
    status: str = "200",
    *,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """What decides: the key needs the scope promote."""
    body = {"type": "object", "required": required, "additionalProperties": False, "properties": properties}
    done = {"description": "Written down.", "content": {JSON: {"schema": {"type": "object"}}}}
    refused = {code: {"description": "Refused."} for code in (*_REFUSALS, "403", "409", "503")}
    return {
        "operationId": identifier,
        "summary": summary,
        "description": "Needs a key with the scope promote.",
        "parameters": parameters or [],
        "requestBody": {"content": {JSON: {"schema": body}}, "required": True},
        "responses": {status: done, **refused},
    }
