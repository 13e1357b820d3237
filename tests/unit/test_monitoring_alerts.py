"""Rules refer to what exists, each has its page and its test, and the file is current."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from monitoring.alerts import PERFORMANCE_EVALUE, Rule, render, rules
from monitoring.catalogue import CATALOGUE
from monitoring.generated import keep_current
from monitoring.settings import MonitoringSettings

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/perene-rules.yml"
COMMANDS = {"up", "demo", "serve", "worker", "log", "models", "promote", "rollback", "predict", "feedback", "status",
            "doctor", "grafana"}  # fmt: skip
every_rule = pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)


def test_the_file_is_current_and_a_stale_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` passes on the committed file and names the command on another."""
    assert keep_current("monitoring.alerts", render, ["--check", str(RULES)]) == 0
    stale = tmp_path / "rules.yml"
    stale.write_text(render().replace("severity: page", "severity: info"))
    assert keep_current("monitoring.alerts", render, ["--check", str(stale)]) == 1
    assert "--write" in capsys.readouterr().err
    assert keep_current("monitoring.alerts", render, ["--write", str(stale)]) == 0
    assert keep_current("monitoring.alerts", render, ["--check", str(stale)]) == 0


def test_the_file_reads_back_as_the_rules() -> None:
    """Nothing is lost in quoting."""
    (group,) = yaml.safe_load(render())["groups"]
    read = [(r["alert"], r["expr"], r["for"], r["labels"], r["annotations"]["summary"]) for r in group["rules"]]
    assert read == [(r.name, r.expr, r.wait, {"severity": r.severity}, r.summary) for r in rules()]


@every_rule
def test_a_rule_asks_only_for_metrics_that_exist(rule: Rule) -> None:
    """Every name in the expression is a series of the catalogue."""
    known = {name for metric in CATALOGUE for name in metric.series}
    asked = set(re.findall(r"perene_\w+", rule.expr))
    assert asked <= known
    assert asked or rule.name == "PereneWatchdog"


@every_rule
def test_a_rule_has_a_runbook_with_real_commands(rule: Rule) -> None:
    """The page is there, says what, how and what to do, and uses commands we have."""
    text = (ROOT / rule.runbook_url).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    assert [rule.name, "What it means", "How to confirm", "What to do"] == headings
    assert f"Severity: {rule.severity}\n" in text
    assert set(re.findall(r"`perene (\w+)", text)) <= COMMANDS


@every_rule
def test_a_rule_has_a_promtool_test_that_it_fires(rule: Rule) -> None:
    """And, but for the watchdog, one that it stays quiet."""
    tests = yaml.safe_load((RULES.parent / "perene-rules-test.yml").read_text())["tests"]
    fires = {test["name"]: bool(test["promql_expr_test"][0]["exp_samples"]) for test in tests}
    assert fires[f"{rule.name} fires"]
    if rule.name != "PereneWatchdog":
        assert not fires[f"{rule.name} stays quiet"]


def test_no_page_is_without_a_rule() -> None:
    """A removed rule takes its page with it."""
    assert {rule.page for rule in rules()} == {path.name for path in (ROOT / "docs/runbooks").glob("*.md")}


def test_the_alarm_level_is_the_monitor_s() -> None:
    """The rule fires where the monitor alarms by default."""
    assert MonitoringSettings().esr_run_length == PERFORMANCE_EVALUE
