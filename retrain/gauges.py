"""The worker's numbers for Prometheus, set from snapshots and decisions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, get_args

from prometheus_client import Gauge

from monitoring.alerting.catalogue import STATES, WORKER
from monitoring.alerting.metrics import WorkerMetrics
from retrain.trials.trial_gauges import TrialGauges
from retrain.trials.trials import Turn
from retrain.triggering.triggers import Brake, Facts, Trigger, breaker_open

__all__ = ["COLUMNS", "OTHERS", "Gauges", "largest"]

_DRIFT = STATES
#: Columns of one model with a series of their own: a wide contract must not flood Prometheus.
COLUMNS = 50
#: The label of the others, among which the largest value is told.
OTHERS = "(other)"
Labels = tuple[str, ...]


def largest(values: Mapping[str, Mapping[Labels, float]]) -> dict[str, dict[Labels, float]]:
    """The columns with the largest values, and the largest value among the others.

    >>> found = largest({f"c{n}": {("1",): float(n), ("4",): 0.0} for n in range(60)})
    >>> len(found), found["c59"], found["(other)"]
    (51, {('1',): 59.0, ('4',): 0.0}, {('1',): 9.0, ('4',): 0.0})
    """
    ordered = sorted(values, key=lambda name: (-max(values[name].values(), default=0.0), name))
    found = {name: dict(values[name]) for name in ordered[:COLUMNS]}
    for name in ordered[COLUMNS:]:
        rest = found.setdefault(OTHERS, {})
        for labels, value in values[name].items():
            rest[labels] = max(rest.get(labels, value), value)
    return found


class Gauges:
    """Writes one process's `WorkerMetrics`."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self.metrics = metrics
        self.trials = TrialGauges(metrics)
        self._shown: dict[tuple[Gauge, str], set[Labels]] = {}

    def forget(self) -> None:
        """Export nothing about models any more: who does not lead does not know, and its last word would stand."""
        for metric in WORKER:
            if metric.kind == "gauge" and metric.labels:
                getattr(self.metrics, metric.attribute).clear()
        self._shown.clear()

    def monitor(self, model: str, facts: Mapping[str, Any]) -> None:
        """States, drift per column and realised quality of one model."""
        m = self.metrics
        if not facts:
            return
        m.drift_state.labels(model).set(_DRIFT[facts["drift_state"]])
        m.data_quality_state.labels(model).set(_DRIFT[facts["data_quality_state"]])
        m.performance_state.labels(model).set(_DRIFT[facts["performance_state"]])
        m.estimated_state.labels(model).set(_DRIFT[facts["states"]["estimated"]])
        m.drift_threshold.labels(model).set(facts["psi_floor"])
        m.drift_features_flagged.labels(model).set(facts["features_flagged"])
        m.window_rows.labels(model).set(facts["window_rows"])
        m.labels_join_ratio.labels(model).set(facts["labels_join_ratio"])
        m.labels_parked.labels(model).set(facts["labels_parked"])
        self._maturity(model, facts["maturity"])
        psi: dict[str, dict[Labels, float]] = {
            name: {(str(scale),): value for scale, value in scales.items()} for name, scales in facts["psi"].items()
        }
        self._columns(m.drift_psi_corrected, model, psi)
        self._columns(m.feature_null_ratio, model, {n: {(): ratio} for n, ratio in facts["null_ratio"].items()})
        self._columns(m.feature_unseen_ratio, model, {n: {(): ratio} for n, ratio in facts["unseen_ratio"].items()})
        self._columns(m.drift_cause, model, {n: {(): strength} for n, strength in facts["causes"].items()})
        self._quality(model, facts["performance"], facts["estimated"])

    def _quality(self, model: str, realised: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        """The metric in its own unit, and the bounded loss, in which alone realised and estimated can be compared."""
        m, metric = self.metrics, realised["metric"]
        self._show(m.performance_realized, model, {(metric,): realised["realized"], ("loss",): realised["loss"]})
        reference, loss = realised["reference"], realised["reference_loss"]
        self._show(m.performance_reference, model, {(metric,): reference, ("loss",): loss})
        self._show(m.performance_loss_limit, model, {(): realised["null_level"]})
        self._show(m.performance_evalue, model, {(): realised["evalue"]})
        estimated = {**told.get("metrics", {}), "loss": told.get("estimated_loss")}
        self._show(m.performance_estimated, model, {(name,): value for name, value in estimated.items()})
        self._show(m.performance_estimated_lower, model, {("loss",): told.get("lower")})
        self._show(m.performance_estimated_upper, model, {("loss",): told.get("upper")})

    def _columns(self, gauge: Gauge, model: str, values: Mapping[str, Mapping[Labels, float]]) -> None:
        """The largest columns now."""
        now = {(name, *rest): value for name, by in largest(values).items() for rest, value in by.items()}
        self._show(gauge, model, now)

    def _show(self, gauge: Gauge, model: str, values: Mapping[Labels, float | None]) -> None:
        """These and no others: what was shown before, and is not known (any more), would be a former champion's."""
        now = {labels: value for labels, value in values.items() if value is not None}
        for labels in self._shown.get((gauge, model), set()) - now.keys():
            gauge.remove(model, *labels)
        self._shown[gauge, model] = set(now)
        for labels, value in now.items():
            gauge.labels(model, *labels).set(value)

    def _maturity(self, model: str, facts: Mapping[str, Any]) -> None:
        m = self.metrics
        for quantile, seconds in (("0.5", facts["p50_s"]), ("0.95", facts["p95_s"])):
            if seconds is not None:
                m.label_lag_seconds.labels(model, quantile).set(seconds)
        for age, share in facts["within"].items():
            if share is not None:
                m.labels_within_ratio.labels(model, age).set(share)

    def reference_age(self, model: str, reference: Mapping[str, Any], now: datetime) -> None:
        """Seconds, on the model's clock, since the reference's rows end."""
        end = (reference.get("window") or {}).get("end")
        if end:
            moment = datetime.fromisoformat(end)
            aware = moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)
            self.metrics.reference_age_seconds.labels(model).set(max((now - aware).total_seconds(), 0.0))

    def turn(self, model: str, found: Turn) -> None:
        """The model's trial."""
        self.trials.turn(model, found)

    def waiting(self, model: str, facts: Facts) -> None:
        """Whether broken runs keep the next one from beginning, and for how long a scheduled one has been due."""
        self.metrics.retrain_breaker_open.labels(model).set(breaker_open(facts.past))
        due = facts.schedule_due
        since = (facts.now - due).total_seconds() if due is not None and not facts.in_trial else 0.0
        self.metrics.retrain_overdue_seconds.labels(model).set(max(since, 0.0))

    def held(self, model: str, trigger: Trigger) -> None:
        """Which brake holds the run that something asks for, and when a time will let it go."""
        for brake in get_args(Brake):
            self.metrics.retrain_held.labels(model, brake).set(trigger.brake == brake)
        at = trigger.next_at.timestamp() if trigger.next_at else 0.0
        self.metrics.retrain_next_timestamp_seconds.labels(model).set(at)
