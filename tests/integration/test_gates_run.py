"""The gates as the worker has them: in evidence and card, held for a person, and tested every night."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from registry import approvals
from registry.bundle import read_bundle
from registry.experiment_facts import requested
from registry.ledger import Ledger, Run
from retrain.evidence import replay
from retrain.gates import nightly
from retrain.gates.held import release
from retrain.places import Places
from retrain.settings import WorkerSettings
from retrain.worker import Worker, create_worker
from tests.integration import retrain_toy as toy

MODEL = toy.MODEL
GATES = ["certificate", "contract", "non_inferiority", "slices", "calibration", "robustness", "fairness", "latency"]
GATES += ["leakage", "alpha"]


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A champion of before the drift, and enough traffic for the worker to have a clock and a reason."""
    home = tmp_path_factory.mktemp("gated")
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
def working(home: Path, settings: WorkerSettings) -> Iterator[Worker]:
    worker = create_worker(settings, home, registry=CollectorRegistry())
    worker.aliases.revision = worker.ledger.revision()  # aliases have tests of their own
    worker.aliases._due = math.inf
    try:
        yield worker
    finally:
        worker.close()


def ended(worker: Worker) -> Run:
    def found() -> Run | None:
        return next((r for r in worker.ledger.runs(MODEL) if r.status in ("done", "failed", "abandoned")), None)

    run: Run = toy.until(found, worker.tick)
    return run


def loader(name: str) -> str:
    return f"tests.integration.gate_toy:{name}"


def test_every_gate_is_in_the_evidence_and_in_the_card(home: Path) -> None:
    """Ten verdicts that follow again from the row, and a card that shows them with their tables."""
    with working(home, toy.settings()) as worker:
        run = ended(worker)
        assert (run.status, run.body["outcome"]) == ("done", "candidate")
        row = worker.ledger.evidence(MODEL, "gates")[0]
        assert [gate["gate"] for gate in row.body["gates"]] == GATES
        assert not [gate for gate in row.body["gates"] if "unmeasured" in gate["inputs"]]
        assert replay(row.body)
        bundle = read_bundle(Places(home).run(run.run_id) / "bundle")
        card = json.loads((bundle.path / "card.json").read_text())
        assert [v["gate"] for v in card["gates"]["verdicts"]] == GATES
        text = (bundle.path / "card.md").read_text()
        assert "## Gates" in text
        assert "| noise |" in text
        counted = worker.gauges.metrics.gate_result_total.labels(MODEL, "leakage", "pass")._value.get()
        assert counted == 1


def test_a_leak_is_held_until_a_person_approves(home: Path) -> None:
    """The version is registered and not tried; an approval asks for its trial once, under the person's name."""
    with working(home, toy.settings(loader=loader("leaking"))) as worker:
        run = ended(worker)
        assert (run.body["outcome"], run.body["version"]) == ("held", 2)
        gates = {g["gate"]: g["verdict"] for g in worker.ledger.evidence(MODEL, "gates")[0].body["gates"]}
        assert gates["leakage"] == "human"
        for _ in range(3):
            worker.tick()
        assert worker.ledger.deployments()[MODEL].candidate is None
        assert worker.ledger.experiments(MODEL) == []
        assert release(worker.ledger, MODEL) is None

        approvals.record(worker.ledger, MODEL, 2, kind="approval", actor="ann", digest="d")
        assert release(worker.ledger, MODEL) == 2
        assert release(worker.ledger, MODEL) is None
        asked = requested(worker.ledger, MODEL)
        assert [(row.body["candidate"], row.body["actor"]) for row in asked] == [(2, "ann")]


def test_only_what_was_said_since_the_run_releases(tmp_path: Path) -> None:
    """Approvals of before are about other rows; a version that nobody registered breaks no turn."""
    with closing(Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger:
        ledger.move(MODEL, expected_revision=0, champion=1, actor="ann", reason="first")
        approvals.record(ledger, MODEL, 2, kind="registered", actor="worker", digest="d")
        approvals.record(ledger, MODEL, 2, kind="approval", actor="ann", digest="d")
        ledger.record_run("r", MODEL, status="done", step="concluded", body={"outcome": "held", "version": 2})
        assert release(ledger, MODEL) is None
        approvals.record(ledger, MODEL, 2, kind="approval", actor="bea", digest="d")
        assert release(ledger, MODEL) == 2
        ledger.record_run("s", MODEL, status="done", step="concluded", body={"outcome": "held", "version": 9})
        approvals.record(ledger, MODEL, 9, kind="approval", actor="ann", digest="e")
        assert release(ledger, MODEL) is None


def one_test(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, **more: Any
) -> tuple[dict[str, Any], float, float]:
    """The row of one test of the gates, the blind gauge, and that of the next worker before it tests."""
    monkeypatch.setattr(nightly, "FIRST_S", 0.0)
    settings = toy.settings(loader=loader(name), trial={"promotion": "manual"}, **more)
    with working(home, settings) as worker:
        worker.runs.most = 0  # nothing else to do
        row = toy.until(lambda: next(iter(worker.ledger.evidence(MODEL, nightly.EVIDENCE)), None), worker.tick)
        for _ in range(3):
            worker.tick()
        assert len(worker.ledger.evidence(MODEL, nightly.EVIDENCE)) == 1
        blind = worker.gauges.metrics.gate_blind.labels(MODEL)._value.get()
    with working(home, settings) as worker:
        worker.runs.most = 0
        worker.tick()
        assert worker.self_tests._now is None
        return row.body, blind, worker.gauges.metrics.gate_blind.labels(MODEL)._value.get()


def test_the_gates_are_tested_once_a_day(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All four planted challengers get the right verdict; a second worker knows of it and does not test again."""
    body, blind, after = one_test(home, monkeypatch, "undrifted")
    assert body["result"] == "right", body
    assert {name: case["found"] for name, case in body["cases"].items()} == dict.fromkeys(
        ("worse", "identical", "shuffled", "leaky"), "right"
    )
    assert (blind, after) == (0, 0)


def test_without_labels_a_test_tells_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no failure to be tried again every hour, and no word about the gates."""
    body, blind, after = one_test(home, monkeypatch, "unlabelled")
    assert (body["result"], body["why"]) == ("not told", "there are no labelled rows to learn from")
    assert (blind, after) == (0, 0)


def test_a_blind_gate_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: a gate that passes everything is found out, and the gauge stays until a test is right."""
    others = ["slices", "calibration", "robustness", "leakage", "alpha"]
    body, blind, after = one_test(home, monkeypatch, "sabotaged", gates={"off": others})
    assert body["result"] == "blind"
    assert {name: case["found"] for name, case in body["cases"].items()} == {
        "worse": "blind",
        "identical": "blind",
        "shuffled": "blind",
        "leaky": "not told",
    }
    assert (blind, after) == (1, 1)
