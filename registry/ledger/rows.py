"""The ledger's rows as values, and which of them are possible."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import RowMapping

from registry.errors import LedgerConflict
from registry.routing import SALT_MOST, Routing, check_routing, read_routing

Mode = Literal["shadow", "canary", "ab"]


@dataclass(frozen=True, slots=True)
class Deployment:
    """One row: who serves `model` from this revision on. `weight` is the candidate's share in [0, 1]."""

    model: str
    revision: int
    champion: int
    candidate: int | None
    mode: Mode | None
    weight: float
    salt: str
    actor: str
    reason: str
    at: datetime
    evidence_id: int | None
    previous: str
    hash: str
    routing: Routing | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a decision was made on."""

    id: int
    model: str
    kind: str
    body: dict[str, Any]
    at: datetime
    hash: str


@dataclass(frozen=True, slots=True)
class Run:
    """The latest row of one retraining."""

    run_id: str
    model: str
    status: str
    step: str
    body: dict[str, Any]
    started_at: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class Experiment:
    """The latest row of one trial."""

    experiment_id: str
    model: str
    state: str
    stage: str
    body: dict[str, Any]
    started_at: datetime
    at: datetime


def check_trial(
    champion: int, candidate: int | None, mode: Mode | None, weight: float, salt: str, routing: Routing | None
) -> None:
    """Refuse a trial that cannot be: half of one, the champion against itself, a share beyond 1."""
    if (candidate is None) != (mode is None):
        raise LedgerConflict("a trial needs both a candidate and a mode", where="candidate")
    if candidate == champion:
        raise LedgerConflict("the candidate already is the champion", where="candidate")
    if not 0.0 <= weight <= 1.0:
        raise LedgerConflict("the weight is a share", where="weight", expected="0 to 1")
    # a separator in the salt would let two pairs of salt and entity draw as one
    if len(salt) > SALT_MOST or not (salt.isprintable() and salt.isascii()):
        raise LedgerConflict(
            "the salt cannot be that", where="salt", expected=f"at most {SALT_MOST} printable characters of ASCII"
        )
    if routing is not None:
        check_routing(routing, champion=champion, candidate=candidate, mode=mode, weight=weight)


def previous_champion(history: list[Deployment]) -> int | None:
    """The champion before the current one; a rollback undoes the last change of champion, then the one before."""
    stack: list[int] = []
    for row in history:
        if len(stack) >= 2 and row.champion == stack[-2]:
            stack.pop()
        elif not stack or stack[-1] != row.champion:
            stack.append(row.champion)
    return stack[-2] if len(stack) >= 2 else None


def dump(value: Any) -> str:
    """Canonical JSON: what is hashed must read the same everywhere."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)


def utc_now() -> datetime:
    """Now, aware."""
    return datetime.now(UTC)


def iso(moment: datetime) -> str:
    """A moment as text that sorts by time: UTC with microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def parse_time(text: str) -> datetime:
    """The moment that `iso` wrote."""
    return datetime.fromisoformat(text)


def to_deployment(row: RowMapping | Mapping[str, Any]) -> Deployment:
    """A row of the table as a value."""
    return Deployment(
        model=row["model"],
        revision=row["revision"],
        champion=row["champion"],
        candidate=row["candidate"],
        mode=row["mode"],
        weight=row["weight"],
        salt=row["salt"],
        actor=row["actor"],
        reason=row["reason"],
        at=parse_time(row["at"]),
        evidence_id=row["evidence_id"],
        previous=row["previous"],
        hash=row["hash"],
        routing=read_routing(row["routing"]),
    )
