"""A monitor's state as facts: for gauges, triggers, the console, and what a finding rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from monitoring.drift.assess import SCORE
from monitoring.drift.cause import strengths
from monitoring.settings import MonitoringSettings
from monitoring.watching import estimated, maturity, slices
from monitoring.watching.diagnosis import diagnose
from monitoring.watching.findings import KINDS, Kind, State
from monitoring.watching.known import event_at
from monitoring.watching.quality import null_level
from monitoring.watching.reasons import reasons
from monitoring.watching.state import MonitorState

__all__ = ["EXPECTED", "estimated_facts", "performance_facts", "snapshot"]

EXPECTED: Final[tuple[Kind, ...]] = ("feature_drift", "score_drift", "estimated")
"""Kinds that a known event explains; broken data and realised losses it does not."""


def snapshot(s: MonitorState, reference: Mapping[str, Any], settings: MonitoringSettings) -> dict[str, Any]:
    """Current facts; see the keys. Shares are 0..1, times are unix seconds of event time."""
    states: dict[Kind, State] = {kind: s.verdicts[kind].state for kind in KINDS}
    for kind in EXPECTED:
        covered = s.closed and event_at(settings.known_events, s.closed[-1].end, s.verdicts[kind].held)
        if covered and states[kind] == "confirmed":
            states[kind] = "watch"
    drift = _worse(states["feature_drift"], states["score_drift"])
    diagnosis = diagnose(
        data_quality=states["data_quality"],
        drift=drift,
        estimated=states["estimated"],
        performance=states["performance"],
    )
    return {
        "model": s.model,
        "version": s.version,
        "states": states,
        "reasons": reasons(s, reference, settings),
        "drift_state": drift,
        "diagnosis": {"action": diagnosis.action, "reason": diagnosis.reason},
        "data_quality_state": states["data_quality"],
        "performance_state": states["performance"],
        "psi": s.gauges.psi,
        "psi_floor": settings.psi_floor,
        "causes": _causes(s, reference),
        "flagged": s.gauges.flagged,
        "features_flagged": len([name for name in s.gauges.flagged if name != SCORE]),
        "null_ratio": s.gauges.null_ratio,
        "unseen_ratio": s.gauges.unseen_ratio,
        "window_rows": s.open.rows,
        "windows": s.windows,
        "performance": performance_facts(s, reference, settings),
        "estimated": estimated_facts(s, reference, settings),
        "predictions": s.book.tally.predictions,
        "predictions_foreign": s.book.tally.foreign,
        "labels_joined": s.book.tally.joined,
        "labels_join_ratio": s.book.tally.joined / max(s.book.tally.predictions, 1),
        "labels_revised": s.book.tally.revised,
        "labels_unusable": s.book.tally.unusable,
        "labels_waiting": len(s.book.waiting) + len(s.book.orphans),
        "labels_parked": len(s.book.orphans) + len(s.book.given_up),
        "maturity": maturity.facts(s.book.maturity, s.book.watermark),
        "join_dropped": s.book.tally.dropped,
        "last_event_at": s.last_event,
    }


def _causes(s: MonitorState, reference: Mapping[str, Any]) -> dict[str, float]:
    """Effect times importance, now, of the columns that a confirmed drift rests on."""
    verdict = s.verdicts["feature_drift"]
    held = verdict.held if verdict.state == "confirmed" else ()
    effects = {name: max(s.gauges.psi[name].values(), default=0.0) for name in held if name in s.gauges.psi}
    return strengths(effects, reference["columns"])


def performance_facts(s: MonitorState, reference: Mapping[str, Any], settings: MonitoringSettings) -> dict[str, Any]:
    """Realised loss and metric over the last window of labels, beside the reference's."""
    book, detector, known = s.book, s.detector, reference["quality"]
    return {
        "metric": known["metric"],
        "realized": _mean(book.errors),
        "reference": known["value"],
        "loss": _mean(book.losses),
        "reference_loss": known["loss"],
        "null_level": detector.null_level if detector else None,
        "evalue": detector.evalue if detector else None,
        "threshold": settings.esr_run_length,
        "labels": book.tally.joined,
        "slices": slices.declared_facts(s.slices, reference, settings.esr_run_length),
        "worst_slices": slices.worst(s.slices, reference, slices.columns_of(reference)),
    }


def estimated_facts(s: MonitorState, reference: Mapping[str, Any], settings: MonitoringSettings) -> dict[str, Any]:
    """The newest window's estimate with its 99 % band, in units of loss; empty where there is none."""
    curve = reference.get("estimate")
    found = estimated.estimate(curve, s.closed[-1].counts) if curve is not None and s.closed else None
    if found is None:
        return {}
    level = null_level(reference["quality"], settings.tolerance, settings.tolerance_relative)
    bounds = {"lower": found.lower, "upper": found.upper, "rows": found.rows}
    return {"estimated_loss": found.loss, **bounds, "null_level": level, "metrics": found.metrics}


def _worse(left: State, right: State) -> State:
    order: tuple[State, ...] = ("insufficient", "ok", "watch", "confirmed", "broken")
    return max(left, right, key=order.index)


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
