"""How far a trial came, read off the deployment: that is what happened, whatever else was written down."""

from __future__ import annotations

from typing import Literal

from registry.ledger import Deployment
from retrain.trials.decision import Decision
from retrain.trials.policy import Trial

__all__ = ["End", "Place", "by_hand", "ended", "reconcile"]

End = Literal["promoted", "rejected", "rolled_back", "inconclusive", "aborted"]
Place = int | Literal["out", "promoted", "aborted"]
"""A step of the ladder, its length for the watch; or the candidate is out, is champion, or others are."""

_ENDS: dict[str, End] = {
    "promote": "promoted",
    "keep": "promoted",
    "reject": "rejected",
    "rollback": "rolled_back",
    "inconclusive": "inconclusive",
    "abort": "aborted",
}


def reconcile(trial: Trial, deployment: Deployment) -> Place:
    """Where the deployment says that the trial is."""
    pair = deployment.champion, deployment.candidate
    if trial.bandit and deployment.champion == trial.champion and deployment.candidate is not None:
        arms = deployment.routing.arms if deployment.routing is not None else ()
        ours = bool(arms) and {arm.version for arm in arms} <= set(trial.candidates)
        return 0 if ours and deployment.mode == "ab" else "aborted"
    if pair == (trial.champion, trial.candidate):
        for number, step in enumerate(trial.policy.ladder):
            if step.kind == deployment.mode and (step.weight == deployment.weight or not step.drawn):
                return number
        return "aborted"
    if pair == (trial.champion, None):
        return "out"
    won = deployment.champion in trial.candidates
    if won and deployment.candidate == trial.champion and deployment.mode == "shadow":
        return len(trial.policy.stages)
    return "promoted" if won else "aborted"


def ended(decision: Decision) -> End | None:
    """The state in which a decision leaves its trial, once it is carried out; None while it goes on."""
    return _ENDS.get(decision.action)


def by_hand(trial: Trial, place: Literal["out", "promoted", "aborted"]) -> End:
    """The state of a trial that somebody else's move has ended."""
    if trial.stage == "watch":  # it was won already: only its candidate's going back undoes that
        return "rolled_back" if place == "out" else "promoted"
    return "promoted" if place == "promoted" else "aborted"
