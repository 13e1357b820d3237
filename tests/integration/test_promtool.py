"""Prometheus' own tools accept the rules and the configuration, and each rule fires when it should."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from monitoring.alerting.alert_limits import Pace
from monitoring.alerting.alerts import render

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"


def _run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = shutil.which(tool)
    if path is None:
        pytest.fail(f"{tool} is missing: run scripts/apt")
    return subprocess.run([path, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_rules_are_valid() -> None:
    """`promtool check rules`."""
    done = _run("promtool", "check", "rules", str(PROMETHEUS / "perene-rules.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_configuration_is_valid() -> None:
    """`promtool check config`, which follows the rule files."""
    done = _run("promtool", "check", "config", str(PROMETHEUS / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["perene-rules-test.yml", "perene-rules-hours-test.yml"])
def test_rules_fire_when_they_should_and_not_else(name: str) -> None:
    """`promtool test rules`."""
    done = _run("promtool", "test", "rules", str(PROMETHEUS / name))
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_at_another_pace_are_valid(tmp_path: Path) -> None:
    """What the rehearsal runs on is accepted as well."""
    rules = tmp_path / "rules.yml"
    rules.write_text(render(pace=Pace(120, least_s=6)))
    done = _run("promtool", "check", "rules", str(rules))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_rule_fails_the_rule_tests(tmp_path: Path) -> None:
    """Positive control: with the drift rule on the wrong state the same tests fail."""
    shutil.copytree(PROMETHEUS, tmp_path, dirs_exist_ok=True)
    rules = tmp_path / "perene-rules.yml"
    text = rules.read_text()
    wrong = text.replace("(perene_drift_state) == 2", "(perene_drift_state) == 3")
    assert wrong != text
    rules.write_text(wrong)
    done = _run("promtool", "test", "rules", str(tmp_path / "perene-rules-test.yml"))
    assert done.returncode != 0
    assert "PereneDriftConfirmed" in done.stdout + done.stderr
