"""What the worker may not promote by itself."""

from __future__ import annotations

from registry.approvals import standing
from registry.ledger import Ledger
from registry.policy import LedgerPolicy, refusal

__all__ = ["ACTOR", "waits_for"]

ACTOR = "worker"


def waits_for(ledger: Ledger, policy: LedgerPolicy, model: str, version: int, *, by_people: bool = False) -> str | None:
    """Why the worker may not promote `version` yet: people must approve it, for it registered the version itself."""
    rules = LedgerPolicy(approvals=max(policy.approvals, int(by_people or policy.separation_of_duties)))
    return refusal(rules, standing(ledger, model, version), actor=ACTOR)
