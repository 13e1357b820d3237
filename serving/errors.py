"""Errors as answers: the one table of HTTP statuses, and the envelope of the Perene dialect."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, ClassVar, Final

import msgspec

from registry.errors import (
    BundleCorrupt,
    ContractViolation,
    ExperimentInvalid,
    ExperimentUnknown,
    FieldError,
    LedgerConflict,
    ModelUnknown,
    NotAllowed,
    NotExplained,
    PereneError,
    StoreUnavailable,
    VersionUnknown,
)

MAX_FIELD_ERRORS: Final = 20


class Malformed(PereneError):
    """The body is not JSON, or not the JSON of this route."""

    code = "malformed"


class TooLarge(PereneError):
    """The body, or its number of rows, is over a limit."""

    code = "too_large"


class HeadersTooLarge(PereneError):
    """The head of the request is over a limit."""

    code = "headers_too_large"


class WrongMediaType(PereneError):
    """The body is of a media type that this route does not read."""

    code = "unsupported_media_type"


class Unauthenticated(PereneError):
    """No valid key came with the request."""

    code = "unauthenticated"


class Replayed(PereneError):
    """A signed call that came before."""

    code = "replayed"


class NotReady(PereneError):
    """No model can answer yet."""

    code = "not_ready"


class Limited(PereneError):
    """A key has used what it may use for now: its rate, its requests at once or its day's quota.

    `reason` is one of rate, concurrency and quota.
    """

    code = "rate_limited"
    reason: str = "rate"
    retry_after_s: float = 1.0


class Overloaded(PereneError):
    """More requests wait for the engine than it can answer in time."""

    code = "overloaded"
    retry_after_s: float = 1.0


class IdempotencyConflict(PereneError):
    """The idempotency key came before, with another request, or with one that is still being answered."""

    code = "idempotency_conflict"
    retry_after_s: float | None = None


class JobUnknown(PereneError):
    """There is no such job, or it is another key's."""

    code = "job_unknown"


class JobNotDone(PereneError):
    """The job has no result: it has not ended, or it ended without one."""

    code = "job_not_done"


class QueueFull(PereneError):
    """As many jobs wait as may."""

    code = "queue_full"
    retry_after_s: float = 30.0


class StorageFull(PereneError):
    """There is no room to keep what was sent; nothing was accepted."""

    code = "storage_full"
    retry_after_s: float = 60.0


class HostNotAllowed(PereneError):
    """The Host of the request is none by which this server is called."""

    code = "host_not_allowed"


class OutputNotFinite(PereneError):
    """The model's answer to valid input is not a finite number."""

    code: ClassVar[str] = "output_not_finite"


class InferenceFailed(PereneError):
    """The engine failed on valid input."""

    code: ClassVar[str] = "inference_failed"


_STATUS: Final[tuple[tuple[type[PereneError], int], ...]] = (
    (Malformed, 400),
    (Unauthenticated, 401),
    (NotAllowed, 403),
    (ModelUnknown, 404),
    (VersionUnknown, 404),
    (JobUnknown, 404),
    (ExperimentUnknown, 404),
    (JobNotDone, 409),
    (LedgerConflict, 409),
    (IdempotencyConflict, 409),
    (Replayed, 409),
    (TooLarge, 413),
    (WrongMediaType, 415),
    (ContractViolation, 422),
    (NotExplained, 422),
    (ExperimentInvalid, 422),
    (HostNotAllowed, 421),
    (Limited, 429),
    (HeadersTooLarge, 431),
    (NotReady, 503),
    (Overloaded, 503),
    (QueueFull, 503),
    (StorageFull, 507),
    (StoreUnavailable, 503),
    (BundleCorrupt, 500),
    (OutputNotFinite, 500),
    (InferenceFailed, 500),
)


def status_of(error: PereneError) -> int:
    """The HTTP status of an error; 500 for what no caller can mend."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def body_of(error: PereneError, request_id: str, *, problem: bool = False) -> bytes:
    """The JSON body: the Perene envelope, or RFC 9457 where the caller accepts `application/problem+json`."""
    facts: dict[str, Any] = {
        "code": error.code,
        "message": error.message,
        "where": error.where,
        "expected": error.expected,
        "got": error.got,
        "hint": error.hint,
        "request_id": request_id,
        "docs": f"/docs#error-{error.code}",
    }
    if isinstance(error, ContractViolation):
        facts["errors"] = _fields(error.errors)
    if problem:
        status = status_of(error)
        head = {
            "type": f"/docs#error-{error.code}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": error.message,
        }
        return msgspec.json.encode({**head, **facts})
    return msgspec.json.encode({"error": facts})


def _fields(errors: Iterable[FieldError]) -> list[dict[str, str]]:
    return [
        {"where": e.path, "message": e.message, "expected": e.expected, "got": e.got, "hint": e.hint}
        for e in list(errors)[:MAX_FIELD_ERRORS]
    ]
