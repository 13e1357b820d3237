"""Numbers of trials for Prometheus: what a turn found, and little of a trial that has ended."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from prometheus_client import Gauge

from monitoring.alerting.catalogue import STAGES
from monitoring.alerting.metrics import WorkerMetrics
from registry.ledger import Deployment
from retrain.trials.approvals import ACTOR
from retrain.trials.trials import Turn

__all__ = ["TrialGauges", "rollback_reasons"]

#: Prometheus takes infinity, people do not: e-values are shown up to this.
LARGEST = 1e12
_TESTS = ("non_inferiority", "superiority", "harm")
_CAUSE = re.compile(r"rollback \((\w+)\): ")
#: Causes with a series of their own; what else a guardrail may be called is a named outcome.
_CAUSES = ("harm", "alert", "error_rate", "latency", "prediction_rate")


def rollback_reasons(history: Sequence[Deployment], *, after: int) -> list[str]:
    """Why each row beyond revision `after` that took a version back did so.

    These put an earlier champion back, or are the worker's own when it took a candidate out for what it did.
    """
    found: list[str] = []
    champions: list[int] = []
    for row in history:
        back = bool(champions) and row.champion != champions[-1] and row.champion in champions
        if not champions or row.champion != champions[-1]:
            champions.append(row.champion)
        cause = _CAUSE.match(row.reason) if row.actor == ACTOR else None
        if row.revision > after and cause is not None:
            found.append(cause[1] if cause[1] in _CAUSES else "outcome")
        elif row.revision > after and back:
            found.append("automatic" if row.actor == ACTOR else "manual")
    return found


class TrialGauges:
    """Writes the trial's part of one process's `WorkerMetrics`."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self.metrics = metrics
        self._exposed: dict[tuple[str, str, str], int] = {}
        self._guards: dict[str, set[str]] = {}

    def turn(self, model: str, found: Turn) -> None:
        """What one turn of a model's trial found; without a trial its numbers go."""
        m = self.metrics
        m.experiment_stage.labels(model).set(STAGES.get(found.stage, 0))
        if found.end is not None:
            m.promotions_total.labels(model, found.end).inc()
        if found.stage == "none":
            self._clear(model)
        elif found.decision is not None:
            self._facts(model, found)

    def _facts(self, model: str, found: Turn) -> None:
        m, facts = self.metrics, found.decision.facts if found.decision else {}
        for gauge, name in (
            (m.experiment_effect, "effect"),
            (m.experiment_effect_lower, "lower"),
            (m.experiment_effect_upper, "upper"),
        ):
            if name in facts:
                gauge.labels(model).set(facts[name])
        for test in _TESTS:
            if f"log_e_{test}" in facts:
                m.experiment_evalue.labels(model, test).set(_e(facts[f"log_e_{test}"]))
        if "log_e_srm" in facts:
            m.experiment_srm_evalue.labels(model).set(_e(facts["log_e_srm"]))
        guards = {name: _e(guard["log_e"]) for name, guard in facts.get("guardrails", {}).items()}
        self._show(m.experiment_guardrail_evalue, model, guards)
        if facts.get("needed") is None:
            _remove(m.experiment_labels_needed, [(model,)])
        else:
            m.experiment_labels_needed.labels(model).set(facts["needed"])
        if "exposed" in facts:
            for arm, count in zip(("champion", "candidate"), facts["exposed"], strict=True):
                self._count(model, found.experiment_id, arm, count)

    def _show(self, gauge: Gauge, model: str, values: dict[str, float]) -> None:
        _remove(gauge, [(model, name) for name in self._guards.get(model, set()) - values.keys()])
        self._guards[model] = set(values)
        for name, value in values.items():
            gauge.labels(model, name).set(value)

    def _count(self, model: str, trial: str, arm: str, count: int) -> None:
        """Units exposed so far; a counter, so only what is new since the last look is added."""
        before = self._exposed.get((model, trial, arm), 0)
        if count > before:
            self.metrics.experiment_exposures_total.labels(model, arm).inc(count - before)
            self._exposed[model, trial, arm] = count

    def _clear(self, model: str) -> None:
        """All but the split's: the trial that it ended is gone within a tick, and somebody has to hear of it."""
        m = self.metrics
        for gauge in (
            *(m.experiment_effect, m.experiment_effect_lower, m.experiment_effect_upper),
            m.experiment_labels_needed,
        ):
            _remove(gauge, [(model,)])
        _remove(m.experiment_evalue, [(model, test) for test in _TESTS])
        self._show(m.experiment_guardrail_evalue, model, {})


def _remove(gauge: Gauge, labels: Iterable[tuple[str, ...]]) -> None:
    for values in labels:
        try:
            gauge.remove(*values)
        except KeyError:  # it was never shown
            continue


def _e(log_e: float) -> float:
    return math.exp(min(log_e, math.log(LARGEST)))
