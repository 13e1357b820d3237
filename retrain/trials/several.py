"""Several candidates at once: where the traffic goes is the bandit's, who is promoted is the test's.

Each deployment of the trial is an epoch with weights of its own, for a day at least; epochs are the strata.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from retrain.trials.bandit import Arm, contrast, propensities
from retrain.trials.decision import HARM, Decision
from retrain.trials.guarding import SRM_PAUSE, SRM_STOP
from retrain.trials.guards import ALPHA, Counts, log_rate_e
from retrain.trials.policy import Trial
from retrain.trials.sequential import Score, interval, log_e, log_harm_e, log_srm_e, rho, score

__all__ = ["EPOCH", "Epoch", "SeveralStats", "decide_several", "first_weights"]

#: Weights stay for so long at least: a stratum needs units of every arm.
EPOCH = timedelta(days=1)


@dataclass(frozen=True)
class Epoch:
    """One epoch by version: its chance to be drawn, the units drawn, and of those whose last epoch it is (a unit counts
    once) how many there are, how many it failed, and labelled losses.
    """

    weights: Mapping[int, float]
    units: Mapping[int, int]
    once: Mapping[int, int]
    failed: Mapping[int, int]
    losses: Mapping[int, Arm]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form kept as evidence."""
        return {
            "weights": {str(v): w for v, w in self.weights.items()},
            "units": {str(v): n for v, n in self.units.items()},
            "once": {str(v): n for v, n in self.once.items()},
            "failed": {str(v): n for v, n in self.failed.items()},
            "losses": {str(v): a.to_list() for v, a in self.losses.items()},
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Epoch:
        """Read the JSON form."""
        return cls(
            {int(v): float(w) for v, w in body["weights"].items()},
            {int(v): int(n) for v, n in body["units"].items()},
            {int(v): int(n) for v, n in body.get("once", body["units"]).items()},
            {int(v): int(n) for v, n in body["failed"].items()},
            {int(v): Arm.from_list(a) for v, a in body["losses"].items()},
        )


@dataclass(frozen=True)
class SeveralStats:
    """Every epoch of the trial so far, oldest first; its weights are the propensities by which arms were drawn."""

    epochs: tuple[Epoch, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form kept as evidence."""
        return {"seen": "several", "epochs": [e.to_dict() for e in self.epochs]}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> SeveralStats:
        """Read the JSON form."""
        return cls(tuple(Epoch.from_dict(e) for e in body["epochs"]))

    def against(self, champion: int, candidate: int) -> Score:
        """A candidate beside the champion, epoch by epoch."""
        return score(contrast([e.losses for e in self.epochs], champion=champion, candidate=candidate))


def first_weights(trial: Trial) -> dict[int, float]:
    """Equal parts, for nothing is known of any arm."""
    return propensities([], [trial.champion, *trial.candidates])


def decide_several(trial: Trial, stats: SeveralStats, now: datetime) -> Decision:
    """Look once: arms that do harm are dropped, one that is proved better is promoted, else weights follow."""
    p, k = trial.policy, trial.policy.several
    r = rho(p.loss_sd, p.planned_per_arm, 0.5, p.alpha / k)
    srm = _split(stats)
    arms = {v: _arm(trial, stats, v, r) for v in trial.candidates}
    best = max(arms, key=lambda v: float(arms[v]["effect"]))
    facts: dict[str, Any] = {**arms[best], "best": best, "log_e_srm": srm, "needed": None}
    facts["arms"] = {str(v): found for v, found in arms.items()}
    facts["exposed"] = [
        sum(e.units.get(trial.champion, 0) for e in stats.epochs),
        sum(n for e in stats.epochs for v, n in e.units.items() if v != trial.champion),
    ]
    if srm >= SRM_STOP:
        return Decision("abort", "the split is not what was asked for: the sample is invalid", facts)
    bad = {v: cause for v in arms if (cause := _bad(arms[v], k))}
    if len(bad) == len(arms):
        cause = bad[best]
        return Decision("rollback", f"{cause} by every candidate that was left", facts, cause)
    if bad:
        facts["weights"] = _weights(trial, stats, [v for v in arms if v not in bad])
        told = ", ".join(f"version {v}: {cause}" for v, cause in bad.items())
        return Decision("reweigh", f"dropped {told}", facts)
    if srm >= SRM_PAUSE:
        return Decision("pause", "the split looks wrong: nothing is decided until it is explained", facts)
    bar = math.log(k / p.alpha)
    won = [
        v
        for v, found in arms.items()
        if min(found["n_candidate"], found["n_champion"]) >= p.min_per_arm
        and min(found["log_e_non_inferiority"], found["log_e_superiority"]) >= bar
    ]
    if won:
        winner = max(won, key=lambda v: float(arms[v]["effect"]))
        facts |= {**arms[winner], "best": winner}
        return Decision("promote", f"version {winner} is better, effect {arms[winner]['effect']:+.4f}", facts)
    if now - trial.entered >= EPOCH:
        facts["weights"] = _weights(trial, stats, list(arms))
        shares = ", ".join(f"{v} {w:.0%}" for v, w in facts["weights"].items())
        return Decision("reweigh", f"shares by how likely each is best: {shares}", facts)
    return Decision("continue", f"no candidate of {k} is proved better", facts)


def _arm(trial: Trial, stats: SeveralStats, version: int, r: float) -> dict[str, Any]:
    p = trial.policy
    found = stats.against(trial.champion, version)
    bounds = interval(found, p.alpha / p.several, r)
    errors = 0.0
    if p.errors is not None:
        errors = log_rate_e(_failures(trial, stats, version), tolerance=p.errors)
    return {
        "n_candidate": found.n_t,
        "n_champion": found.n_c,
        "effect": found.effect,
        "lower": bounds.lower,
        "upper": bounds.upper,
        "log_e_non_inferiority": log_e(found, -p.margin, r),
        "log_e_superiority": log_e(found, 0.0, r),
        "log_e_harm": log_harm_e(found, r),
        "log_e_errors": errors,
    }


def _failures(trial: Trial, stats: SeveralStats, version: int) -> list[Counts]:
    """Among the units of the champion and of one candidate the draw was between these two."""
    found = []
    for number, e in enumerate(stats.epochs):
        mine, its = e.weights.get(version, 0.0), e.weights.get(trial.champion, 0.0)
        if mine > 0.0 and its > 0.0:
            n_t, n_c = e.once.get(version, 0), e.once.get(trial.champion, 0)
            found.append(Counts(str(number), mine / (mine + its), n_t, e.failed.get(version, 0), n_c, 0))
    return found


def _bad(found: Mapping[str, Any], k: int) -> str:
    """What takes an arm out; each candidate has its part of the error rates."""
    if found["log_e_errors"] >= math.log(k / ALPHA):
        return "error_rate"
    return "harm" if found["log_e_harm"] >= HARM + math.log(k) else ""


def _split(stats: SeveralStats) -> float:
    """A union over epochs: the i-th has 1 / (i (i + 1)) of the error rate, however many there will be."""
    found = []
    for i, e in enumerate(stats.epochs):
        versions = sorted(e.weights)  # sums must not depend on the order in which JSON keeps them
        units, weights = [e.units.get(v, 0) for v in versions], [e.weights[v] for v in versions]
        found.append(log_srm_e(units, weights) - math.log((i + 1) * (i + 2)))
    return max(found, default=0.0)


def _weights(trial: Trial, stats: SeveralStats, left: list[int]) -> dict[str, float]:
    """The next epoch's: as JSON has them, the champion's last."""
    found = propensities([e.losses for e in stats.epochs], [*left, trial.champion])
    return {str(v): w for v, w in found.items()}
