"""`perene backtest` and its Python function, on every twelfth flight of spring 2013."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from perene.backtest import backtest
from perene.cli import app
from perene.config import Settings, load
from registry.errors import ConfigInvalid, ModelUnknown, PereneError, TrainingFailed
from registry.ledger import Ledger
from registry.log import Facts, build_bundle
from retrain.places import Places
from tests.integration import retrain_toy
from tests.integration.backtest_flights import TOML
from tests.integration.retrain_toy import MODEL, World

ROOT = Path(__file__).parents[2]
SPRING = ("2013-04-01", "2013-06-15")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backtest") / "perene.toml"
    path.write_text(TOML)
    return path


def run(config: Path, *arguments: object) -> tuple[str, str, BaseException | None]:
    done = CliRunner().invoke(app, ["backtest", *map(str, arguments), "--config", str(config)])
    return done.stdout, done.stderr, done.exception


def test_the_spring_is_met_and_everything_is_told(config: Path, tmp_path: Path) -> None:
    """The trigger answers the jet stream after it moved; the plot is one, and the JSON has every run and move."""
    plot = tmp_path / "spring.svg"
    said, talk, error = run(config, "small", "--from", SPRING[0], "--to", SPRING[1], "--plot", plot, "--json")
    assert error is None, talk
    found = json.loads(said)
    course = {policy["policy"]: policy for policy in found["policies"]}
    assert list(course) == ["never", "cron", "cron+gate", "trigger"]
    assert [month["month"] for month in course["never"]["months"]] == ["2013-04", "2013-05", "2013-06"]
    assert course["trigger"]["error"] < 0.97 * course["never"]["error"]
    assert 1 <= course["trigger"]["deployments"] <= 3 == course["cron"]["deployments"]
    assert course["trigger"]["moves"][0]["at"] > "2013-04-20"
    assert {run["outcome"] for run in course["trigger"]["runs"]} <= {"candidate", "refused"}
    assert found["fits"] <= 1 + sum(policy["fits"] for policy in course.values())
    assert "<svg" in plot.read_text()


def test_python_and_the_table(config: Path) -> None:
    """The same from Python; a row for each policy, and one column for each month."""
    settings = load(config)
    found = backtest("small", "2013-04-01", "2013-05-01", policies=["trigger"], sample=0.5, settings=settings)
    assert [row["policy"] for row in found.table()] == ["never", "trigger"]
    assert found.columns()[-1] == "2013-04"
    assert "<table>" in found._repr_html_()
    assert found.seed == 7
    said, talk, error = run(config, "small", "--from", "2013-04-01", "--to", "2013-05-01", "--policy", "never")
    assert error is None
    assert said.startswith("never\t")
    assert "mean absolute error of" in talk


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("smal", *SPRING), ConfigInvalid, "did you mean 'small'"),
        (("untrained", *SPRING), ConfigInvalid, "names no trainer"),
        (("unloaded", *SPRING), ModelUnknown, "the event lake has nothing of 'unloaded'"),
        (("small", SPRING[1], SPRING[0]), ConfigInvalid, "ends before it begins"),
        (("small", "spring", SPRING[1]), ConfigInvalid, "a date is in ISO form"),
        (("small", "0001-01-01T00:00+23:00", SPRING[1]), ConfigInvalid, "too far away"),
        (("small", SPRING[0], "9999-12-31"), ConfigInvalid, "too far away"),
        (("small", *SPRING, "--policy", "triger"), ConfigInvalid, "did you mean 'trigger'"),
        (("small", *SPRING, "--plot", "spring.gif"), ConfigInvalid, "no name of a plot"),
        (("small", *SPRING, "--plot", "/nowhere/at/all.png"), ConfigInvalid, "no such folder"),
        (("small", *SPRING, "--schedule", "daily"), ConfigInvalid, "schedule could not be read"),
        (("small", *SPRING, "--sample", "0"), ConfigInvalid, "no share"),
        (("raising", *SPRING), TrainingFailed, "the loader raised KeyError"),
        (("timeless", *SPRING), TrainingFailed, "no column '_at'"),
        (("small", "2016-01-01", "2016-02-01"), TrainingFailed, "no labelled row in this span"),
        (("small", "2013-01-02", "2013-02-01"), TrainingFailed, "the first version would have"),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    config: Path, arguments: tuple[str, ...], kind: type[PereneError], message: str
) -> None:
    """Before a fit, with the fix, and without a value of anybody."""
    name, start, end, *more = arguments
    _, _, error = run(config, name, "--from", start, "--to", end, *more, "--home", config.parent / "home")
    assert isinstance(error, kind)
    assert message in f"{error} {error.hint}"
    assert "secret" not in str(error)


def test_ctrl_c_ends_it_with_a_word(config: Path, tmp_path: Path) -> None:
    """Exit code 130 after the fit under way, and no plot."""
    command = [str(Path(sys.executable).parent / "perene"), "backtest", "slow", "--from", SPRING[0], "--to", SPRING[1]]
    plot = tmp_path / "never.png"
    with subprocess.Popen(
        [*command, "--plot", str(plot), "--config", str(config)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for _ in range(2):  # the second fit is within the replay
            assert process.stdout.readline() == "fitting\n"
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: nothing was kept" in talk
    assert "Traceback" not in talk
    assert not plot.exists()


def test_nothing_but_the_loader_is_asked(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No store is opened and no home is made."""
    home = tmp_path / "home"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    arguments: Any = ("small", "--from", "2013-04-01", "--to", "2013-04-08", "--home", home)
    _, talk, error = run(config, *arguments)
    assert error is None, talk
    assert not home.exists()


def test_without_a_loader_the_lake_is_the_past(tmp_path: Path) -> None:
    """Forty days of recorded traffic, a jump after twenty, labels an hour late: the trigger answers it."""
    home = tmp_path / "home"
    frame = pd.DataFrame({"x": np.linspace(0, 10, 400), "z": np.tile([0.0, 1.0], 200)}).astype(np.float32)
    frame["y"] = 2 * frame["x"] + 5
    places = Places(home)
    facts = Facts(cap=8.0)
    to = places.bundle(MODEL, 1)
    build_bundle(retrain_toy.train(frame), frame[["x", "z"]], frame["y"], name=MODEL, to=to, facts=facts)
    to.with_name("1.golden.json").write_text("[]")
    with closing(Ledger.open(places.ledger_url)) as ledger:
        ledger.move(MODEL, expected_revision=0, champion=1, actor="test", reason="first")
    world = World(home)
    world.play(30, shift=5.0)
    world.play(20, shift=15.0)
    models = retrain_toy.settings(gates={"off": ["leakage"]}).models
    found = backtest(MODEL, "2013-01-21", "2013-02-19", settings=Settings(home=home, models=models))
    assert [course.policy for course in found.policies] == ["never", "trigger"]
    assert found["never"].error > 5
    assert found["trigger"].error < 0.6 * found["never"].error
    assert all(move.at > datetime(2013, 1, 31, tzinfo=UTC) for move in found["trigger"].moves)
