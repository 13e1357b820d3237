"""A trial of a candidate: what has been seen so far decides whether it goes on. Pure, and recomputable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from registry import __version__
from retrain.trials.decision import HARM, WAITING, Decision
from retrain.trials.guarding import SRM_PAUSE, SRM_STOP, fired, labels_told, readings, split
from retrain.trials.paired import log_paired_e, paired_interval
from retrain.trials.policy import Trial
from retrain.trials.power import needed, needed_paired
from retrain.trials.sequential import Score, interval, log_e, log_harm_e, rho, score
from retrain.trials.several import SeveralStats, decide_several
from retrain.trials.stats import AbStats, Alarm, ShadowStats, Stats, Unfit, WatchStats, stats_from_dict

__all__ = ["advance", "replay_trial", "trial_evidence"]


def advance(trial: Trial, stats: Stats | SeveralStats, now: datetime, alarm: Alarm | None = None) -> Decision:
    """Look at the trial once; it may be looked at after every label."""
    if isinstance(stats, Unfit):
        return Decision("reject", f"the candidate may not serve: {'; '.join(stats.problems)}")
    dwelt = now - trial.entered >= timedelta(seconds=trial.policy.dwell_s)
    if isinstance(stats, WatchStats):
        decision = _watch(trial, stats, now)
    elif isinstance(stats, SeveralStats):
        decision = decide_several(trial, stats, now)
    elif isinstance(stats, ShadowStats):
        decision = _shadow(trial, stats, dwelt=dwelt)
    else:
        decision = _drawn(trial, stats, dwelt=dwelt)
    if alarm is not None and decision.action != "rollback":
        return Decision("rollback", f"the alert {alarm.name} is firing", decision.facts, "alert")
    late = now - trial.started >= timedelta(seconds=trial.policy.limit_s)
    if decision.action in (*WAITING, "reweigh") and late and not isinstance(stats, WatchStats):
        return replace(decision, action="inconclusive", reason=f"time is up: {decision.reason}")
    return decision


def _paired(d: np.ndarray[Any, np.dtype[Any]], alpha: float) -> dict[str, Any]:
    n = int(d.size)
    effect = float(d.mean()) if n else 0.0
    bounds = paired_interval(d, alpha)
    return {"n": n, "effect": effect, "lower": bounds.lower, "upper": bounds.upper}


def _shadow(trial: Trial, stats: ShadowStats, *, dwelt: bool) -> Decision:
    p = trial.policy
    d = np.asarray(stats.d, dtype=np.float64)
    ni, sup, harm = log_paired_e(d, -p.margin), log_paired_e(d, 0.0), log_paired_e(-d, 0.0)
    facts = {**_paired(d, p.alpha), "log_e_non_inferiority": ni, "log_e_superiority": sup, "log_e_harm": harm}
    n, effect = facts["n"], facts["effect"]
    told = needed_paired(effect, sd=float(d.std()), alpha=p.alpha, margin=p.margin, log_e=ni, n=n) if n > 1 else 0
    facts["needed"] = max(p.shadow_labels - n, told) if told is not None else None
    if harm >= HARM:
        return Decision("reject", f"harm in shadow after {n} paired labels, effect {effect:+.4f}", facts)
    if n < p.shadow_labels:
        return Decision("continue", f"{p.shadow_labels - n} more paired labels", facts)
    if ni < -math.log(p.alpha):
        return Decision("continue", f"non-inferiority not shown by {n} paired labels", facts)
    if not dwelt:
        return Decision("continue", "the least time in this stage is not over", facts)
    return Decision("advance", f"not worse in shadow after {n} paired labels, effect {effect:+.4f}", facts)


def _drawn(trial: Trial, stats: AbStats, *, dwelt: bool) -> Decision:
    """Canary and A/B: safety first, then what may be concluded, then whether more may be exposed."""
    p = trial.policy
    found = score(stats.strata)
    r = rho(p.loss_sd, p.planned_per_arm, p.weight, p.alpha)
    ni, sup, harm = log_e(found, -p.margin, r), log_e(found, 0.0, r), log_harm_e(found, r)
    srm = split(p, stats)
    bounds = interval(found, p.alpha, r)
    smaller = min(found.n_t, found.n_c)
    guards = readings(trial, stats)
    facts: dict[str, Any] = {"n_candidate": found.n_t, "n_champion": found.n_c, "effect": found.effect}
    facts |= {"lower": bounds.lower, "upper": bounds.upper, "exposed": list(stats.exposed), "log_e_srm": srm}
    facts |= {"log_e_non_inferiority": ni, "log_e_superiority": sup, "log_e_harm": harm}
    facts |= {"guardrails": {g.name: g.to_dict() for g in guards}, "needed": None}
    if srm >= SRM_STOP:
        return Decision("abort", "the split is not what was asked for: the sample is invalid", facts)
    broken = fired(guards)
    if broken is not None:
        why = f"guardrail {broken.name}: {broken.seen:+.4g} against the champion, {broken.allowed:.4g} allowed"
        return Decision("rollback", why, facts, broken.name)
    if harm >= HARM:
        return Decision("rollback", f"harm, effect {found.effect:+.4f}", facts, "harm")
    if srm >= SRM_PAUSE:
        return Decision("pause", "the split looks wrong: nothing is decided until it is explained", facts)
    if trial.stage == "canary":
        return _canary(trial, stats, facts, dwelt=dwelt)
    bar = -math.log(p.alpha)
    facts["needed"] = _needed(trial, found, r, least=p.min_per_arm - smaller)
    if smaller >= p.min_per_arm:
        told = labels_told(stats)
        facts |= {"labels_told": told.to_dict()} if stats.labelled else {}
        if told.fired and ni >= bar:
            why = f"a share of labels that differs by {told.seen:+.1%} from the champion's may be chosen by somebody"
            return Decision("pause", f"not promoted: {why}", facts)
        if ni >= bar and sup >= bar:
            return Decision("promote", f"better, effect {found.effect:+.4f}", facts)
        if ni >= bar and trial.reason == "freshness" and smaller >= p.planned_per_arm:
            return Decision("promote", f"not worse and fresher, effect {found.effect:+.4f}", facts)
    if trial.step + 1 < len(p.stages):
        return _widen(trial, stats, facts, dwelt=dwelt)
    if smaller < p.min_per_arm:
        return Decision("continue", f"{p.min_per_arm - smaller} more labels in the smaller arm", facts)
    missing = "superiority" if ni >= bar else "non-inferiority"
    return Decision("continue", f"{missing} not shown by {smaller} labels in the smaller arm", facts)


def _needed(trial: Trial, found: Score, r: float, *, least: int) -> int | None:
    """Labels that the smaller arm still needs to prove the effect seen so far; None where that is not foreseeable."""
    if found.w <= 0.0:
        return max(least, 0)
    weight, sd = trial.policy.ladder[trial.step].weight, math.sqrt(found.v / found.w)
    told = needed(found.effect, sd=sd, alpha=trial.policy.alpha, rho=r, weight=weight, seen=found)
    return None if told is None else max(least, min(told.candidate, told.champion), 0)


def _canary(trial: Trial, stats: AbStats, facts: dict[str, Any], *, dwelt: bool) -> Decision:
    """Errors and latency only: its few requests could prove nothing about quality."""
    seen = sum(u.n_t for u in stats.units)
    if seen < trial.policy.canary_units:
        return Decision("continue", f"{trial.policy.canary_units - seen} more entities on the candidate's arm", facts)
    if not dwelt:
        return Decision("continue", "the least time in this stage is not over", facts)
    return Decision("advance", f"neither errors nor slow answers on {seen} entities", facts)


def _widen(trial: Trial, stats: AbStats, facts: dict[str, Any], *, dwelt: bool) -> Decision:
    """More may be exposed once this step has shown its labels and no harm; that it is no worse, shadow has shown."""
    mine = [s for s in stats.strata if s.key.startswith(f"{trial.step}/")]
    smaller = min(sum(s.n_t for s in mine), sum(s.n_c for s in mine))
    if smaller < trial.policy.step_labels:
        more = trial.policy.step_labels - smaller
        return Decision("continue", f"{more} more labels in the smaller arm of {trial.name}", facts)
    if not dwelt:
        return Decision("continue", "the least time in this stage is not over", facts)
    return Decision("advance", f"no harm by {smaller} labels in the smaller arm of {trial.name}", facts)


def _watch(trial: Trial, stats: WatchStats, now: datetime) -> Decision:
    """The former champion answers in shadow: harm shows on pairs, or on labels of the trial that came after it."""
    p = trial.policy
    d = np.asarray(stats.d, dtype=np.float64)
    found = score(stats.strata)
    pairs = log_paired_e(-d, 0.0)
    late = log_harm_e(found, rho(p.loss_sd, p.planned_per_arm, p.weight, p.alpha))
    harm = float(np.logaddexp(pairs, late)) - math.log(2.0)  # the mean of two e-values is one
    facts = {**_paired(d, p.alpha), "log_e_harm": harm, "needed": None}
    facts |= {"n_candidate": found.n_t, "n_champion": found.n_c}
    if harm >= HARM:
        why = f"harm after the promotion, effect {facts['effect']:+.4f} by {facts['n']} paired labels"
        return Decision("rollback", why, facts, "harm")
    lasted, watch = now - trial.entered, timedelta(seconds=p.watch_s)
    # labels that are slow, or a replay that is fast: with few pairs it watches for as long again
    if lasted >= 2 * watch or (lasted >= watch and facts["n"] >= p.shadow_labels):
        return Decision("keep", f"the watch saw no harm in {facts['n']} paired labels", facts)
    return Decision("continue", f"watched against the former champion, {facts['n']} paired labels", facts)


def trial_evidence(
    trial: Trial,
    stats: Stats | SeveralStats,
    now: datetime,
    decision: Decision,
    *,
    alarm: Alarm | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of a decision's row: enough to make the decision again without the lake."""
    return {
        "subject": "trial",
        "trial": trial.to_dict(),
        "stage": trial.name,
        "stats": stats.to_dict(),
        "now": now.isoformat(),
        "alarm": {"name": alarm.name, "evidence_id": alarm.evidence_id} if alarm else None,
        "action": decision.action,
        "reason": decision.reason,
        "cause": decision.cause,
        "facts": decision.facts,
        "inputs": dict(inputs or {}),
        "code": __version__,
    }


def replay_trial(body: Mapping[str, Any]) -> Decision:
    """Decide again from a row of evidence."""
    alarm = Alarm(**body["alarm"]) if body.get("alarm") else None
    trial, now = Trial.from_dict(body["trial"]), datetime.fromisoformat(body["now"])
    seen = body["stats"]
    stats = SeveralStats.from_dict(seen) if seen["seen"] == "several" else stats_from_dict(seen)
    return advance(trial, stats, now, alarm)
