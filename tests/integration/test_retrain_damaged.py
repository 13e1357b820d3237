"""What is damaged on disk or in the ledger ends or holds what it belongs to, and never a trial that callers meet."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import joblib
import pytest

from registry import approvals, experiment_requests
from registry.ledger import Ledger
from retrain.places import Places
from retrain.training.kept import keep, kept, kept_own
from retrain.worker import Worker
from tests.integration import retrain_home as at
from tests.integration import retrain_toy as toy
from tests.integration.retrain_home import MODEL, working


@pytest.fixture
def home(tmp_path: Path) -> Path:
    at.make(tmp_path / "home")
    return tmp_path / "home"


@pytest.mark.parametrize("body", [b"", b'{"run_id": 1}', b"\xff\xfe"])
def test_a_result_that_cannot_be_read_ends_its_run(home: Path, body: bytes) -> None:
    """It would be as damaged in each turn to come, and keep every run after it away."""
    with working(home) as worker:
        run, _ = at.begun(worker)
        folder = Places(home).run(run.run_id)
        (folder / "result.json").write_bytes(body)
        ended = at.ticked(worker)
        assert (ended.run_id, ended.status, ended.body["code"]) == (run.run_id, "failed", "broke")
        assert "result.damaged" in ended.body["error"]
        assert (folder / "result.damaged").read_bytes() == body
        assert worker.ledger.verify() == []


def a_run_of_another_build(worker: Worker) -> None:
    body: dict[str, Any] = {"spec": {"run_id": 7}}
    worker.ledger.record_run("toy-1", MODEL, status="running", step="begin", body=body, token=worker.leader.claim())


def a_state_of_another_build(worker: Worker) -> None:
    worker.ledger.save_state(f"worker:{MODEL}", b"\xc1", token=worker.leader.claim())
    worker._watches.clear()


@pytest.mark.parametrize("broken", [a_run_of_another_build, a_state_of_another_build])
def test_whatever_else_is_broken_a_trial_is_taken_back(home: Path, broken: Any) -> None:
    """An alert ends it though the model's run, or its monitoring, fails in every turn."""
    with working(home, toy.settings(clock="wall", triggers=[], cooldown="9999d")) as worker:
        ledger: Ledger = worker.ledger
        approvals.record(ledger, MODEL, 2, kind="registered", actor="ann", digest="d")
        experiment_requests.start(ledger, MODEL, 2, actor="ann", reason="r")
        toy.until(lambda: ledger.deployments()[MODEL].candidate == 2, worker.tick)
        broken(worker)
        failures = worker.gauges.metrics.monitor_failures_total.labels(MODEL)._value.get
        before = failures()
        worker.tick()
        assert failures() > before
        told = {"alert": "Odd", "status": "firing", "labels": {"rollback": "true"}, "fingerprint": "f"}
        ledger.record_evidence(MODEL, "alert", told)
        toy.until(lambda: ledger.deployments()[MODEL].candidate is None, worker.tick)
        assert ledger.experiments(MODEL)[0].state == "rolled_back"


class Planted:
    """Unpickling it leaves a file."""

    def __init__(self, at: Path) -> None:
        self.at = at

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.at),)


def test_a_disk_that_takes_no_report_costs_nothing_but_the_report(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker goes on, and tends what comes after it."""
    tended: list[str] = []

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with working(home) as worker:
        monkeypatch.setattr(worker.reports, "tend", full)
        monkeypatch.setattr(worker.self_tests, "tend", lambda **_: tended.append("self-test"))
        assert worker.tick()
        assert worker.tick()
    assert tended == ["self-test"] * 2


def test_an_estimator_that_others_may_have_put_there_is_not_loaded(tmp_path: Path) -> None:
    """Unpickling runs code: only files of our own that nobody else may write are taken, and no links."""
    path = tmp_path / "fitted" / "0.joblib"
    before = os.umask(0)
    try:
        keep(path, b"x")
    finally:
        os.umask(before)
    for made in (path.parent, path, path.with_name("0.joblib.sha256")):
        assert not stat.S_IMODE(made.stat().st_mode) & 0o022
    assert kept_own(path) == b"x"
    path.chmod(0o666)
    assert kept_own(path) is None
    assert kept(path) == b"x"  # what is no pickle is read as before
    joblib.dump(Planted(tmp_path / "ran"), tmp_path / "planted")
    keep(tmp_path / "else" / "0.joblib", (tmp_path / "planted").read_bytes())
    path.unlink()
    path.symlink_to(tmp_path / "else" / "0.joblib")
    assert kept_own(path) is None
    assert not (tmp_path / "ran").exists()
