"""The loop from drift to promotion on a real ledger, lake and MLflow store; and what a kill -9 leaves behind."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client import CollectorRegistry

from registry.ledger import Experiment, Ledger, Run
from retrain.evidence import replay
from retrain.places import Places
from retrain.settings import WorkerSettings
from retrain.triggering import standing
from retrain.worker import Worker, create_worker
from tests.integration import retrain_toy as toy

MODEL = toy.MODEL


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion of before the drift, 16 calm days and 14 drifted ones. Copied by each test."""
    home = tmp_path_factory.mktemp("drifted")
    toy.establish_in_child(home)
    world = toy.World(home)
    world.play(16, shift=5.0)
    world.play(14, shift=15.0)
    return home


@pytest.fixture
def home(drifted: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "home"
    shutil.copytree(drifted, copied)
    return copied


@contextmanager
def working(home: Path, settings: WorkerSettings | None = None) -> Iterator[Worker]:
    worker = create_worker(settings or toy.settings(), home, registry=CollectorRegistry())
    worker.aliases.revision = worker.ledger.revision()  # aliases have tests of their own
    worker.aliases._due = math.inf
    try:
        yield worker
    finally:
        worker.close()


def the_run(ledger: Ledger, *status: str) -> Run | None:
    return next((r for r in ledger.runs(MODEL) if r.status in status), None)


def the_trial(ledger: Ledger) -> Experiment | None:
    return next(iter(ledger.experiments(MODEL)), None)


def resumed_world(home: Path) -> toy.World:
    """The world goes on after the 30 days of the fixture."""
    return toy.World(home, day=30, boot="boot2")


def ticked(worker: Worker, *, seconds: float = 120.0) -> Run:
    """Tick until the run has an end."""
    found: Run = toy.until(lambda: the_run(worker.ledger, "done", "failed", "abandoned"), worker.tick, seconds)
    return found


def test_from_drift_to_promotion(home: Path) -> None:
    """Finding, run, gates, shadow, A/B, promotion: each with evidence that decides the same again."""
    with working(home) as worker:
        ledger, world = worker.ledger, resumed_world(home)
        run = ticked(worker)
        assert (run.status, run.body["outcome"], run.body["version"]) == ("done", "candidate", 2)
        assert run.body["spec"]["reason"] == "performance"
        toy.pull(home, run.run_id, 2)
        toy.until(lambda: ledger.deployments()[MODEL].mode == "shadow", worker.tick)
        assert ledger.deployments()[MODEL].candidate == 2

        world.play(3, shift=15.0, shadow=2)
        toy.until(lambda: ledger.deployments()[MODEL].mode == "ab", worker.tick)
        assert ledger.deployments()[MODEL].weight == 0.5

        world.play(4, shift=15.0, ab=2)
        toy.until(lambda: ledger.deployments()[MODEL].champion == 2, worker.tick)
        toy.until(lambda: (t := the_trial(ledger)) is not None and t.state == "promoted", worker.tick)

        findings = ledger.evidence(MODEL, "finding")
        assert any(f.body["kind"] == "performance" and f.body["state"] == "confirmed" for f in findings)
        decided = [*ledger.evidence(MODEL, "gates"), *ledger.evidence(MODEL, "decision")]
        assert [d.body.get("action", "gates") for d in decided] == ["gates", "promote", "advance"]
        assert all(replay(d.body) for d in decided)
        assert ledger.verify() == []
        assert ledger.history(MODEL)[-1].evidence_id == decided[1].id

        # the new champion is watched anew, and the trial is not decided again
        world.play(2, shift=15.0, champion=2)
        for _ in range(5):
            worker.tick()
        assert len(ledger.evidence(MODEL, "decision")) == 2
        assert worker._watches[MODEL].snapshot()["version"] == 2
        value = worker.gauges.metrics.promotions_total.labels(MODEL, "promoted")._value.get()
        assert value == 1


def test_a_worse_candidate_is_refused_and_waited_for(home: Path) -> None:
    """The gate refuses, nothing is registered or deployed, and the next attempt waits for twice the cooldown."""
    with working(home, toy.settings("worse")) as worker:
        run = ticked(worker)
        assert (run.status, run.body["outcome"], run.body["version"]) == ("done", "refused", None)
        gates = worker.ledger.evidence(MODEL, "gates")
        assert len(gates) == 1
        assert not gates[0].body["passed"]
        assert replay(gates[0].body)
        world = resumed_world(home)
        world.play(3, shift=15.0)
        for _ in range(3):
            worker.tick()
        assert len(worker.ledger.runs(MODEL)) == 1
        world.play(2, shift=15.0)
        toy.until(lambda: len(worker.ledger.runs(MODEL)) == 2, worker.tick)
        assert worker.ledger.deployments()[MODEL].candidate is None


def test_a_broken_trainer_opens_the_breaker(home: Path) -> None:
    """Three broken runs, and then a human is needed."""
    with working(home, toy.settings("broken", cooldown="1s")) as worker:
        world, ledger = resumed_world(home), worker.ledger

        def failed() -> int:
            return sum(r.status == "failed" for r in ledger.runs(MODEL))

        for wanted in ({1}, {2}, {3}):
            toy.until(partial(lambda numbers: failed() in numbers, wanted), worker.tick)
            row = ledger.runs(MODEL)[0]
            assert (row.body["error"], row.body["at_step"]) == (
                "the trainer raised RuntimeError (tests.integration.retrain_toy:broken)",
                "train",
            )
            assert (row.body["next_attempt"] is None) == (wanted == {3})
            world.play(4, shift=15.0)  # a pause is never shorter than a gate's sample takes, and doubles
        for _ in range(5):
            worker.tick()
        assert len(ledger.runs(MODEL)) == 3
        assert len(ledger.evidence(MODEL, "breaker_open")) == 1
        stood = standing.read(ledger, MODEL)
        assert stood is not None
        assert stood.brake == "breaker"
        ledger.record_evidence(MODEL, "breaker_closed", {"by": "test"})
        toy.until(lambda: len(ledger.runs(MODEL)) == 4, worker.tick)


def test_a_human_takes_the_candidate_out(home: Path) -> None:
    """A rollback by hand ends the trial; the worker does not put the candidate back."""
    with working(home) as worker:
        ledger = worker.ledger
        run = ticked(worker)
        toy.pull(home, run.run_id, 2)
        toy.until(lambda: ledger.deployments()[MODEL].mode == "shadow", worker.tick)
        worker.tick()
        now = ledger.deployments()[MODEL]
        ledger.move(MODEL, expected_revision=now.revision, champion=1, actor="sre", reason="no")
        toy.until(lambda: (t := the_trial(ledger)) is not None and t.state == "aborted", worker.tick)
        for _ in range(3):
            worker.tick()
        assert ledger.deployments()[MODEL].actor == "sre"


def start(home: Path, settings: WorkerSettings, sleep: str) -> subprocess.Popen[bytes]:
    """A worker process like `perene up` starts one."""
    path = home / "worker.json"
    path.write_text(settings.model_dump_json())
    command = [sys.executable, "-m", "retrain", "--home", str(home), "--settings", str(path), "--port", "0"]
    with (home / "worker.log").open("ab") as log:
        return subprocess.Popen(command, env={**os.environ, "TOY_SLEEP": sleep}, stdout=log, stderr=log)


def training(ledger: Ledger, parent: int) -> psutil.Process | None:
    """The child, once it is inside the user's trainer."""
    run = the_run(ledger, "running")
    if run is None or run.step != "train":
        return None
    children: list[psutil.Process] = psutil.Process(parent).children()
    return next((c for c in children if "retrain.training.child" in " ".join(c.cmdline())), None)


def dead(process: psutil.Process) -> bool:
    """It may go between two looks."""
    try:
        return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_killed_worker_leaves_one_run_that_the_next_one_finishes(home: Path) -> None:
    """kill -9 in the middle of training: the child dies too, the same run is resumed, nothing is decided twice."""
    ledger = Ledger.open(Places(home).ledger_url)
    first = start(home, toy.settings(), sleep="60")
    try:
        child = toy.until(lambda: training(ledger, first.pid))
        before = the_run(ledger, "running")
        first.send_signal(signal.SIGKILL)
        first.wait()
        toy.until(lambda: dead(child), seconds=50)  # it would sleep for 60
    finally:
        first.kill()
        first.wait()
    second = start(home, toy.settings(), sleep="0")
    try:
        after: Any = toy.until(lambda: the_run(ledger, "done", "failed", "abandoned"))
        assert before is not None
        assert (after.run_id, after.status, after.body["version"]) == (before.run_id, "done", 2)
        assert after.body["spec"]["attempt"] == 2
        toy.until(lambda: ledger.deployments()[MODEL].mode == "shadow")
        second.send_signal(signal.SIGTERM)
        assert second.wait(60) == 0
    finally:
        second.kill()
        second.wait()
    assert len(ledger.runs(MODEL)) == 1
    assert len(ledger.evidence(MODEL, "gates")) == 1
    assert len(ledger.experiments(MODEL)) == 1
    assert [d.candidate for d in ledger.history(MODEL)] == [None, 2]
    bodies = [str(f.body) for f in ledger.evidence(MODEL, "finding")]
    assert len(bodies) == len(set(bodies))
    ledger.close()


def test_aliases_follow_the_ledger(home: Path) -> None:
    """After the row, a child makes MLflow say the same; MLflow itself is never imported by the worker."""
    places = Places(home)
    command = [sys.executable, "-m", "retrain.aliases", "--home", str(home)]
    subprocess.run(command, check=True, timeout=120)
    code = (
        "from pathlib import Path; from registry.mlflow_store import Store; from retrain.places import Places;"
        f"p = Places(Path({str(places.home)!r})); print(Store(p.tracking_uri, p.artifacts).aliases({MODEL!r}))"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert said.stdout.strip().endswith("{'champion': 1}")


def test_the_worker_imports_nothing_heavy() -> None:
    """MLflow, Evidently, scikit-learn and pandas live in children only."""
    code = (
        "import sys, retrain.worker, retrain.__main__;"
        "heavy = {'mlflow', 'evidently', 'sklearn', 'onnxruntime', 'skl2onnx', 'ray', 'optuna'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert said.stdout.strip() == "[]"


def test_a_stale_child_registers_nothing(home: Path) -> None:
    """A child whose leader was replaced stops at its next step: the fence holds for it as well."""
    with working(home) as worker:
        assert worker.tick()
        run = toy.until(lambda: the_run(worker.ledger, "running"), worker.tick)
        worker.runs.stop()
        folder = Places(home).run(run.run_id)
        spec = next(folder.glob("spec-*.json"))
        assert worker.ledger.acquire("leader", worker.leader.holder, 60.0) is not None
        child = subprocess.run(
            [sys.executable, "-m", "retrain.training.child", str(stale(spec))],
            check=False,
            timeout=120,
            capture_output=True,
        )
        assert child.returncode == 75
        assert not (folder / "result.json").exists()


def stale(spec: Path) -> Path:
    """The same specification, without a parent to die with."""
    body = json.loads(spec.read_text()) | {"parent": 0}
    spec.write_text(json.dumps(body))
    return spec
