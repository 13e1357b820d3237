"""A real Prometheus scrapes both exporters with the repository's configuration and evaluates its rules."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server

from grafana.rows import rows
from monitoring.alerting.alert_rules import rules
from monitoring.alerting.metrics import SERVE, WORKER, Metric, ServeMetrics, WorkerMetrics
from tests.prometheus import DEADLINE_S, configure, get, prometheus, until_all_are_up, until_value

ASKED = {
    "metric": ("mae", "loss"),
    "reason": ("rate", "candidate_failed"),
    "result": ("hit", "done"),
    "code": ("200", "500"),
}


@contextmanager
def _exporter(registry: CollectorRegistry) -> Iterator[int]:
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _speak(metrics: ServeMetrics | WorkerMetrics, catalogue: Sequence[Metric]) -> None:
    """Give every metric a value, under labels that panels ask for."""
    for metric in catalogue:
        collector = getattr(metrics, metric.attribute)
        for values in product(*(ASKED.get(label, ("m",)) for label in metric.labels)):
            each = collector.labels(*values) if values else collector
            match metric.kind:
                case "gauge":
                    each.set(1)
                case "counter":
                    each.inc()
                case "histogram":
                    each.observe(1)


def _once_evaluated(base: str) -> list[dict[str, Any]]:
    """Groups of rules, as soon as each rule had its first turn: an alert of one is seen before the others have."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        groups: list[dict[str, Any]] = get(f"{base}/api/v1/rules")["groups"]
        if time.monotonic() > deadline or all(rule["health"] != "unknown" for g in groups for rule in g["rules"]):
            return groups
        time.sleep(0.2)


def test_prometheus_scrapes_both_processes_and_evaluates_the_rules(tmp_path: Path) -> None:
    """Both targets up, every rule loaded and healthy, a drift raises its alert, and every panel shows something."""
    serve, worker = ServeMetrics(CollectorRegistry()), WorkerMetrics(CollectorRegistry())
    _speak(serve, SERVE)
    _speak(worker, WORKER)
    worker.drift_state.labels("m").set(2)
    with _exporter(serve.registry) as serve_port, _exporter(worker.registry) as worker_port:
        config = configure(tmp_path, {"perene-serve": serve_port, "perene-worker": worker_port})
        with prometheus(config) as base:
            assert until_all_are_up(base) == {"perene-serve": "up", "perene-worker": "up"}
            (alert,) = until_value(base, 'ALERTS{alertname="PereneDriftConfirmed",alertstate="firing"}')
            assert alert["metric"]["model"] == "m"
            (group,) = _once_evaluated(base)
            assert {rule["name"] for rule in group["rules"]} == {rule.name for rule in rules()}
            assert {rule["health"] for rule in group["rules"]} == {"ok"}
            for expr in (query.expr for row in rows() for panel in row.panels for query in panel.queries):
                asked = expr.replace("$__rate_interval", "1m").replace("$__range", "1h").replace("$model", ".*")
                assert until_value(base, asked), asked
