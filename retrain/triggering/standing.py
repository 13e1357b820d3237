"""What keeps a model's next run, and until when: written by the leader, read by `perene retrain status`."""

from __future__ import annotations

import msgspec

from registry.ledger import Ledger
from retrain.triggering.triggers import Trigger

__all__ = ["Standing", "keep", "read"]


class Standing(msgspec.Struct, frozen=True):
    """The last decision. Times are ISO 8601 on the model's clock."""

    why: str
    brake: str | None
    next_at: str | None
    clock: str
    """What the model's clock showed when this was found; it is kept when something changes, not at every look."""


def keep(ledger: Ledger, model: str, trigger: Trigger, clock: str, before: Standing | None, *, token: int) -> Standing:
    """Write the decision down if it differs from the one before; returns what stands."""
    at = trigger.next_at.isoformat() if trigger.next_at else None
    why = trigger.why if trigger.reason is None else f"a run begins: {trigger.why}"
    found = Standing(why, trigger.brake, at, clock)
    if before is not None and (before.brake, before.next_at) == (found.brake, at) and trigger.reason is None:
        return before
    ledger.save_state(_name(model), msgspec.json.encode(found), token=token)
    return found


def read(ledger: Ledger, model: str) -> Standing | None:
    """What `keep` wrote; None before the worker's first look."""
    body = ledger.load_state(_name(model))
    try:
        return msgspec.json.decode(body, type=Standing) if body else None
    except msgspec.DecodeError:  # of another version of Perene
        return None


def _name(model: str) -> str:
    return f"retrain:{model}"
