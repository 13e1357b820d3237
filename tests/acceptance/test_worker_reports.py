"""A real worker, drifted traffic: the finding is reported on, the worker stays small, and kill -9 repeats nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from registry.ledger import Ledger
from retrain.places import Places
from tests.integration import retrain_toy as toy

LARGEST_MB = 500


@contextmanager
def worker(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m retrain` on a home; ended at the latest with the test."""
    table = {"monitoring": {"window_max_age_s": 86_400.0, "performance_report": "off"}}
    settings = home / "worker.json"
    settings.write_text(json.dumps({"models": {toy.MODEL: table}, "port": 0, "lease_ttl_s": 2.0, "tick_s": 0.2}))
    command = [sys.executable, "-m", "retrain", "--home", str(home), "--settings", str(settings)]
    with (home / "worker.log").open("ab") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log, env={**os.environ, "DO_NOT_TRACK": "true"})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def evidence(home: Path, kind: str) -> list[dict[str, Any]]:
    """Rows of the ledger, newest first."""
    with closing(Ledger.open(Places(home).ledger_url)) as ledger:
        return [row.body for row in ledger.evidence(toy.MODEL, kind)]


def resident_mb(process: subprocess.Popen[bytes]) -> float:
    """Memory of the process itself, children apart."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def test_a_finding_is_reported_on_by_a_child_and_the_worker_stays_small(tmp_path: Path) -> None:
    """Killed with -9 while the report is at work, and begun again: one report, with both verdicts."""
    toy.establish_in_child(tmp_path)
    world = toy.World(tmp_path)
    world.play(5, shift=5.0)
    world.play(8, shift=15.0)
    reports = tmp_path / "reports" / toy.MODEL
    with worker(tmp_path) as process:
        toy.until(lambda: list(reports.glob(".finding-*.draft")))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert evidence(tmp_path, "report") == []
    with worker(tmp_path) as process:
        assert toy.until(lambda: evidence(tmp_path, "report"))
        assert resident_mb(process) <= LARGEST_MB
    (row,) = evidence(tmp_path, "report")
    assert row["ours"]["kind"] == "performance"
    assert row["ours"]["state"] == "confirmed"
    assert row["columns"] == 2
    assert [path.name for path in reports.iterdir()] == [row["key"]]
    assert (reports / row["key"] / "report.html").stat().st_size > 1_000_000
