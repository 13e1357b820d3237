"""The worker's numbers for Prometheus, set from snapshots and decisions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from monitoring.catalogue import STAGES, STATES
from monitoring.metrics import WorkerMetrics
from retrain.experiments import Decision

__all__ = ["Gauges"]

_DRIFT = STATES
_STAGE = STAGES
#: Prometheus takes infinity, people do not: e-values are shown up to this.
LARGEST = 1e12


class Gauges:
    """Writes one process's `WorkerMetrics`."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self.metrics = metrics
        self._exposed: dict[tuple[str, str, str], int] = {}

    def monitor(self, model: str, facts: Mapping[str, Any]) -> None:
        """States, drift per column and realised quality of one model."""
        m = self.metrics
        if not facts:
            return
        m.drift_state.labels(model).set(_DRIFT[facts["drift_state"]])
        m.data_quality_state.labels(model).set(_DRIFT[facts["data_quality_state"]])
        m.drift_features_flagged.labels(model).set(facts["features_flagged"])
        m.window_rows.labels(model).set(facts["window_rows"])
        m.labels_join_ratio.labels(model).set(facts["labels_join_ratio"])
        for feature, scales in facts["psi"].items():
            for scale, value in scales.items():
                m.drift_psi_corrected.labels(model, feature, str(scale)).set(value)
        for feature, ratio in facts["null_ratio"].items():
            m.feature_null_ratio.labels(model, feature).set(ratio)
        for feature, ratio in facts["unseen_ratio"].items():
            m.feature_unseen_ratio.labels(model, feature).set(ratio)
        quality = facts["performance"]
        if quality["realized"] is not None:
            m.performance_realized.labels(model, quality["metric"]).set(quality["realized"])
        if quality["reference"] is not None:
            m.performance_reference.labels(model, quality["metric"]).set(quality["reference"])
        if quality["evalue"] is not None:
            m.performance_evalue.labels(model).set(quality["evalue"])

    def reference_age(self, model: str, reference: Mapping[str, Any], now: datetime) -> None:
        """Seconds, on the model's clock, since the reference's rows end."""
        end = (reference.get("window") or {}).get("end")
        if end:
            moment = datetime.fromisoformat(end)
            aware = moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)
            self.metrics.reference_age_seconds.labels(model).set(max((now - aware).total_seconds(), 0.0))

    def trial(self, model: str, stage: str, decision: Decision | None) -> None:
        """Effect, bounds and e-values of a trial on its way."""
        m = self.metrics
        m.experiment_stage.labels(model).set(_STAGE.get(stage, 0))
        if decision is None:
            return
        facts = decision.facts
        m.experiment_effect.labels(model).set(facts["effect"])
        m.experiment_effect_lower.labels(model).set(facts["lower"])
        m.experiment_effect_upper.labels(model).set(facts["upper"])
        for test in ("non_inferiority", "superiority", "harm"):
            if f"log_e_{test}" in facts:
                m.experiment_evalue.labels(model, test).set(_e(facts[f"log_e_{test}"]))
        if "log_e_srm" in facts:
            m.experiment_srm_evalue.labels(model).set(_e(facts["log_e_srm"]))

    def exposures(self, model: str, trial: str, arms: Mapping[str, int]) -> None:
        """Units exposed so far; a counter, so only what is new since the last look is added."""
        for arm, count in arms.items():
            before = self._exposed.get((model, trial, arm), 0)
            if count > before:
                self.metrics.experiment_exposures_total.labels(model, arm).inc(count - before)
                self._exposed[model, trial, arm] = count


def _e(log_e: float) -> float:
    return math.exp(min(log_e, math.log(LARGEST)))
