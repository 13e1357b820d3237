"""The deployment that each step of a trial asks for, and the trial that each deployment says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from registry.ledger import Deployment
from registry.routing import Routing, Share
from retrain.trials.decision import Decision
from retrain.trials.policy import Trial
from retrain.trials.several import first_weights

__all__ = ["first_drawn", "next_epoch", "to_carry_out", "to_enter"]


def to_enter(trial: Trial) -> dict[str, Any]:
    """Fields of the deployment that begins a trial."""
    first = trial.policy.ladder[0]
    fields = {"candidate": trial.candidate, "mode": first.kind, "weight": first.weight, "salt": trial.salt}
    return {"champion": trial.champion, **(_shares(trial, first_weights(trial)) if trial.bandit else fields)}


def to_carry_out(trial: Trial, decision: Decision) -> dict[str, Any]:
    """Fields of the deployment that a decision asks for; a trial that was won knows only the winner."""
    if decision.action == "advance":
        step = trial.policy.ladder[trial.step + 1]
        fields = {"candidate": trial.candidate, "mode": step.kind, "weight": step.weight, "salt": trial.salt}
        return {"champion": trial.champion, **fields}
    if decision.action == "reweigh":
        weights = {int(v): w for v, w in decision.facts["weights"].items()}
        return {"champion": trial.champion, **_shares(trial, weights)}
    if decision.action == "promote" and trial.policy.watch_s > 0:
        return {"champion": trial.candidate, "candidate": trial.champion, "mode": "shadow", "salt": trial.salt}
    return {"champion": trial.candidate if decision.action in ("promote", "keep") else trial.champion}


def first_drawn(before: Trial, after: Trial) -> bool:
    """Whether requests begin to be drawn: what guardrails measure against is fixed before that."""
    steps = after.policy.ladder
    return after.step < len(steps) and steps[after.step].drawn and not any(steps[m.step].drawn for m in before.marks)


def _shares(trial: Trial, weights: Mapping[int, float]) -> dict[str, Any]:
    """The deployment's fields by which several candidates share the traffic; the champion has what they leave."""
    arms = tuple(Share(version, weight) for version, weight in weights.items() if version != trial.champion)
    first = {"candidate": arms[0].version, "mode": "ab", "weight": arms[0].weight}
    return {**first, "salt": trial.salt, "routing": Routing(arms=arms)}


def next_epoch(trial: Trial, deployment: Deployment, now: datetime) -> Trial:
    """The trial as a deployment of it says: candidates that are left, and their weights."""
    arms = deployment.routing.arms if deployment.routing is not None else ()
    weights = {arm.version: arm.weight for arm in arms}
    weights[trial.champion] = 1.0 - math.fsum(weights.values())
    if trial.marks and trial.marks[-1].weights == tuple(weights.items()):
        return trial.marked(deployment.revision)
    return trial.at_epoch(weights, deployment.revision, now)
