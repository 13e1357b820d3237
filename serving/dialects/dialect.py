"""What a dialect is to the server: a name for the metrics and the form of its errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from registry.errors import ContractViolation, FieldError, PereneError
from serving.decode import seconds
from serving.errors import body_of, status_of

Envelope = Callable[[PereneError, str], bytes]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A protocol. `envelope` is the body that says an error, given the request's id."""

    protocol: str
    envelope: Envelope


def sentence(error: PereneError) -> str:
    """An error in one line, for dialects that have but a text: everything that is wrong, and how to mend it."""
    if isinstance(error, ContractViolation) and error.errors:
        return "; ".join(_field(field) for field in error.errors[:20])
    expected = f", expected {error.expected}" if error.expected else ""
    where = f"{error.where}: " if error.where else ""
    return f"{where}{error.message}{expected}" + (f" ({error.hint})" if error.hint else "")


def _field(error: FieldError) -> str:
    told = f"{error.path}: {error.message}"
    if error.expected and error.expected not in error.message:
        told += f", expected {error.expected}"
    if error.got:
        told += f", got {error.got}"
    return told + (f" ({error.hint})" if error.hint else "")


def _text_only(error: PereneError, request_id: str) -> bytes:
    return msgspec.json.encode({"error": sentence(error)})


def _mlflow(error: PereneError, request_id: str) -> bytes:
    code = _MLFLOW_CODES.get(status_of(error), "INTERNAL_ERROR")
    return msgspec.json.encode({"error_code": code, "message": sentence(error)})


_MLFLOW_CODES: Final = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_CONFLICT",
    413: "REQUEST_LIMIT_EXCEEDED",
    415: "BAD_REQUEST",
    421: "BAD_REQUEST",
    422: "INVALID_PARAMETER_VALUE",
    429: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
}

PERENE: Final = Dialect("perene", body_of)
OIP: Final = Dialect("oip", _text_only)
KSERVE: Final = Dialect("kserve", _text_only)
MLFLOW: Final = Dialect("mlflow", _mlflow)


def of_path(path: str) -> Dialect:
    """Whose errors a path without a route gets."""
    if path.startswith("/v2"):
        return OIP
    if path.startswith("/v1"):
        return KSERVE
    return MLFLOW if path.startswith("/invocations") else PERENE


@dataclass(frozen=True, slots=True)
class About:
    """Whom the rows are about, and when: Perene's `entity` and `at`, where a dialect has no words for them."""

    entity: str | None = None
    at: float | None = None


def about(headers: Mapping[str, str], parameters: Any = None) -> About:
    """From `parameters` of the request where the dialect has them, else the headers `X-Entity` and `X-Event-Time`.

    Raises:
        ContractViolation: one is not a text, or the time is none.
    """
    if not isinstance(parameters, dict | None):
        error = FieldError("parameters", "of the wrong type", "an object")
        raise ContractViolation(f"{error.path}: {error.message}", errors=(error,))
    given = parameters or {}
    for name in ("entity", "at"):
        if not isinstance(given.get(name), str | None):
            error = FieldError(f"parameters.{name}", "of the wrong type", "string")
            raise ContractViolation(f"{error.path}: {error.message}", errors=(error,))
    entity, at = (headers.get(name) for name in ("x-entity", "x-event-time"))
    # a time that is none is an error, also where the other one counts
    times = seconds(given.get("at")), seconds(at)
    return About(given.get("entity") or entity or None, times[1] if times[0] is None else times[0])
