"""`perene experiment` through the command, on a real ledger and a real MLflow store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner, Result

from perene import api
from perene.cli import app
from perene.experiments import Experiment, experiment, experiments, forecast
from registry import approvals
from registry.errors import ExperimentInvalid, LedgerConflict, NotAllowed, PereneError, VersionUnknown
from registry.experiment_requests import start
from registry.ledger import Ledger
from retrain.trials.experiments import advance, trial_evidence
from retrain.trials.looks import Look, add
from retrain.trials.plans import policy_of
from retrain.trials.policy import Trial
from retrain.trials.stats import ShadowStats
from retrain.trials.trial_settings import TrialSettings
from tests.integration.registered_toy import MODEL, Shelf

AT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def shelf(home: Path, toy_bundle: Path, tmp_path: Path) -> Shelf:
    return Shelf(home, toy_bundle, tmp_path)


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    with closing(Ledger.open(f"sqlite:///{home / 'ledger.db'}")) as opened:
        yield opened


def perene(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["experiment", *arguments, "--home", str(home)], env={"COLUMNS": "200"})


def refused(home: Path, kind: type[PereneError], *arguments: str) -> PereneError:
    """The refusal of a command."""
    done = perene(home, *arguments)
    assert isinstance(done.exception, kind), (done.output, done.exception)
    return done.exception


def begun(ledger: Ledger, *, reason: str = "requested", looks: int = 40) -> str:
    """A trial that the worker has begun, looked at, and decided once; its deployment is in shadow."""
    import numpy as np

    settings = TrialSettings(stages=("shadow", "ab:0.5"), shadow_labels=100)
    trial = Trial("x-1", 1, 2, reason, AT, AT, policy_of(settings, 0.2), 1.0, by_people=True)
    body: dict[str, Any] = {"trial": trial.to_dict(), "entered": True}
    ledger.record_experiment("x-1", MODEL, state="running", stage="shadow", body=body)
    for n in range(1, looks + 1):
        look = Look(
            at=(AT + timedelta(hours=n)).isoformat(),
            stage="shadow" if n < looks // 2 else "ab:0.5",
            n_champion=10 * n,
            n_candidate=10 * n,
            effect=0.01,
            lower=0.01 - 1 / n,
            upper=0.01 + 1 / n,
            guardrails={"errors": 0.5},
            needed=240,
        )
        add(ledger, "x-1", look, token=None)
    stats = ShadowStats(np.full(400, 0.02, np.float32))
    decision = advance(trial, stats, AT + timedelta(hours=5))
    ledger.record_evidence(
        MODEL, "decision", trial_evidence(trial, stats, AT + timedelta(hours=5), decision), token=None
    )
    return "x-1"


def test_a_version_is_tried_once_it_is_found_fit(shelf: Shelf, ledger: Ledger) -> None:
    """Checked first, with `--dry-run` only checked; then a request that the worker reads; a second one is refused."""
    home = shelf.home
    one, two = shelf.add(100), shelf.add(200)
    api.promote(MODEL, one, reason="first", settings=shelf.settings())
    asked = ("start", MODEL, str(two), "--reason", "warmer", "--option", "margin=0.02", "--json")
    dry = perene(home, *asked, "--dry-run")
    assert json.loads(dry.stdout)["dry_run"] is True
    assert ledger.evidence(MODEL, "experiment_request") == []
    made = json.loads(perene(home, *asked).stdout)
    assert (made["candidate"], made["options"], made["actor"]) == (two, {"margin": 0.02}, api.actor())
    refused(home, LedgerConflict, *asked)
    listed = perene(home, "list", MODEL)
    assert made["experiment_id"] in listed.stdout
    assert "requested" in listed.stdout
    assert "perene worker" in perene(home, "show", MODEL).stderr
    ended = perene(home, "abort", made["experiment_id"], "--reason", "not now", "--json")
    assert json.loads(ended.stdout)["champion"] == one
    assert "aborted" in perene(home, "show", made["experiment_id"]).stdout


def test_what_may_not_be_tried_is_refused(shelf: Shelf, ledger: Ledger) -> None:
    """The champion, unknown, uncertified, refused and lying versions, callers that would break, unknown outcomes."""
    home = shelf.home
    lenient = shelf.add_lenient(100)
    api.promote(MODEL, lenient, reason="first", settings=shelf.settings())
    cases: list[tuple[tuple[str, ...], type[PereneError], str]] = [
        ((str(lenient),), ExperimentInvalid, "is the champion"),
        (("99",), VersionUnknown, "no version 99"),
        ((str(shelf.add_plain()),), NotAllowed, "no certificate"),
        ((str(shelf.add(600, verdict="refused")),), NotAllowed, "says refused"),
        ((str(shelf.add(200)),), NotAllowed, "would break"),
        ((str(shelf.add_lenient(300)), "--option", "metric=revenue"), ExperimentInvalid, "one of the outcomes"),
        ((str(lenient + 1), "--option", "margn=0.1"), ExperimentInvalid, "no such option"),
        ((str(lenient + 1), "--option", "margin=nan"), ExperimentInvalid, "margin cannot be"),
        ((str(lenient + 1), "--reason", "\x1b[31m"), ExperimentInvalid, "no text"),
    ]
    for arguments, kind, words in cases:
        assert words in refused(home, kind, "start", MODEL, *arguments).message
    assert ledger.evidence(MODEL, "experiment_request") == []
    assert "did you mean 'toy'" in refused(home, PereneError, "start", "tou", "2").hint
    assert "did you mean 'toy'" in refused(home, PereneError, "list", "tou").hint


def test_who_registered_may_not_approve(shelf: Shelf, ledger: Ledger) -> None:
    """The account that registered the candidate is refused, a dry run too; another one's approval is shown."""
    ledger.move(MODEL, expected_revision=0, champion=1, actor="ann", reason="first")
    approvals.record(ledger, MODEL, 2, kind="registered", actor=api.actor(), digest="d2")
    name = start(ledger, MODEL, 2, actor="ann", reason="r")["experiment_id"]
    refused(shelf.home, NotAllowed, "approve", name)
    refused(shelf.home, NotAllowed, "approve", name, "--dry-run")
    approvals.record(ledger, MODEL, 2, kind="approval", actor="bob", digest="d2")
    assert "approved by: bob" in perene(shelf.home, "show", name).stdout


def test_show_says_how_it_stands_and_draws_it(home: Path, ledger: Ledger, tmp_path: Path) -> None:
    """Stage, interval, guardrails, what is needed and by when, decisions; PNG and SVG; other names are refused."""
    ledger.move(MODEL, expected_revision=0, champion=1, actor="ann", reason="first")
    name = begun(ledger)
    said = perene(home, "show", name, "--plot", str(tmp_path / "trial.png"))
    assert said.exit_code == 0, said.exception
    for words in ("version 2 against champion 1", "ab:0.5", "margin -0.01", "errors 0.50", "240 more labels", "a day"):
        assert words in said.stdout
    assert "advance" in said.stderr
    assert f"perene experiment approve {name}" in said.stderr
    assert (tmp_path / "trial.png").read_bytes().startswith(b"\x89PNG")
    perene(home, "show", name, "--plot", str(tmp_path / "trial.svg"))
    ET.fromstring((tmp_path / "trial.svg").read_text())
    for bad in ("trial.gif", "nowhere/trial.png"):
        refused(home, PereneError, "show", name, "--plot", str(tmp_path / bad))
    told = json.loads(perene(home, "show", name, "--json").stdout)
    assert (told["needed"], told["look"]["stage"], told["margin"]) == (240, "ab:0.5", 0.01)
    assert told["decisions"][0]["action"] == "advance"


def test_replay_agrees_and_a_changed_row_does_not(home: Path, ledger: Ledger) -> None:
    """Offline, from the evidence alone; exit code 1 where another decision follows."""
    ledger.move(MODEL, expected_revision=0, champion=1, actor="ann", reason="first")
    name = begun(ledger)
    done = perene(home, "replay", name)
    assert (done.exit_code, "agrees" in done.stdout) == (0, True)
    [row] = ledger.evidence(MODEL, "decision")
    changes: list[dict[str, Any]] = [{"action": "promote"}, {"stats": {}}]
    for change in changes:
        ledger.record_evidence(MODEL, "decision", {**row.body, **change})
        done = perene(home, "replay", name)
        assert (done.exit_code, "differs" in done.stdout) == (1, True)


def test_a_notebook_shows_a_trial_and_runs_nothing_of_it(shelf: Shelf, ledger: Ledger) -> None:
    """Plot and tables; what people wrote is text, in SVG too. Never looked at is said."""
    ledger.move(MODEL, expected_revision=0, champion=1, actor="ann", reason="first")
    bad = "<script>alert(1)</script> $\\frac{a}{b}$"
    begun(ledger, reason=bad)
    settings = shelf.settings()
    shown = experiment("x-1", settings=settings)._repr_html_()
    assert "<svg" in shown
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    ET.fromstring(shown[shown.index("<svg") : shown.index("</svg>") + 6])
    ledger.record_experiment("x-2", MODEL, state="aborted", stage="done", body={"candidate": 3, "champion": 1})
    never = experiment("x-2", settings=settings)
    assert "not looked at yet" in never._repr_html_()
    assert [trial.id for trial in experiments(settings=settings)] == ["x-2", "x-1"]
    hostile = Experiment(
        **{**{f: getattr(never, f) for f in never.__dataclass_fields__}, "model": bad, "looks": (LOOK, LOOK)}
    )
    assert "<script" not in hostile._repr_html_()


LOOK: dict[str, Any] = {
    "at": AT.isoformat(),
    "stage": "<script>",
    "n_champion": 1,
    "n_candidate": 1,
    "effect": 0.0,
    "lower": -1.0,
    "upper": 1.0,
}


@pytest.mark.parametrize(
    ("counts", "needed", "expected"),
    [
        ([100, 200, 300, 400], 100, (100.0, AT + timedelta(days=4))),
        ([100, 100, 100, 100], 100, (None, None)),
        ([100], 100, (None, None)),
    ],
)
def test_the_forecast_goes_on_as_it_went(counts: list[int], needed: int, expected: Any) -> None:
    """A day for each look: at 100 labels a day, 100 more have come a day later; nothing is foretold without any."""
    looks = [
        {**LOOK, "at": (AT + timedelta(days=n)).isoformat(), "n_champion": c, "n_candidate": c + 7, "needed": needed}
        for n, c in enumerate(counts)
    ]
    found = forecast(looks)
    assert found is not None
    assert (found.per_day, found.at) == expected
    assert forecast([{**looks[0], "needed": None}]) is None
