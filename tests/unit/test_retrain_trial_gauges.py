"""Numbers of trials for Prometheus."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from monitoring.alerting.catalogue import STAGES
from monitoring.alerting.metrics import WorkerMetrics
from registry.ledger import Deployment
from retrain.trials.decision import Decision
from retrain.trials.trial_gauges import TrialGauges, rollback_reasons
from retrain.trials.trials import Turn

NOW = datetime(2013, 7, 1, tzinfo=UTC)


def facts(exposed: tuple[int, int], guards: tuple[str, ...], srm: float) -> Decision:
    told = {"effect": 0.1, "lower": 0.0, "upper": 0.2, "log_e_harm": 1.0, "log_e_srm": srm, "needed": 7}
    return Decision(
        "continue", "", {**told, "exposed": list(exposed), "guardrails": {g: {"log_e": 0.0} for g in guards}}
    )


def test_a_trial_s_numbers_come_and_go_with_it() -> None:
    """Exposures only grow by what is new; of an ended trial the split alone is still told, for somebody has to hear."""
    registry = CollectorRegistry()
    gauges = TrialGauges(WorkerMetrics(registry))

    def told(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"perene_{name}", {"model": "m", **labels})

    gauges.turn("m", Turn("ab", "t", facts((10, 20), ("error_rate", "latency"), 5.0)))
    gauges.turn("m", Turn("ab", "t", facts((15, 25), ("error_rate",), 8.0)))
    assert told("experiment_stage") == STAGES["ab"]
    assert told("experiment_exposures_total", arm="candidate") == 25
    assert told("experiment_labels_needed") == 7
    assert told("experiment_guardrail_evalue", guardrail="error_rate") == 1.0
    assert told("experiment_guardrail_evalue", guardrail="latency") is None
    gauges.turn("m", Turn("ab", "t", facts((15, 25), (), 8.0), end="aborted"))
    gauges.turn("m", Turn())
    assert told("experiment_stage") == 0
    assert told("promotions_total", result="aborted") == 1
    gone = ("experiment_effect", "experiment_labels_needed")
    assert [told(name) for name in gone] == [None, None]
    assert told("experiment_evalue", test="harm") is None
    assert told("experiment_srm_evalue") == pytest.approx(2980.96, rel=1e-4)


def test_no_e_value_is_infinite() -> None:
    registry = CollectorRegistry()
    TrialGauges(WorkerMetrics(registry)).turn("m", Turn("ab", "t", facts((1, 1), (), 1e6)))
    assert registry.get_sample_value("perene_experiment_srm_evalue", {"model": "m"}) == pytest.approx(1e12)


def test_why_a_version_was_taken_back() -> None:
    """By hand, by the worker for what it did, and because a former champion won; what a person writes is no cause."""

    def row(revision: int, champion: int, candidate: int | None, actor: str, reason: str) -> Deployment:
        return Deployment("m", revision, champion, candidate, None, 0.0, "", actor, reason, NOW, None, "", "")

    history = [
        row(1, 1, None, "ann", "first"),
        row(2, 1, 2, "worker", "ab:0.5: performance"),
        row(3, 1, None, "worker", "rollback (latency): guardrail latency"),
        row(4, 2, None, "ann", "rollback (harm): so she thinks"),
        row(5, 1, None, "ann", "no"),
        row(6, 2, 1, "worker", "promote: better"),
        row(7, 1, None, "worker", "rollback (revenue): guardrail revenue"),
    ]
    assert rollback_reasons(history, after=1) == ["latency", "manual", "automatic", "outcome"]
    assert rollback_reasons(history, after=5) == ["automatic", "outcome"]
