"""What the OpenAPI document says of explanations."""

from __future__ import annotations

from typing import Any, Final

_NUMBER: Final[dict[str, Any]] = {"type": "number"}
_MAYBE: Final[dict[str, Any]] = {"type": ["number", "null"]}
_WORD: Final[dict[str, Any]] = {"type": "string"}
_ITEM: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "prediction_id": {**_WORD, "description": "of a recorded prediction"},
        "version": {"type": "integer"},
        "method": {"enum": ["tree", "exact", "permutation"]},
        "output": {
            "enum": ["prediction", "probability", "score", "log_odds", "margin", "log_prediction"],
            "description": "which number the attributions add up to",
        },
        "of": {"description": "the class, target or score that the number is of"},
        "base": {**_NUMBER, "description": "that number of the golden rows, on average"},
        "value": {**_NUMBER, "description": "that number of this row"},
        "attributions": {"type": "object", "additionalProperties": _NUMBER},
        "additivity_error": {**_NUMBER, "description": "by how much base and attributions miss the value"},
        "standard_error": {**_MAYBE, "description": "of the least certain attribution, where orders were drawn"},
        "background_rows": {"type": "integer", "minimum": 1},
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": dict.fromkeys(("code", "message", "where", "hint"), _WORD),
        },
    },
}
SCHEMAS: Final[dict[str, Any]] = {
    "Explanations": {
        "type": "object",
        "required": ["model", "explanations"],
        "properties": {"model": _WORD, "explanations": {"type": "array", "items": _ITEM}},
    }
}


def explain_path(name: str, rows: dict[str, Any]) -> dict[str, Any]:
    """The route of a model, whose `rows` are what its predictions take."""
    ids = {
        "type": "object",
        "required": ["prediction_ids"],
        "additionalProperties": False,
        "properties": {
            "prediction_ids": {"type": "array", "minItems": 1, "items": {**_WORD, "minLength": 1, "maxLength": 64}}
        },
    }
    content = {"schema": {"oneOf": [*rows["schema"]["oneOf"], ids]}, "example": rows["example"]}
    method = {"name": "method", "in": "query", "schema": {"enum": ["auto", "permutation"]}}
    answer = {"schema": {"$ref": "#/components/schemas/Explanations"}}
    refusals = {code: {"description": "Refused."} for code in ("404", "413", "415", "422", "503")}
    return {
        "post": {
            "operationId": f"explain_{name}",
            "summary": f"Say which columns moved predictions of {name}, and by how much",
            "parameters": [method, {"$ref": "#/components/parameters/ModelVersion"}],
            "requestBody": {"content": {"application/json": content}, "required": True},
            "responses": {"200": {"description": "Done.", "content": {"application/json": answer}}, **refusals},
        }
    }
