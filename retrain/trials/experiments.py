"""A trial of a candidate: what has been seen so far decides whether it goes on. Pure, and recomputable."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrain.trials.sequential import Stratum, interval, log_e, log_harm_e, log_paired_e, log_srm_e, rho, score

__all__ = ["AbStats", "Decision", "Policy", "ShadowStats", "Trial", "advance", "replay_trial"]

Action = Literal["continue", "advance", "promote", "reject", "inconclusive", "pause", "abort"]

HARM_ALPHA = 0.01
SRM_PAUSE, SRM_STOP = math.log(100.0), math.log(1_000.0)


@dataclass(frozen=True, slots=True)
class Policy:
    """What was fixed before the first label: nothing here may change while the trial runs."""

    margin: float
    alpha: float
    shadow_labels: int
    ab_weight: float
    ab_min_per_arm: int
    ab_planned_per_arm: int
    limit_s: float
    loss_sd: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate against one champion; `cap` is the loss cap of the champion, used for both."""

    experiment_id: str
    champion: int
    candidate: int
    reason: str
    stage: Literal["shadow", "ab"]
    started: datetime
    policy: Policy
    cap: float

    def to_dict(self) -> dict[str, Any]:
        """The JSON form kept in rows of the ledger."""
        return {**asdict(self), "started": self.started.isoformat()}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Trial:
        """Read the JSON form."""
        return cls(
            experiment_id=body["experiment_id"],
            champion=int(body["champion"]),
            candidate=int(body["candidate"]),
            reason=body["reason"],
            stage=body["stage"],
            started=datetime.fromisoformat(body["started"]),
            policy=Policy(**body["policy"]),
            cap=float(body["cap"]),
        )

    def at_stage(self, stage: Literal["shadow", "ab"]) -> Trial:
        """The same trial in another stage."""
        return replace(self, stage=stage)


@dataclass(frozen=True)
class ShadowStats:
    """Paired loss differences (champion - candidate) in the order in which their labels became known."""

    d: NDArray[np.float32]

    def to_dict(self) -> dict[str, Any]:
        """Every difference, compressed: a bet cannot be recomputed from sums."""
        raw = np.asarray(self.d, dtype="<f4").tobytes()
        return {"stage": "shadow", "d": base64.b64encode(zlib.compress(raw)).decode("ascii")}


@dataclass(frozen=True)
class AbStats:
    """Labelled losses by stratum, and *all* exposed units (champion, candidate) for the sample-ratio check."""

    strata: tuple[Stratum, ...]
    exposed: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Sufficient statistics of each stratum."""
        return {"stage": "ab", "strata": [s.to_list() for s in self.strata], "exposed": list(self.exposed)}


def stats_from_dict(body: Mapping[str, Any]) -> ShadowStats | AbStats:
    if body["stage"] == "shadow":
        return ShadowStats(np.frombuffer(zlib.decompress(base64.b64decode(body["d"])), dtype="<f4"))
    c, t = body["exposed"]
    return AbStats(tuple(Stratum.from_list(r) for r in body["strata"]), (int(c), int(t)))


@dataclass(frozen=True, slots=True)
class Decision:
    """`facts` are the numbers behind the action: log e-values, effect, interval, counts."""

    action: Action
    reason: str
    facts: dict[str, Any]


def advance(trial: Trial, stats: ShadowStats | AbStats, now: datetime) -> Decision:
    """Look at the trial once; it may be looked at after every label."""
    decision = _shadow(trial, stats) if isinstance(stats, ShadowStats) else _ab(trial, stats)
    if decision.action == "continue" and now - trial.started >= timedelta(seconds=trial.policy.limit_s):
        return replace(decision, action="inconclusive", reason=f"time is up: {decision.reason}")
    return decision


def _shadow(trial: Trial, stats: ShadowStats) -> Decision:
    p = trial.policy
    d = np.asarray(stats.d, dtype=np.float64)
    n = int(d.size)
    ni, harm = log_paired_e(d, -p.margin), log_paired_e(-d, 0.0)
    effect = float(d.mean()) if n else 0.0
    half = 1.96 * float(d.std()) / math.sqrt(n) if n > 1 else 1.0  # shown, never decided on
    facts: dict[str, Any] = {"n": n, "log_e_non_inferiority": ni, "log_e_harm": harm, "effect": effect}
    facts |= {"lower": effect - half, "upper": effect + half}
    if harm >= -math.log(HARM_ALPHA):
        return Decision("reject", f"harm in shadow after {n} paired labels, effect {effect:+.4f}", facts)
    if n < p.shadow_labels:
        return Decision("continue", f"{p.shadow_labels - n} more paired labels", facts)
    if ni >= -math.log(p.alpha):
        return Decision("advance", f"not worse in shadow after {n} paired labels, effect {effect:+.4f}", facts)
    return Decision("continue", f"non-inferiority not shown by {n} paired labels", facts)


def _ab(trial: Trial, stats: AbStats) -> Decision:
    p = trial.policy
    found = score(stats.strata)
    r = rho(p.loss_sd, p.ab_planned_per_arm, p.ab_weight, p.alpha)
    ni, sup, harm = log_e(found, -p.margin, r), log_e(found, 0.0, r), log_harm_e(found, r)
    srm = log_srm_e(stats.exposed, (1.0 - p.ab_weight, p.ab_weight))
    bounds = interval(found, p.alpha, r)
    smaller = min(found.n_t, found.n_c)
    facts: dict[str, Any] = {"n_candidate": found.n_t, "n_champion": found.n_c, "effect": found.effect}
    facts |= {"lower": bounds.lower, "upper": bounds.upper, "exposed": list(stats.exposed), "log_e_srm": srm}
    facts |= {"log_e_non_inferiority": ni, "log_e_superiority": sup, "log_e_harm": harm}
    if srm >= SRM_STOP:
        return Decision("abort", "the split is not what was asked for: the sample is invalid", facts)
    if harm >= -math.log(HARM_ALPHA):
        return Decision("reject", f"harm, effect {found.effect:+.4f}", facts)
    if srm >= SRM_PAUSE:
        return Decision("pause", "the split looks wrong: nothing is decided until it is explained", facts)
    bar = -math.log(p.alpha)
    if smaller < p.ab_min_per_arm:
        return Decision("continue", f"{p.ab_min_per_arm - smaller} more labels in the smaller arm", facts)
    if ni >= bar and sup >= bar:
        return Decision("promote", f"better, effect {found.effect:+.4f}", facts)
    if ni >= bar and trial.reason == "freshness" and smaller >= p.ab_planned_per_arm:
        return Decision("promote", f"not worse and fresher, effect {found.effect:+.4f}", facts)
    missing = "superiority" if ni >= bar else "non-inferiority"
    return Decision("continue", f"{missing} not shown by {smaller} labels in the smaller arm", facts)


def trial_evidence(trial: Trial, stats: ShadowStats | AbStats, now: datetime, decision: Decision) -> dict[str, Any]:
    """The body of a decision's row: enough to make the decision again without the lake."""
    return {
        "subject": "trial",
        "trial": trial.to_dict(),
        "stats": stats.to_dict(),
        "now": now.isoformat(),
        "action": decision.action,
        "reason": decision.reason,
        "facts": decision.facts,
    }


def replay_trial(body: Mapping[str, Any]) -> Decision:
    """Decide again from a row of evidence."""
    return advance(Trial.from_dict(body["trial"]), stats_from_dict(body["stats"]), datetime.fromisoformat(body["now"]))
