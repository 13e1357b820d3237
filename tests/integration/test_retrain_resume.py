"""Runs go on from their last finished step, whatever kills them; and are ended, cancelled or put off with a reason."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from retrain.places import Places
from retrain.training.kept import kept_file
from tests.integration import retrain_home as at
from tests.integration import retrain_toy as toy
from tests.integration.retrain_home import MODEL, working


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("resume")
    at.make(home)
    return home


@pytest.fixture
def home(drifted: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "home"
    shutil.copytree(drifted, copied)
    return copied


def test_killed_in_each_step_it_goes_on_from_the_last_finished_one(home: Path) -> None:
    """kill -9 in every step in turn, then an attempt that nobody kills: nothing is done twice, one version is made."""
    with working(home) as worker:
        run, spec = at.begun(worker)
        folder = Places(home).run(run.run_id)
        finished: dict[str, set[str]] = {}
        for step in ("snapshot", "train", "bundle", "certify", "gate", "validate", "register", "registered"):
            before = len(worker.ledger.run_steps(run.run_id))
            ended = at.child(spec, killed_at=step)
            assert ended.returncode == -9, (step, ended.stdout[-2000:], ended.stderr[-2000:])
            rows = worker.ledger.run_steps(run.run_id)[before:]
            finished[step] = {row.step for row in rows if row.body["facts"].get("resumed")}
            if step == "train":
                snapshot = kept_file(folder / "snapshot.parquet")
        assert finished["train"] == set()  # killed before its rows were kept: they are loaded again
        assert finished["bundle"] == {"snapshot"}
        assert finished["certify"] == {"snapshot", "train"}
        assert finished["gate"] == {"snapshot", "train"}
        assert finished["validate"] == {"snapshot", "train", "certify"}
        assert finished["registered"] == set()  # the selection is kept: no step before it is looked at again
        assert at.versions(home) == [1, 2]  # MLflow has it, and the run does not know
        assert kept_file(folder / "snapshot.parquet") == snapshot

        done = at.ticked(worker)
        assert (done.run_id, done.status, done.body["version"]) == (run.run_id, "done", 2)
        assert at.versions(home) == [1, 2]
        assert len(worker.ledger.evidence(MODEL, "gates")) == 1
        assert len(worker.ledger.experiments(MODEL)) == 1
        assert worker.ledger.deployments()[MODEL].champion == 1
        assert worker.ledger.verify() == []


def test_a_damaged_snapshot_is_loaded_again(home: Path) -> None:
    """A kept file whose bytes changed is not learned from."""
    with working(home) as worker:
        run, spec = at.begun(worker)
        assert at.child(spec, killed_at="train").returncode == -9
        file = Places(home).run(run.run_id) / "snapshot.parquet"
        body = bytearray(file.read_bytes())
        body[len(body) // 2] ^= 1
        file.write_bytes(bytes(body))
        assert at.child(spec, killed_at="train").returncode == -9
        assert kept_file(file) is not None
        rows = worker.ledger.run_steps(run.run_id)
        assert [r for r in rows if r.step == "snapshot" and r.body["facts"].get("resumed")] == []


def test_crashes_nobody_explains_end_in_abandonment(home: Path) -> None:
    """Three attempts that die with their worker; then the row says so, and when the next one may be."""
    with working(home) as worker:
        run, _ = at.begun(worker)
        for _ in range(6):
            worker.tick()
            worker.runs.stop()
        ended = worker.ledger.runs(MODEL)[0]
        assert (ended.run_id, ended.status) == (run.run_id, "abandoned")
        assert "given up after 3 attempts" in ended.body["error"]
        assert ended.body["next_attempt"] > ended.body["spec"]["now"]
        assert worker.ledger.deployments()[MODEL].champion == 1


@pytest.mark.parametrize("step", ["begin", "train"])
def test_cancelled_it_ends_within_a_tick(home: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is killed, the row says who asked and where it stood, and no run follows at once."""
    monkeypatch.setenv("TOY_SLEEP", "60")
    with working(home) as worker:
        ledger = worker.ledger

        def reached() -> bool:
            run = at.the_run(ledger, "running")
            # how long a run stays at its beginning depends on the machine: it is reached in whatever step it is seen
            return run is not None and step in ("begin", run.step)

        toy.until(reached, worker.tick)
        run = at.the_run(ledger, "running")
        assert run is not None
        child = worker.runs._active[run.run_id]
        ledger.record_evidence(MODEL, "run_cancel", {"run_id": run.run_id, "actor": "ana", "reason": "not now"})
        worker.tick()
        assert child.process.returncode == -9
        ended = ledger.runs(MODEL)[0]
        assert (ended.status, ended.body["actor"], ended.body["why"]) == ("cancelled", "ana", "not now")
        assert ended.body["at_step"] in ("begin", "snapshot", "train")
        for _ in range(3):
            worker.tick()
        assert len(ledger.runs(MODEL)) == 1
        assert at.versions(home) == [1]
        value = worker.gauges.metrics.registry.get_sample_value(
            "perene_retrain_runs_total", {"model": MODEL, "trigger": "performance", "result": "cancelled"}
        )
        assert value == 1


def test_a_store_that_is_away_at_registration_is_waited_for(home: Path) -> None:
    """MLflow down is no failed run: what is finished is kept, the row says when it is tried again, and then it ends."""
    with working(home) as worker:
        run, spec = at.begun(worker)
        assert at.child(spec, killed_at="register").returncode == -9
        away = home / "mlflow.db.away"
        (home / "mlflow.db").rename(away)
        (home / "mlflow.db").write_bytes(b"no database " * 1_000)
        waiting = toy.until(
            lambda: (r := at.the_run(worker.ledger, "running")) is not None and r.step == "waiting" and r, worker.tick
        )
        assert waiting.body["at_step"] == "register"
        assert waiting.body["retry_at"] > waiting.body["waiting_since"]
        away.replace(home / "mlflow.db")
        done = at.ticked(worker)
        assert (done.run_id, done.status, done.body["version"]) == (run.run_id, "done", 2)
        assert done.body["spec"]["attempt"] <= 2  # a store that is away costs no attempt
        assert at.versions(home) == [1, 2]


def test_a_version_says_what_it_was_made_of(home: Path) -> None:
    """Its run in MLflow: rows, code, libraries, seed, parent, and how sure its loss is."""
    with working(home) as worker:
        run = at.ticked(worker)
        lineage = run.body["context"]["lineage"]
        steps = {r.step: r.body.get("facts", {}) for r in worker.ledger.run_steps(run.run_id)}
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        tags = dict(database.execute("SELECT key, value FROM model_version_tags WHERE version = 2").fetchall())
        (made_by,) = database.execute("SELECT run_id FROM model_versions WHERE version = 2").fetchone()
        params = dict(database.execute("SELECT key, value FROM params WHERE run_uuid = ?", (made_by,)).fetchall())
        figures = dict(database.execute("SELECT key, value FROM metrics WHERE run_uuid = ?", (made_by,)).fetchall())
    assert tags["perene.run_key"] == run.run_id
    assert (tags["perene.parent"], tags["perene.reason"]) == ("1", "performance")
    assert tags["perene.snapshot"] == lineage["snapshot"] == steps["snapshot"]["digest"]
    assert tags["perene.trainer"] == steps["snapshot"]["code"]
    assert tags["perene.key"] == lineage["key"]
    assert len(tags["perene.environment"]) == 64
    assert params["seed"] == "0"
    folds = [figures[f"cv_loss_{n}"] for n in (1, 2, 3)]
    assert figures["cv_loss_mean"] == pytest.approx(sum(folds) / 3)
    for name in ("holdout_loss", "holdout_effect"):
        assert figures[f"{name}_lower"] <= figures[name] <= figures[f"{name}_upper"]


def test_the_same_rows_and_code_are_no_second_run(home: Path) -> None:
    """A run with the key of a finished one ends as its repeat: nothing is trained or registered again."""
    with working(home) as worker:
        first = at.ticked(worker)
        assert first.body["outcome"] == "candidate"
        spec = next(Places(home).run(first.run_id).glob("spec-*.json"))
        again = Places(home).run(f"{MODEL}-again")
        again.mkdir()
        text = spec.read_text().replace(first.run_id, again.name).replace('"parent":', '"parent":0,"was":')
        (again / "spec.json").write_text(text)
        ended = at.child(again / "spec.json")
        assert ended.returncode == 0, ended.stderr
        result = (again / "result.json").read_text()
        assert '"outcome":"repeat"' in result
        assert first.run_id in result
        assert at.versions(home) == [1, 2]
    with closing(sqlite3.connect(home / "ledger.db")) as database:
        steps = database.execute("SELECT step FROM perene_runs WHERE run_id = ?", (again.name,)).fetchall()
    assert {s for (s,) in steps} == {"snapshot"}
