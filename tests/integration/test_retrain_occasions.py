"""What begins a run and what a run that began is for, in a worker over a real lake and ledger."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from registry.ledger import Ledger
from retrain.training.spec import Spec
from retrain.triggering import standing
from tests.integration import retrain_home as at
from tests.integration import retrain_toy as toy

MODEL = toy.MODEL


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("occasions")
    at.make(home)
    return home


@pytest.fixture
def home(drifted: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "home"
    shutil.copytree(drifted, copied)
    return copied


def told(ledger: Ledger, status: str = "firing", *, fingerprint: str = "f", **labels: str) -> None:
    """A row as the receiver of alerts writes it."""
    body = {"alert": "Odd", "status": status, "labels": labels, "starts_at": "x", "fingerprint": fingerprint}
    ledger.record_evidence(MODEL, "alert", body)


def ticks(worker: Any, count: int = 12) -> None:
    """The lake of 30 days takes a few."""
    for _ in range(count):
        worker.tick()


def test_an_alert_that_asks_for_it_begins_one_run(home: Path) -> None:
    """One that is over, or does not ask, begins none; the one that does begins one and is then spent."""
    with at.working(home, toy.settings(triggers=["alert"])) as worker:
        ledger = worker.ledger
        told(ledger, retrain="false")
        told(ledger, rollback="true", fingerprint="g")
        told(ledger, retrain="true", fingerprint="h")
        told(ledger, "resolved", retrain="true", fingerprint="h")
        ticks(worker)
        assert ledger.runs(MODEL) == []
        stood = standing.read(ledger, MODEL)
        assert stood is not None
        assert stood.why == "nothing is due"
        told(ledger, retrain="True", fingerprint="i")
        worker.tick()
        worker.runs.stop()
        (run,) = ledger.runs(MODEL)
        assert run.body["spec"]["reason"] == "alert"
        ledger.record_evidence(MODEL, "run_cancel", {"run_id": run.run_id, "actor": "test", "reason": ""})
        ticks(worker, 3)
        assert [r.status for r in ledger.runs(MODEL)] == ["cancelled"]


def test_new_labels_begin_a_run_where_that_is_asked_for(home: Path) -> None:
    """The champion was fitted on 1,500 rows, and 7,000 labels have come since."""
    with at.working(home, toy.settings(triggers=["volume"])) as worker:
        toy.until(lambda: at.the_run(worker.ledger, "running"), worker.tick)
        worker.runs.stop()
        (run,) = worker.ledger.runs(MODEL)
        assert run.body["spec"]["reason"] == "volume"
        assert run.body["spec"]["labels"] > 1_500 * 0.2


def test_a_version_trained_for_an_estimate_is_tried_when_labels_agree(home: Path) -> None:
    """Its run began no trial; the confirmed loss begins that trial, and no further run."""
    with at.working(home) as worker:
        ledger = worker.ledger
        # the time of the run lies long before, so that no pause is what holds a further one
        spec = Spec("early", MODEL, "", "", "", "estimated", datetime(2012, 1, 1, tzinfo=UTC), 1, [], {})
        body = {"spec": at.recorded_spec(spec), "outcome": "candidate", "version": 2, "context": {}, "evidence_id": 1}
        ledger.record_run("early", MODEL, status="running", step="begin", body=body)
        ledger.record_run("early", MODEL, status="done", step="concluded", body=body)
        toy.until(lambda: ledger.experiments(MODEL), worker.tick)
        (trial,) = ledger.experiments(MODEL)
        assert trial.body["trial"]["candidate"] == 2
        ticks(worker, 3)
        assert [r.run_id for r in ledger.runs(MODEL)] == ["early"]


def test_no_more_runs_at_once_than_are_allowed(home: Path) -> None:
    """A run that lost its child waits for its turn while another one of this worker is at work."""
    with at.working(home) as worker:
        run, _ = at.begun(worker)
        worker.runs.most = 0
        ticks(worker, 3)
        assert worker.ledger.runs(MODEL)[0].step == run.step
        assert not worker.runs.busy
        worker.runs.most = 1
        worker.tick()
        assert worker.runs.busy
