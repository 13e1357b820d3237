"""Guardrails and the split of a trial, read from what was seen since the first request was drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence

from retrain.trials.guards import Reading, error_rate, label_rate, latency, outcome, prediction_mean, prediction_rates
from retrain.trials.policy import Policy, Trial
from retrain.trials.sequential import log_srm_e
from retrain.trials.stats import AbStats

__all__ = ["SRM_PAUSE", "SRM_STOP", "fired", "labels_told", "readings", "split"]

SRM_PAUSE, SRM_STOP = math.log(100.0), math.log(1_000.0)
#: Share of the candidate's units that may be slower than the threshold: it is a p99.
SLOW = 0.01
#: So far may the arms' shares of units with a label differ: beyond it the labels may depend on what was answered.
TOLD = 0.02


def split(policy: Policy, stats: AbStats) -> float:
    """Log evidence that some step's units do not fall as asked: its largest e-value over the number of drawn steps.

    A union, for the product would be wrong: entities come back in the next step, on the arm that they had, so luck in
    one step is seen again in the next.
    """
    steps = policy.ladder
    found = [log_srm_e((u.n_c, u.n_t), (1.0 - u.weight, u.weight)) for u in stats.units]
    return max(found, default=0.0) - math.log(sum(step.drawn for step in steps))


def readings(trial: Trial, stats: AbStats) -> tuple[Reading, ...]:
    """Every guardrail that is on and has something to measure; in canary errors and latency only.

    That the candidate answers otherwise is watched until labels have proved it better: a model that was fitted anew
    because the world has shifted answers otherwise for a reason.
    """
    p, base = trial.policy, trial.baseline
    found: list[Reading] = []
    if p.errors is not None:
        found.append(error_rate(stats.failed, tolerance=p.errors))
    if p.latency is not None and base.slow_ms is not None:
        found.append(latency(stats.slow, share=SLOW))
    if trial.stage == "canary":
        return tuple(found)
    if p.rates is not None and stats.classes and not trial.better:
        # in the order in which the ledger keeps them: a sum in another one would differ in its last digits
        by_class = dict(sorted(stats.classes.items()))
        found.append(prediction_rates(by_class, tolerance=p.rates, expected=base.shares))
    if p.predictions is not None and base.sd > 0.0 and not trial.better:
        found.append(
            prediction_mean(stats.answers, sd=1.0, tolerance=p.predictions, planned=p.planned_per_arm, weight=p.weight)
        )
    found += [
        outcome(stats.outcomes[what.name], what, planned=p.planned_per_arm, weight=p.weight)
        for what in p.outcomes
        if what.name in stats.outcomes and what.name != p.metric
    ]
    return tuple(found)


def labels_told(stats: AbStats) -> Reading:
    """Whether labels come for one arm as for the other: where not, a promotion waits until somebody knows why.

    Whoever sends labels can leave out those that speak against one arm, and no test on the labels that came sees it.
    """
    return label_rate(stats.labelled, tolerance=TOLD)


def fired(found: Sequence[Reading]) -> Reading | None:
    """The strongest of the guardrails that are broken."""
    broken = [one for one in found if one.fired]
    return max(broken, key=lambda one: one.log_e) if broken else None
