"""docker-compose.yml names every service, pinned, watched and without secrets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
every_service = pytest.mark.parametrize("name", sorted(SERVICES))


def test_every_service_is_named() -> None:
    """The seven processes of the platform, no more."""
    assert set(SERVICES) == {"serve", "worker", "mlflow", "postgres", "prometheus", "alertmanager", "grafana"}


@every_service
def test_a_service_is_pinned_and_has_a_health_check(name: str) -> None:
    """No `latest`, and `up` can tell healthy from started."""
    service = SERVICES[name]
    assert re.search(r":(v?\d+\.\d|\$\{PERENE_VERSION:-\d+\.\d+\.\d+\})", service["image"]), service["image"]
    assert service["healthcheck"]["test"]


@every_service
def test_ports_are_published_on_loopback_only(name: str) -> None:
    """Nothing is reachable from outside until someone decides so."""
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


def test_no_secret_is_in_clear() -> None:
    """Every password comes from the environment, and its absence stops the start."""
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if "PASSWORD" in key or "://perene:" in value:
                assert re.search(r"\$\{\w+:\?[^}]+\}", value), f"{name}.{key}"


@every_service
def test_mounted_files_exist(name: str) -> None:
    """A missing file would be mounted as an empty folder."""
    for volume in SERVICES[name].get("volumes", []):
        if volume.startswith("./"):
            assert (ROOT / volume.split(":")[0]).exists(), volume


def test_the_image_is_hash_pinned_and_not_root() -> None:
    """The lock is checked by hash, and the last user is ours."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "--require-hashes" in dockerfile
    assert re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) == ["python:3.11-slim", "python:3.11-slim"]
    assert re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE) == ["perene"]
