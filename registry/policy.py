"""Who may make a version the champion: the rules of one installation, and the decision as a pure function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LedgerPolicy(BaseModel):
    """The `[policy]` table.

    `aliases` is `revert` unless told otherwise: MLflow asks nobody for a password as it comes, so to follow its
    aliases would let everybody who reaches its page decide what serves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    approvals: int = Field(
        default=0, ge=0, description="people, other than who registered a version, who must approve it before promotion"
    )
    separation_of_duties: bool = Field(default=False, description="who registered a version may not promote it")
    aliases: Literal["follow", "ignore", "revert"] = Field(
        default="revert",
        description="an alias that somebody moved in MLflow: promote that version, leave the alias, or put it back",
    )
    alias_poll_s: float = Field(default=30.0, gt=0, description="seconds between looks at MLflow's aliases")


@dataclass(frozen=True, slots=True)
class Standing:
    """Who stands behind a version: everybody who registered it, and everybody who approved this very content."""

    registrars: frozenset[str] = frozenset()
    approvers: frozenset[str] = frozenset()


def refusal(policy: LedgerPolicy, standing: Standing, *, actor: str | None) -> str | None:
    """Why `actor` (None: nobody knows who) may not promote a version of this standing; None when they may."""
    counted = standing.approvers - standing.registrars
    missing = policy.approvals - len(counted)
    if missing > 0:
        who = f" other than {', '.join(sorted(standing.registrars))}, who registered it" if standing.registrars else ""
        return f"{missing} of {policy.approvals} approvals are missing, by people{who}"
    if not policy.separation_of_duties:
        return None
    if not standing.registrars:
        return "nobody knows who registered it, and who did may not promote it"
    if actor is None:
        return "nobody knows who moves it, and who registered it may not"
    if actor in standing.registrars:
        return f"{actor} registered it and may not promote it as well"
    return None
