"""A real Prometheus for tests: the repository's configuration with other addresses and a faster pace."""

from __future__ import annotations

import json
import shutil
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

from tests.ports import free_port

SOURCE = Path(__file__).parents[1] / "deploy/prometheus"
DEADLINE_S = 60.0


def configure(folder: Path, ports: dict[str, int], *, rules: str | None = None, alertmanager: str = "") -> Path:
    """Copy the repository's configuration with other addresses and a faster pace.

    Args:
        folder: where to.
        ports: port of each job.
        rules: another rule file than the repository's.
        alertmanager: address of one to tell, if any.
    """
    (folder / "perene-rules.yml").write_text(rules or (SOURCE / "perene-rules.yml").read_text())
    config = yaml.safe_load((SOURCE / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    if alertmanager:
        (told,) = config["alerting"]["alertmanagers"]
        told["static_configs"] = [{"targets": [alertmanager.removeprefix("http://")]}]
    else:
        del config["alerting"]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def prometheus(config: Path) -> Iterator[str]:
    """Run it; yields its address."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.fail("prometheus is missing: run scripts/apt")
    address = f"127.0.0.1:{free_port()}"
    arguments = [f"--config.file={config}", f"--storage.tsdb.path={config.parent / 'data'}",
                 f"--web.listen-address={address}",
                 # what fired before the Alertmanager was found is told again at once
                 "--rules.alert.resend-delay=1s"]  # fmt: skip
    with (config.parent / "log").open("wb") as log:
        process = subprocess.Popen([binary, *arguments], stdout=log, stderr=log)
        try:
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(timeout=30)


def get(url: str) -> Any:
    """The data of an API answer."""
    with urlopen(url, timeout=5) as answer:
        return json.load(answer)["data"]


def until_all_are_up(base: str) -> dict[str, str]:
    """Return the health of each job, as soon as none is pending or the deadline has passed."""
    health: dict[str, str] = {}
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            targets = get(f"{base}/api/v1/targets")["activeTargets"]
        except OSError:  # not listening yet
            targets = []
        health = {target["labels"]["job"]: target["health"] for target in targets}
        if health and set(health.values()) == {"up"}:
            break
        time.sleep(0.2)
    return health


def until_value(base: str, expr: str) -> list[Any]:
    """The result of a query, as soon as there is one or the deadline has passed."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found: list[Any] = get(f"{base}/api/v1/query?query={quote(expr)}")["result"]
        if found:
            return found
        time.sleep(0.2)
    return []
