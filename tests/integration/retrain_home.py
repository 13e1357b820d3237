"""Workers on homes with a champion of before a drift, for tests of retraining runs."""

from __future__ import annotations

import atexit
import json
import math
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from registry.ledger import Ledger, Run
from retrain.places import Places
from retrain.settings import WorkerSettings
from retrain.training.spec import Spec, recorded
from retrain.worker import Worker, create_worker
from tests.integration import retrain_toy as toy

MODEL = toy.MODEL


@cache
def _template() -> Path:
    """Made once for all tests of a session: registering the champion takes seconds."""
    home = Path(tempfile.mkdtemp(prefix="perene-retrain-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    toy.establish_in_child(home)
    world = toy.World(home)
    world.play(16, shift=5.0)
    world.play(14, shift=15.0)
    return home


def make(home: Path) -> None:
    """A champion, 16 calm days and 14 drifted ones."""
    shutil.copytree(_template(), home, dirs_exist_ok=True)


@contextmanager
def working(home: Path, settings: WorkerSettings | None = None) -> Iterator[Worker]:
    """A worker whose ticks are the test's; aliases have tests of their own."""
    worker = create_worker(settings or toy.settings(), home, registry=CollectorRegistry())
    worker.aliases.revision = worker.ledger.revision()
    worker.aliases._due = math.inf
    try:
        yield worker
    finally:
        worker.close()


def the_run(ledger: Ledger, *status: str) -> Run | None:
    """The newest run with one of these states."""
    return next((r for r in ledger.runs(MODEL) if r.status in status), None)


def ticked(worker: Worker, *, seconds: float = 120.0) -> Run:
    """Tick until the run has an end."""
    ends = ("done", "failed", "abandoned", "cancelled")
    found: Run = toy.until(lambda: the_run(worker.ledger, *ends), worker.tick, seconds)
    return found


def begun(worker: Worker) -> tuple[Run, Path]:
    """A run whose child was stopped before it did anything, and its specification without a parent to die with."""

    def turn() -> None:
        worker.tick()
        worker.runs.stop()  # at once: a child that is given the time gets further

    run: Run = toy.until(lambda: the_run(worker.ledger, "running"), turn)
    spec = next(Places(worker.places.home).run(run.run_id).glob("spec-*.json"))
    spec.write_text(json.dumps(json.loads(spec.read_text()) | {"parent": 0}))
    return run, spec


def child(spec: Path, *, killed_at: str = "") -> subprocess.CompletedProcess[bytes]:
    """A real training child, run to its end or killed at a step."""
    program = ["tests.integration.killed_child", killed_at] if killed_at else ["retrain.training.child"]
    return subprocess.run([sys.executable, "-m", *program, str(spec)], check=False, timeout=120, capture_output=True)


def recorded_spec(spec: Spec) -> dict[str, Any]:
    """A specification as the rows of a run have it."""
    found: dict[str, Any] = msgspec.to_builtins(recorded(spec))
    return found


def versions(home: Path) -> list[int]:
    """What MLflow has registered of the toy, read past it: importing it takes seconds."""
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        rows = database.execute("SELECT version FROM model_versions WHERE name = ? ORDER BY version", (MODEL,))
        return [int(row[0]) for row in rows]
