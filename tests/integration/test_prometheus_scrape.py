"""A real Prometheus scrapes both exporters with the repository's configuration and evaluates its rules."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client import CollectorRegistry, start_http_server

from grafana.dashboard import rows
from monitoring.alerts import rules
from monitoring.metrics import ServeMetrics, WorkerMetrics

SOURCE = Path(__file__).parents[2] / "deploy/prometheus"
DEADLINE_S = 60.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _exporter(registry: CollectorRegistry) -> Iterator[int]:
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _configure(folder: Path, ports: dict[str, int]) -> Path:
    """Copy the repository's configuration with other addresses and a faster pace."""
    shutil.copy(SOURCE / "perene-rules.yml", folder)
    config = yaml.safe_load((SOURCE / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    del config["alerting"]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def _prometheus(config: Path) -> Iterator[str]:
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.fail("prometheus is missing: run scripts/apt")
    address = f"127.0.0.1:{_free_port()}"
    arguments = [f"--config.file={config}", f"--storage.tsdb.path={config.parent / 'data'}",
                 f"--web.listen-address={address}"]  # fmt: skip
    with (config.parent / "log").open("wb") as log:
        process = subprocess.Popen([binary, *arguments], stdout=log, stderr=log)
        try:
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(timeout=30)


def _get(url: str) -> Any:
    with urlopen(url, timeout=5) as answer:
        return json.load(answer)["data"]


def _until_both_are_up(base: str) -> dict[str, str]:
    """Return the health of each job, as soon as none is pending or the deadline has passed."""
    health: dict[str, str] = {}
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            targets = _get(f"{base}/api/v1/targets")["activeTargets"]
        except OSError:  # not listening yet
            targets = []
        health = {target["labels"]["job"]: target["health"] for target in targets}
        if health and set(health.values()) == {"up"}:
            break
        time.sleep(0.2)
    return health


def _until_value(base: str, expr: str) -> list[Any]:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found: list[Any] = _get(f"{base}/api/v1/query?query={quote(expr)}")["result"]
        if found:
            return found
        time.sleep(0.2)
    return []


def test_prometheus_scrapes_both_processes_and_evaluates_the_rules(tmp_path: Path) -> None:
    """Both targets up, every rule loaded and healthy, every panel's query accepted, a drift raises its alert."""
    serve, worker = ServeMetrics(CollectorRegistry()), WorkerMetrics(CollectorRegistry())
    serve.model_loaded_info.labels("m", "1", "champion", "CPUExecutionProvider", "d").set(1)
    worker.start(["m"])
    worker.scheduler_is_leader.set(1)
    worker.champion_version.labels("m").set(1)
    worker.drift_state.labels("m").set(2)
    with _exporter(serve.registry) as serve_port, _exporter(worker.registry) as worker_port:
        config = _configure(tmp_path, {"perene-serve": serve_port, "perene-worker": worker_port})
        with _prometheus(config) as base:
            assert _until_both_are_up(base) == {"perene-serve": "up", "perene-worker": "up"}
            (alert,) = _until_value(base, 'ALERTS{alertname="PereneDriftConfirmed",alertstate="firing"}')
            assert alert["metric"]["model"] == "m"
            (group,) = _get(f"{base}/api/v1/rules")["groups"]
            assert {rule["name"] for rule in group["rules"]} == {rule.name for rule in rules()}
            assert {rule["health"] for rule in group["rules"]} == {"ok"}
            for expr in (query.expr for row in rows() for panel in row.panels for query in panel.queries):
                asked = expr.replace("$__rate_interval", "1m").replace("$__range", "1h").replace("$model", ".*")
                assert _get(f"{base}/api/v1/query?query={quote(asked)}")["resultType"] in {"vector", "scalar"}
