"""What a trial is fixed to before it begins: from the model's settings, and what somebody asked for instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from registry.bundle import Bundle
from registry.contract import incompatibilities
from registry.errors import ConfigInvalid
from retrain.settings import RetrainSettings
from retrain.training.runs import Concluded
from retrain.trials.guards import Outcome
from retrain.trials.policy import Policy, Trial
from retrain.trials.stats import Unfit
from retrain.trials.trial_settings import TrialSettings

__all__ = ["asked", "policy_of", "trained", "unfit"]

#: Standard deviation of a bounded loss that nobody has measured: it shapes the test, and cannot make it wrong.
USUAL_SD = 0.25


def policy_of(settings: TrialSettings, loss_sd: float) -> Policy:
    """The settings as a trial keeps them, in seconds."""
    g = settings.guardrails
    outcomes = tuple(
        Outcome(name, (o.lower, o.upper), o.higher_is_better, o.tolerance, o.sd or (o.upper - o.lower) / 4.0)
        for name, o in settings.outcomes.items()
    )
    return Policy(
        margin=settings.margin,
        alpha=settings.alpha,
        stages=settings.stages,
        dwell_s=settings.dwell.total_seconds(),
        shadow_labels=settings.shadow_labels,
        canary_units=settings.canary_units,
        step_labels=settings.step_labels,
        min_per_arm=settings.min_per_arm,
        planned_per_arm=settings.planned_per_arm,
        limit_s=settings.limit.total_seconds(),
        watch_s=settings.watch.total_seconds(),
        loss_sd=loss_sd,
        metric=settings.metric,
        errors=g.errors,
        latency=g.latency,
        predictions=g.predictions,
        rates=g.rates,
        outcomes=outcomes,
    )


def trained(done: Concluded, settings: TrialSettings, retrain: RetrainSettings, now: datetime) -> Trial | None:
    """The trial of what a run trained; None where there is nothing to try, or nobody wants it tried."""
    result = done.result
    if result is None or result.outcome != "candidate" or result.version is None:
        return None
    if settings.promotion == "manual" or result.version == done.spec.champion:
        return None
    return Trial(
        experiment_id=f"{done.spec.run_id}-trial",
        champion=done.spec.champion,
        candidate=result.version,
        reason="freshness" if retrain.freshness and done.spec.reason == "schedule" else done.spec.reason,
        started=now,
        entered=now,
        policy=policy_of(settings, result.loss_sd),
        cap=result.cap,
        by_people=settings.promotion == "approve",
        gates_id=done.evidence_id,
    )


def asked(body: Mapping[str, Any], settings: TrialSettings, champion: Bundle, now: datetime) -> Trial:
    """The trial that a row of evidence asks for; its `options` stand for the settings of the same name.

    Raises:
        ConfigInvalid: an option is none, or cannot be.
    """
    options = dict(body.get("options") or {})
    others = tuple(int(version) for version in options.pop("others", ()))
    try:
        chosen = TrialSettings.model_validate({**settings.model_dump(), **options})
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigInvalid(
            "the trial's options cannot be obeyed", where=where, expected="what [models.NAME.trial] takes"
        ) from error
    candidate = int(body["candidate"])
    if len({candidate, int(body["champion"]), *others}) < len(others) + 2:
        raise ConfigInvalid("a version is in the trial twice", where="others", expected="other candidates")
    quality = champion.reference.get("quality") or {}
    return Trial(
        experiment_id=str(body["experiment_id"]),
        champion=int(body["champion"]),
        candidate=candidate,
        reason="requested",
        started=now,
        entered=now,
        policy=_shared(policy_of(chosen, float(quality.get("loss_sd") or USUAL_SD)), others),
        others=others,
        cap=float(quality.get("cap") or 1.0),
        by_people=chosen.promotion != "auto",
        actor=str(body.get("actor") or ""),
    )


def _shared(policy: Policy, others: tuple[int, ...]) -> Policy:
    """Several candidates share the traffic from the start: the bandit says how, so there is one stage."""
    return replace(policy, stages=policy.stages[-1:], several=len(others) + 1) if others else policy


def unfit(champion: Bundle, candidate: Bundle) -> Unfit | None:
    """Why the candidate may not take the champion's place, whatever it answers; None when it may."""
    problems = list(incompatibilities(champion.contract, candidate.contract))
    if candidate.certificate.get("verdict") == "refused":
        problems.append("its certificate says refused")
    return Unfit(tuple(problems)) if problems else None
