"""What a client raises: the server's own exceptions, found by the code of the answer, with all its facts."""

from __future__ import annotations

import json
from typing import Any, Final

import registry.errors
import serving.errors
from registry.errors import (
    BundleCorrupt,
    ConfigInvalid,
    ContractViolation,
    FieldError,
    ModelUnknown,
    NameInvalid,
    NotAllowed,
    NotExplained,
    PereneError,
    StoreUnavailable,
    VersionUnknown,
)
from serving.errors import (
    HostNotAllowed,
    IdempotencyConflict,
    InferenceFailed,
    Limited,
    Malformed,
    NotReady,
    OutputNotFinite,
    Overloaded,
    TooLarge,
    Unauthenticated,
    WrongMediaType,
)

__all__ = [
    "BundleCorrupt",
    "ConfigInvalid",
    "ContractViolation",
    "FieldError",
    "HostNotAllowed",
    "IdempotencyConflict",
    "InferenceFailed",
    "Limited",
    "Malformed",
    "ModelUnknown",
    "NameInvalid",
    "NotAllowed",
    "NotExplained",
    "NotReady",
    "OutputNotFinite",
    "Overloaded",
    "PereneError",
    "Refused",
    "StoreUnavailable",
    "TooLarge",
    "Unauthenticated",
    "Unreachable",
    "VersionUnknown",
    "WrongMediaType",
]


class Unreachable(StoreUnavailable):
    """No server answers at this address."""

    code = "unreachable"


class Refused(PereneError):
    """The server refused in words that this client does not know."""

    code = "refused"


_KINDS: Final[dict[str, type[PereneError]]] = {
    kind.code: kind
    for room in (registry.errors, serving.errors)
    for kind in vars(room).values()
    if isinstance(kind, type) and issubclass(kind, PereneError)
}
_BY_STATUS: Final[dict[int, type[PereneError]]] = {
    401: Unauthenticated,
    403: NotAllowed,
    413: TooLarge,
    429: Limited,
    502: Unreachable,
    503: Unreachable,
    504: Unreachable,
}
"""What a proxy means, which does not speak our JSON."""


def error_of(status: int, body: bytes, *, retry_after_s: float = 0.0) -> PereneError:
    """The exception that an answer stands for."""
    facts = _facts(body)
    kind = _KINDS.get(_text(facts, "code")) or _BY_STATUS.get(status, Refused)
    message = _text(facts, "message") or f"the server answered {status}, not as Perene does"
    hint = _text(facts, "hint") or ("" if facts else "is this the address of a Perene server?")
    told = {name: _text(facts, name) for name in ("where", "expected", "got")}
    error: PereneError
    if issubclass(kind, ContractViolation):
        error = kind(message, hint=hint, errors=_fields(facts), **told)
    else:
        error = kind(message, hint=hint, **told)
    if isinstance(error, (Limited, Overloaded)) and retry_after_s:
        error.retry_after_s = retry_after_s
    error.request_id = _text(facts, "request_id")
    return error


def _facts(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    facts = found.get("error") if isinstance(found, dict) else None
    return facts if isinstance(facts, dict) else {}


def _text(facts: dict[str, Any], name: str) -> str:
    value = facts.get(name)
    return value if isinstance(value, str) else ""


def _fields(facts: dict[str, Any]) -> tuple[FieldError, ...]:
    listed = facts.get("errors")
    found = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    names = ("where", "message", "expected", "got", "hint")
    return tuple(FieldError(*(_text(item, name) for name in names)) for item in found)
