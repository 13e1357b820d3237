"""`perene retrain`: ask, wait, look, end; against a worker that ticks."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from perene.cli import app
from registry.ledger import Ledger
from retrain.places import Places
from retrain.worker import Worker
from tests.integration import retrain_home as at
from tests.integration import retrain_toy as toy

MODEL = toy.MODEL
TABLE = """
[models.toy.retrain]
trainer = "tests.integration.retrain_toy:train"
target = "y"
windows = ["20d"]
holdout = "4d"
maturity = "1h"
min_labels = 200
clock = "event"
triggers = []
"""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A champion and 30 days of which nobody makes anything by itself: the trigger performance is off."""
    home = tmp_path_factory.mktemp("asked")
    at.make(home)
    (home / "perene.toml").write_text(TABLE)
    return home


@pytest.fixture
def home(calm: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "home"
    shutil.copytree(calm, copied)
    return copied


def invoke(home: Path, *arguments: str) -> Result:
    done: Result = CliRunner().invoke(
        app, ["retrain", *arguments, "--home", str(home), "--config", str(home / "perene.toml"), "--json"]
    )
    return done


def told(home: Path, *arguments: str) -> Any:
    done = invoke(home, *arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@contextmanager
def ticking(home: Path) -> Iterator[Worker]:
    """A worker at work in a thread that stays: its children die with the thread."""
    stop = threading.Event()
    with at.working(home, toy.settings(windows=["20d"], triggers=[])) as worker:

        def work() -> None:
            while not stop.is_set():
                worker.tick()
                stop.wait(0.1)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield worker
        finally:
            stop.set()
            thread.join()


def test_a_dry_run_says_what_would_be_learned_and_begins_nothing(home: Path) -> None:
    with at.working(home, toy.settings(triggers=[])) as worker:
        for _ in range(5):
            worker.tick()
        assert worker.ledger.runs(MODEL) == []
    found = told(home, "now", MODEL, "--dry-run")
    assert (found["champion"], found["trainer"]) == (1, "tests.integration.retrain_toy:train")
    assert [w["name"] for w in found["windows"]] == ["20d"]
    assert found["windows"][0]["to"] == found["holdout"]["from"]  # no row is learned from and judged on
    assert found["labels"] > found["needed"]
    with pytest.MonkeyPatch.context():
        ledger = Ledger.open(Places(home).ledger_url)
        assert ledger.evidence(MODEL, "run_request") == []
        assert ledger.runs(MODEL) == []
        ledger.close()


def test_asked_waited_for_and_looked_at(home: Path) -> None:
    """The command ends with the run and says its version; status, log and the times of steps follow."""
    with ticking(home):
        done = invoke(home, "now", MODEL, "--wait", "--reason", "a test")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert (found["status"], found["outcome"], found["version"]) == ("done", "candidate", 2)
        said = done.stderr
        told_steps = [line.split(",")[0].strip() for line in said.splitlines()]
        log = told(home, "log", found["run"])
        steps = [s["step"] for s in log["steps"]]
        assert steps[-1] == "concluded"
        assert [s for s in told_steps if s in steps] == list(dict.fromkeys(steps))  # those between two looks as well
        assert log["seconds"].keys() >= {"snapshot", "train", "bundle", "certify", "gate", "validate", "register"}
        assert '"event": "retrain.step"' in log["log"]
        row = told(home, "status", MODEL)[0]
        assert (row["run"], row["status"], row["reason"]) == (found["run"], "done", "manual")
        assert told(home, "now", MODEL, "--dry-run")["takes_s"] > 0  # by the run that ended


def test_a_run_is_cancelled(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it trains: the command waits for the end, which comes at the next tick; twice is refused."""
    monkeypatch.setenv("TOY_SLEEP", "60")
    with ticking(home) as worker:
        told(home, "now", MODEL)
        run = toy.until(lambda: (r := at.the_run(worker.ledger, "running")) is not None and r.step == "train" and r)
        refused = invoke(home, "now", MODEL)
        assert refused.exit_code != 0  # one run of a model at a time
        found = told(home, "cancel", run.run_id, "--reason", "wrong data")
        assert found["status"] == "cancelled"
        assert invoke(home, "cancel", run.run_id).exit_code != 0
        row = told(home, "status", MODEL)[0]
        assert (row["status"], row["told"]) == ("cancelled", "wrong data")


def test_what_cannot_be_is_refused_with_the_fix(home: Path) -> None:
    """An unknown run, a path for a run, a model that is not deployed."""
    for arguments in (("log", "nothing"), ("log", "../../etc"), ("cancel", "nothing"), ("now", "other")):
        done = invoke(home, *arguments)
        assert done.exit_code != 0
        assert done.exception is not None
    (home / "perene.toml").write_text("")
    assert "not retrained" in str(invoke(home, "now", MODEL).exception)
