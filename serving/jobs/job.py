"""A job as a value, and what is decided about it: when it is tried again, and what callers are told."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any, Final, Literal

import msgspec

State = Literal["queued", "running", "done", "failed", "cancelled", "dead"]
Kind = Literal["batch", "predict"]
STATES: Final[tuple[State, ...]] = ("queued", "running", "done", "failed", "cancelled", "dead")
KINDS: Final[tuple[Kind, ...]] = ("batch", "predict")
FIRST_S: Final = 1.0
LAST_S: Final = 300.0


class Failure(msgspec.Struct, frozen=True):
    """Why a job has no answer, without its values."""

    code: str
    message: str
    where: str = ""
    hint: str = ""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job. `reached` of `total` are bytes or rows of the input, as its reader counts; times are unix seconds."""

    id: str
    kind: Kind
    model: str
    version: int
    """The version that answers a file; 0 for a prediction, which is routed when it is answered."""
    key: str
    state: State = "queued"
    attempts: int = 0
    due: float = 0.0
    holder: str = ""
    idempotency: str = ""
    fingerprint: str = ""
    asked: bytes = b""
    """A prediction's request, or a file's options, as JSON."""
    answer: bytes = b""
    size: int = 0
    """Bytes that are kept for it."""
    reached: int = 0
    total: int = 0
    rows: int = 0
    rejected: int = 0
    error: bytes = b""
    callback: str = ""
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0

    @property
    def failure(self) -> Failure | None:
        """What went wrong last."""
        return msgspec.json.decode(self.error, type=Failure) if self.error else None


def wait_s(attempt: int, dice: Random) -> float:
    """Seconds until a job that was tried `attempt` times is tried again: doubling, and spread out over that span.

    >>> [round(wait_s(n, Random(1)), 2) for n in (1, 2, 3, 20)]
    [0.57, 1.13, 2.27, 170.15]
    """
    return min(LAST_S, FIRST_S * 2.0 ** min(attempt - 1, 16)) * dice.uniform(0.5, 1.0)


def told(job: Job, now: float) -> dict[str, Any]:
    """What the caller of a job is told; an answer to a prediction is part of it."""
    facts: dict[str, Any] = {
        "job": job.id,
        "kind": job.kind,
        "model": job.model,
        "version": job.version or None,
        "state": job.state,
        "attempts": job.attempts,
        "created": _time(job.created),
        "started": _time(job.started),
        "ended": _time(job.ended),
    }
    if job.state == "queued" and job.attempts:
        facts["next_attempt"] = _time(job.due)
    if job.kind == "batch":
        facts |= {
            "rows": job.rows,
            "rejected": job.rejected,
            "progress": _progress(job),
            "eta_seconds": eta_s(job, now),
        }
    if job.error:
        facts["error"] = msgspec.json.decode(job.error)
    if job.kind == "predict" and job.state == "done":
        facts["answer"] = msgspec.Raw(job.answer)
    return facts


def eta_s(job: Job, now: float) -> float | None:
    """Seconds that a running job still needs at its pace so far; None while nobody can say."""
    if job.state != "running" or not 0 < job.reached <= job.total:
        return None
    return round((now - job.started) * (job.total - job.reached) / job.reached, 1)


def ids_of(job: str) -> Callable[[int], list[str]]:
    """Names the answers of a job alike however often it is tried: a repeat can be told by its ids."""

    def ids(count: int) -> list[str]:
        found = []
        for number in range(count):
            tail = hashlib.sha256(f"{job}/{number}".encode()).hexdigest()
            found.append(f"{job[:13]}-7{tail[:3]}-{'89ab'[int(tail[3], 16) % 4]}{tail[4:7]}-{tail[7:19]}")
        return found

    return ids


def _progress(job: Job) -> float:
    if job.state == "done":
        return 1.0
    return round(job.reached / job.total, 4) if job.total else 0.0


def _time(at: float) -> str | None:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds") if at else None
