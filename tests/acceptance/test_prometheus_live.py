"""Debian's Prometheus scrapes the real server and the real worker, started by their commands."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from perene.api import log_model
from perene.config import load
from perene.keyring import LOCAL, ensure_key
from tests.conftest import Toy
from tests.ports import free_port
from tests.prometheus import configure, get, prometheus, until_all_are_up, until_value

PERENE = str(Path(sys.executable).parent / "perene")


@contextmanager
def running(home: Path, ports: dict[str, int], *commands: str) -> Iterator[None]:
    environment = {
        **os.environ,
        "PERENE__SERVING__PORT": str(ports["perene-serve"]),
        "PERENE__WORKER_PORT": str(ports["perene-worker"]),
    }
    with (home / "out").open("wb") as out:
        processes = [
            subprocess.Popen([PERENE, command, "--home", str(home)], env=environment, stdout=out, stderr=out)
            for command in commands
        ]
        try:
            yield
        finally:
            for process in processes:
                process.terminate()
            codes = [process.wait(timeout=60) for process in processes]
    assert codes == [0] * len(codes)


def until_ready(url: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail("the server did not become ready")


def until_rules_are_evaluated(base: str, seconds: float = 60) -> set[str]:
    """How well the rules are, once none of them waits for its first turn any more."""
    deadline = time.monotonic() + seconds
    while True:
        (group,) = get(f"{base}/api/v1/rules")["groups"]
        found = {rule["health"] for rule in group["rules"]}
        if "unknown" not in found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def test_both_processes_are_scraped_and_tell_the_truth(home: Path, tmp_path: Path, regression: Toy) -> None:
    """Targets up, one leader, the deployed model loaded, and as many requests counted as were answered."""
    settings = load(home=home)
    log_model(regression.estimator, regression.X, regression.y, name="toy", settings=settings)
    key = ensure_key(settings, *LOCAL)
    ports = {"perene-serve": free_port(), "perene-worker": free_port()}
    url = f"http://127.0.0.1:{ports['perene-serve']}"
    row = {"temp": 1.5, "hour": 3, "late": True, "carrier": "AA"}
    with running(home, ports, "serve", "worker"):
        until_ready(url)
        with httpx.Client(base_url=url, headers={"X-API-Key": key}) as client:
            codes = [client.post("/predict", json={**row, "hour": h}).status_code for h in (1, 2, 3, "x")]
        assert codes == [200, 200, 200, 422]
        with prometheus(configure(tmp_path, ports)) as base:
            assert until_all_are_up(base) == {"perene-serve": "up", "perene-worker": "up"}
            assert until_value(base, "perene_scheduler_is_leader == 1")
            (loaded,) = until_value(base, 'perene_model_loaded_info{model="toy"} == 1')
            assert loaded["metric"]["version"] == "1"
            assert loaded["metric"]["provider"] in ("CPUExecutionProvider", "CUDAExecutionProvider")
            (answered,) = until_value(base, 'sum(perene_requests_total{code="200"})')
            assert answered["value"][1] == "3"
            (refused,) = until_value(base, 'sum(perene_requests_total{code="422"})')
            assert refused["value"][1] == "1"
            assert until_value(base, 'perene_champion_version{model="toy"} == 1')
            assert until_rules_are_evaluated(base) == {"ok"}
