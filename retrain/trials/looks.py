"""Looks at a trial, kept for plots: how each test stood over time. Decisions never read them; evidence is elsewhere."""

from __future__ import annotations

from datetime import datetime

import msgspec

from registry.ledger import Ledger
from retrain.trials.decision import Decision
from retrain.trials.policy import Trial

__all__ = ["MOST", "Look", "add", "look", "read"]

#: Looks kept of one trial. Beyond, every second one of the older half goes: a plot needs the shape, not each point.
MOST = 400


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """How a trial stood when it was looked at. Effects are champion loss - candidate loss; logs are natural.

    `at` is ISO 8601 on the model's clock. `guardrails` are log e-values by name. `needed` is how many more labels in
    the smaller arm the stage still asks for, as far as that can be said. What a stage does not test stays at 0.
    """

    at: str
    stage: str
    n_champion: int
    n_candidate: int
    effect: float
    lower: float
    upper: float
    log_e_non_inferiority: float = 0.0
    log_e_superiority: float = 0.0
    log_e_harm: float = 0.0
    log_e_srm: float = 0.0
    guardrails: dict[str, float] = {}
    needed: int | None = None


def thinned(looks: list[Look]) -> list[Look]:
    """At most `MOST` looks; the first, the last and the first of each stage stay.

    >>> kept = thinned([Look(at=str(i), stage="ab", n_champion=i, n_candidate=i, effect=0, lower=0, upper=0)
    ...                 for i in range(401)])
    >>> len(kept), kept[0].at, kept[-1].at
    (301, '0', '400')
    """
    if len(looks) <= MOST:
        return looks
    half = len(looks) // 2
    turns = {i for i in range(1, half) if looks[i].stage != looks[i - 1].stage}
    return [one for i, one in enumerate(looks) if i >= half or i % 2 == 0 or i in turns]


def read(ledger: Ledger, experiment_id: str) -> list[Look]:
    """The looks at a trial, oldest first; none when it was never looked at.

    Raises:
        StoreUnavailable: the ledger does not answer.
    """
    body = ledger.load_state(_name(experiment_id))
    return msgspec.json.decode(body, type=list[Look]) if body else []


def add(ledger: Ledger, experiment_id: str, look: Look, *, token: int | None) -> None:
    """Keep one more look.

    Raises:
        LeaseLost: another worker leads by now.
        StoreUnavailable: the ledger does not answer.
    """
    looks = read(ledger, experiment_id)
    if looks and looks[-1] == look:
        return
    ledger.save_state(_name(experiment_id), msgspec.json.encode(thinned([*looks, look])), token=token)


def look(trial: Trial, decision: Decision, now: datetime) -> Look:
    """How a trial stands by a decision's facts."""
    facts = decision.facts
    return Look(
        at=now.isoformat(),
        stage=trial.name,
        n_champion=int(facts.get("n_champion", facts.get("n", 0))),
        n_candidate=int(facts.get("n_candidate", facts.get("n", 0))),
        effect=float(facts.get("effect", 0.0)),
        lower=float(facts.get("lower", -1.0)),
        upper=float(facts.get("upper", 1.0)),
        log_e_non_inferiority=float(facts.get("log_e_non_inferiority", 0.0)),
        log_e_superiority=float(facts.get("log_e_superiority", 0.0)),
        log_e_harm=float(facts.get("log_e_harm", 0.0)),
        log_e_srm=float(facts.get("log_e_srm", 0.0)),
        guardrails={name: float(g["log_e"]) for name, g in facts.get("guardrails", {}).items()},
        needed=facts.get("needed"),
    )


def _name(experiment_id: str) -> str:
    return f"looks:{experiment_id}"
