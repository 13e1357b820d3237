"""Rules refer to what exists, each has its page and its test, and the file is current."""

from __future__ import annotations

import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from grafana.rows import rows
from monitoring.alerting.alert_limits import Limits, Pace, limits_from
from monitoring.alerting.alert_rules import Rule, rules
from monitoring.alerting.alerts import main, render
from monitoring.alerting.catalogue import CATALOGUE
from perene.cli import app
from registry.errors import ConfigInvalid

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/perene-rules.yml"
TESTS = ("perene-rules-test.yml", "perene-rules-hours-test.yml")
RUNBOOKS = sorted((ROOT / "docs/runbooks").glob("*.md"))
PANELS = {panel.title for row in rows() for panel in row.panels}
every_rule = pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)


@cache
def help_of(command: str) -> str | None:
    """What `perene … --help` prints; None when there is no such command."""
    done = CliRunner().invoke(app, [*command.split()[1:], "--help"], prog_name="perene", env={"COLUMNS": "200"})
    return done.output if done.exit_code == 0 else None


@cache
def promtool_tests() -> list[dict[str, Any]]:
    """Every test of both files."""
    return [test for name in TESTS for test in yaml.safe_load((RULES.parent / name).read_text())["tests"]]


def commands_in(text: str) -> list[tuple[str, list[str]]]:
    """The commands that a page names, with the flags it gives them."""
    found = []
    for line in re.findall(r"`(perene [a-z][^`]*)`", text):
        words = re.match(r"perene(?: [a-z]+)+", line)
        assert words is not None
        found.append((words[0], re.findall(r"--[a-z-]+", line)))
    return found


def test_the_file_is_current_and_a_stale_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` passes on the committed file and names the command on another."""
    assert main(["--check", str(RULES)]) == 0
    stale = tmp_path / "rules.yml"
    stale.write_text(render().replace("severity: page", "severity: info"))
    assert main(["--check", str(stale)]) == 1
    assert "--write" in capsys.readouterr().err
    assert main(["--write", str(stale)]) == 0
    assert main(["--check", str(stale)]) == 0


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
def test_a_rule_has_a_runbook(rule: Rule) -> None:
    """The page is there, and says what it means, how to confirm it, what to do and what it is not."""
    text = (ROOT / "docs/runbooks" / rule.page).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    assert [rule.name, "What it means", "How to confirm", "What to do", "What it is not"] == headings
    assert f"Severity: {rule.severity}\n" in text
    assert text.isascii() or "…" in text
    for heading in headings[1:]:
        part = text.split(f"## {heading}\n")[1].split("\n## ")[0]
        assert len(part.split()) >= 8, heading


@pytest.mark.parametrize("page", RUNBOOKS, ids=lambda page: page.stem)
def test_a_runbook_names_what_there_is(page: Path) -> None:
    """Every command answers to `--help` with the flags given, every metric is exported, every panel is drawn."""
    text = page.read_text(encoding="utf-8")
    for command, flags in commands_in(text):
        said = help_of(command)
        assert said is not None, command
        assert [flag for flag in flags if flag not in said] == [], command
    known = {name for metric in CATALOGUE for name in metric.series}
    assert set(re.findall(r"\b(perene_\w+)", text)) <= known
    assert set(re.findall(r"(?<!\*)\*(?! )([^*\n]+)(?<! )\*(?!\*)", text)) <= PANELS


def test_a_command_that_does_not_exist_is_seen() -> None:
    """Control: the check above fails on a wrong command and on a wrong flag."""
    assert help_of("perene heal") is None
    assert "--at-once" not in str(help_of("perene rollback"))
    assert commands_in("`perene heal MODEL --at-once`") == [("perene heal", ["--at-once"])]


@every_rule
def test_a_rule_has_promtool_tests_that_it_fires_and_stays_quiet(rule: Rule) -> None:
    """But for the watchdog, which never does; every test asks about its own rule and no other."""
    mine = {test["name"]: test["promql_expr_test"] for test in promtool_tests() if test["name"].split()[0] == rule.name}
    for expressions in mine.values():
        assert [each["expr"] for each in expressions] == [
            f'count(ALERTS{{alertname="{rule.name}",alertstate="firing"}})'
        ]
    assert mine[f"{rule.name} fires"][0]["exp_samples"]
    if rule.name != "PereneWatchdog":
        assert mine[f"{rule.name} stays quiet"][0]["exp_samples"] == []


def test_no_page_is_without_a_rule() -> None:
    """A removed rule takes its page with it."""
    assert {rule.page for rule in rules()} == {path.name for path in (ROOT / "docs/runbooks").glob("*.md")}


def test_numbers_and_the_address_of_the_runbooks_can_be_set(tmp_path: Path) -> None:
    """On the command line, without touching what is not named."""
    path = tmp_path / "rules.yml"
    assert main(["--write", str(path), "--set", "latency_p95_s=0.1", "--runbooks", "https://wiki.example.org/r/"]) == 0
    ours = render().replace("> 0.25", "> 0.1").replace('"docs/runbooks/', '"https://wiki.example.org/r/')
    assert path.read_text() == ours


@pytest.mark.parametrize(
    "text", ["latency=1", "latency_p95_s=soon", "latency_p95_s=-1", "latency_p95_s", "=", "srm_evalue=nan"]
)
def test_a_wrong_number_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """A typo must not leave an alert at its default unnoticed."""
    path = tmp_path / "rules.yml"
    with pytest.raises(ConfigInvalid):
        limits_from([text])
    assert main(["--write", str(path), "--set", text]) == 2
    assert capsys.readouterr().err
    assert not path.exists()


def test_every_number_is_used_and_documented() -> None:
    """A limit that changes no rule would be a knob that is not connected."""
    page = (ROOT / "docs/how-to/alerts.md").read_text()
    for field in fields(Limits):
        assert render(limits_from([f"{field.name}=12345"])) != render(), field.name
        assert f"| `{field.name}` | {field.default:,} |" in page, field.name


def test_a_rehearsal_has_the_same_rules_at_another_pace() -> None:
    """Every window and wait is divided, nothing else differs."""
    usual, fast = rules(), rules(pace=Pace(60))
    assert [(r.name, r.severity, r.summary) for r in usual] == [(r.name, r.severity, r.summary) for r in fast]
    span = re.compile(r"(?<=\[)\w+(?=\])|(?<=offset )\w+")
    for slow, quick in zip(usual, fast, strict=True):
        assert span.sub("", slow.expr) == span.sub("", quick.expr)
        for before, after in zip(
            [*span.findall(slow.expr), slow.wait], [*span.findall(quick.expr), quick.wait], strict=True
        ):
            assert seconds(before) == pytest.approx(60 * seconds(after), rel=1e-3), slow.name


def seconds(span: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h|d)", span).groups()  # type: ignore[union-attr]
    return float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}[unit]
