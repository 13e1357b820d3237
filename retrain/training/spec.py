"""What the worker asks of a training child, and what the child answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec

__all__ = [
    "HANDED_OVER",
    "LEASE_LOST",
    "STEPS",
    "STORE_AWAY",
    "Failure",
    "HandedOver",
    "Result",
    "Spec",
    "Step",
    "recorded",
]

LEASE_LOST: Final = 75
"""Exit status of a child whose leader was replaced (EX_TEMPFAIL)."""
STORE_AWAY: Final = 69
"""Exit status of a child that can go on once MLflow or the ledger answers again (EX_UNAVAILABLE)."""
HANDED_OVER: Final = 76
"""Exit status of a child whose rows an external engine took."""
STEPS: Final = (
    "begin",
    "snapshot",
    "search",
    "hand_over",
    "train",
    "bundle",
    "certify",
    "gate",
    "validate",
    "register",
    "experiment",
)
"""A run's steps in order. A row names the step that begins with it; those before it are finished."""


class Spec(msgspec.Struct, frozen=True):
    """What the worker asks for; the same for every attempt but for token, attempt and parent."""

    run_id: str
    model: str
    home: str
    ledger_url: str
    tracking_uri: str
    reason: str
    now: datetime
    champion: int
    former: list[int]
    settings: dict[str, Any]
    drift_at: datetime | None = None
    signing_key: str = ""
    lake_url: str = ""
    labels: int = 0
    """That had come when it was asked for: what the trigger volume counts from."""
    cooldown_s: float = 0.0
    """On the model's clock; it says when the next run may begin after one that failed."""
    hook_secret: str = ""
    """Signs what external engines are sent."""
    external: dict[str, Any] | None = None
    """What an external engine answered."""
    token: int = 0
    attempt: int = 1
    parent: int = 0


def recorded(spec: Spec) -> Spec:
    """As the ledger keeps it: without secrets and addresses of stores, which are those of whoever begins a run."""
    return msgspec.structs.replace(spec, ledger_url="", tracking_uri="", lake_url="", hook_secret="")


class Result(msgspec.Struct, frozen=True):
    """What came out. `version` is the candidate's; gates and context become evidence."""

    run_id: str
    outcome: str
    gates: list[dict[str, Any]]
    context: dict[str, Any]
    version: int | None = None
    cap: float = 1.0
    loss_sd: float = 0.5


class Failure(msgspec.Struct, frozen=True):
    """Why a child gave up, in words that quote no data."""

    code: str
    message: str
    step: str


class HandedOver(Exception):
    """The run goes on when the external engine answers."""


Step = Callable[[str, dict[str, Any]], None]
