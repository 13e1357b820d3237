"""The collectors are those of the catalogue, and what alerts count starts at 0."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.alerting.catalogue import CATALOGUE, SERVE, WORKER, Metric
from monitoring.alerting.metrics import ServeMetrics, WorkerMetrics


def _scraped(registry: CollectorRegistry) -> dict[str, str]:
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {family.name: family.type for family in families}


@pytest.mark.parametrize(("made", "metrics"), [(ServeMetrics, SERVE), (WorkerMetrics, WORKER)])
def test_every_metric_of_the_catalogue_has_a_collector_with_its_labels(
    made: type[ServeMetrics | WorkerMetrics], metrics: tuple[Metric, ...]
) -> None:
    """Name, kind, help and labels are those of the catalogue, and nothing else is exported."""
    registry = CollectorRegistry()
    collectors = made(registry)
    exported = {name: kind for name, kind in _scraped(registry).items() if not name.endswith("_created")}
    assert {m.name.removesuffix("_total") if m.kind == "counter" else m.name: m.kind for m in metrics} == exported
    for metric in metrics:
        assert metric.labels == getattr(collectors, metric.attribute)._labelnames, metric.name


def test_names_follow_the_conventions() -> None:
    """Prefix, `_total` on counters only, base units, no name twice."""
    names = [metric.name for metric in CATALOGUE]
    assert sorted(set(names)) == sorted(names)
    for metric in CATALOGUE:
        assert metric.name.startswith("perene_")
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert (metric.kind == "histogram") == bool(metric.buckets), metric.name
        if metric.unit in {"seconds", "bytes", "ratio"}:
            assert metric.name.endswith(metric.unit), metric.name


def test_two_registries_share_nothing() -> None:
    """Two apps in one process count apart."""
    first, second = CollectorRegistry(), CollectorRegistry()
    ServeMetrics(first).rows_total.labels("m").inc(3)
    ServeMetrics(second)
    assert first.get_sample_value("perene_rows_total", {"model": "m"}) == 3
    assert second.get_sample_value("perene_rows_total", {"model": "m"}) is None


def test_counters_that_alerts_watch_start_at_zero() -> None:
    """`increase()` needs a sample before the first count."""
    registry = CollectorRegistry()
    ServeMetrics(registry)
    worker = WorkerMetrics(registry)
    worker.rollbacks_total.labels("m", "manual").inc()
    worker.start(["m"])
    worker.start(["m"])
    assert registry.get_sample_value("perene_events_lost_total", {"reason": "spool_full"}) == 0
    failed = {"model": "m", "trigger": "schedule", "result": "failed"}
    assert registry.get_sample_value("perene_retrain_runs_total", failed) == 0
    assert registry.get_sample_value("perene_rollbacks_total", {"model": "m", "reason": "manual"}) == 1
    assert registry.get_sample_value("perene_rollbacks_total", {"model": "m", "reason": "automatic"}) == 0
