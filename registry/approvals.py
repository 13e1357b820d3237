"""Registrations and approvals as rows of evidence, in the ledger's hash chain."""

from __future__ import annotations

from typing import Final, Literal

from registry.ledger import Ledger
from registry.policy import Standing

REGISTERED: Final = "registered"
APPROVAL: Final = "approval"
_ENOUGH: Final = 10_000


def record(
    ledger: Ledger,
    model: str,
    version: int,
    *,
    kind: Literal["registered", "approval"],
    actor: str,
    digest: str,
    token: int | None = None,
    **more: str,
) -> int:
    """Write down once that `actor` registered or approved the bundle of this digest; returns the row's id."""
    body = {"version": version, "actor": actor, "digest": digest}
    for row in ledger.evidence(model, kind, limit=_ENOUGH):
        if body.items() <= row.body.items():
            return row.id
    return ledger.record_evidence(model, kind, {**body, **more}, token=token)


def standing(ledger: Ledger, model: str, version: int, digest: str | None = None) -> Standing:
    """Who registered the version, and who approved it; with `digest`, only approvals of that content count."""
    registered = [row.body for row in ledger.evidence(model, REGISTERED, limit=_ENOUGH)]
    approved = [row.body for row in ledger.evidence(model, APPROVAL, limit=_ENOUGH)]
    return Standing(
        frozenset(body["actor"] for body in registered if body["version"] == version),
        frozenset(
            body["actor"]
            for body in approved
            if body.get("version") == version and digest in (None, body.get("digest"))
        ),
    )
