"""`engine = "ray"`, on a real Ray of this machine: same records, same resume, and nothing is left behind."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from retrain.places import Places
from tests.integration import retrain_home as at
from tests.integration import retrain_toy as toy

TRAINERS = "tests.integration.trainers"
HEAD = """
import ray, sys
context = ray.init(num_cpus=2, include_dashboard=False, object_store_memory=128 << 20, logging_level=40)
print("at", context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where trainers leave their marks; known to the cluster too."""
    folder = tmp_path_factory.mktemp("marks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKS", str(folder))
        patch.setenv("RAY_AUTH_MODE", "token")  # both sides of a cluster have it, in whatever way they were given it
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        yield folder


@pytest.fixture(scope="module")
def cluster(marks: Path) -> Iterator[str]:
    """One Ray for all tests: it takes seconds to start."""
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.getcwd()}
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert head.stdout is not None
    address = next(line.split()[1] for line in head.stdout if line.startswith("at "))
    yield address
    assert head.stdin is not None
    head.stdin.close()
    head.wait(60)
    head.stdout.close()


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("ray")
    at.make(home)
    with at.working(home, toy.settings(windows=["20d", "10d"])) as worker:
        _, spec = at.begun(worker)
    found: dict[str, Any] = json.loads(spec.read_text())
    return found


def written(begun: dict[str, Any], name: str, trainer: str, address: str) -> Path:
    """The specification of a run in its own folder."""
    folder = Places(Path(begun["home"])).run(f"ray-{name}")
    folder.mkdir(parents=True, exist_ok=True)
    asked = {"trainer": f"{TRAINERS}:{trainer}", "engine": "ray", "ray_address": address, "folds": 0}
    spec = begun | {"run_id": folder.name, "settings": begun["settings"] | asked}
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder / "spec.json"


@pytest.mark.timeout(600)
def test_windows_are_tasks_and_a_killed_run_goes_on(begun: dict[str, Any], cluster: str, marks: Path) -> None:
    """One window is finished, the other at work, when the child is killed: only the other one is trained again."""
    spec = written(begun, "killed", "slow", cluster)
    (marks / "hold").touch()

    def one_done_one_at_work() -> bool:
        begun = {path.name.split("-")[1] for path in marks.glob("ran-*")}
        return len(begun) == 2 and any((spec.parent / "fitted").glob("*.sha256"))

    first = subprocess.Popen([sys.executable, "-m", "retrain.training.child", str(spec)])
    try:
        toy.until(lambda: one_done_one_at_work() or first.poll() is not None, seconds=120)
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    (marks / "hold").unlink()
    before = {path.name.split("-")[1] for path in marks.glob("ran-*")}
    assert len(before) == 2
    for path in marks.glob("ran-*"):
        path.unlink()
    done = at.child(spec)
    assert done.returncode == 0, done.stderr[-3000:]
    ran = [path.name.split("-") for path in marks.glob("ran-*")]
    assert len(ran) == 1  # the window that was not finished
    steps = [json.loads(line) for line in done.stdout.decode().splitlines() if line.startswith('{"event"')]
    trained = {s["window"]: s.get("resumed", False) for s in steps if s["step"] == "train"}
    assert sorted(trained.values()) == [False, True]
    result = json.loads((spec.parent / "result.json").read_text())
    assert (result["outcome"], len(result["context"]["contenders"])) == ("candidate", 2)


@pytest.mark.timeout(180)
def test_a_trainer_that_fails_there_fails_the_run_here(begun: dict[str, Any], cluster: str) -> None:
    """With the class of its error, and without its text."""
    spec = written(begun, "refused", "refuses", cluster)
    assert at.child(spec).returncode == 1
    told = json.loads((spec.parent / "failure.json").read_text())
    assert (told["code"], told["step"]) == ("training_failed", "train")
    assert "the trainer raised ValueError" in told["message"]
    assert "secret" not in told["message"]


@pytest.mark.timeout(300)
def test_a_ray_of_its_own_ends_with_the_run(begun: dict[str, Any], marks: Path) -> None:
    """Killed with -9 in the middle: no process of its cluster is left."""
    spec = written(begun, "own", "slow", "local")
    (marks / "hold").touch()
    child = subprocess.Popen([sys.executable, "-m", "retrain.training.child", str(spec)], start_new_session=True)
    try:
        toy.until(lambda: (spec.parent / "fitted").exists() or child.poll() is not None, seconds=120)
        family = psutil.Process(child.pid).children(recursive=True)
        assert any("raylet" in lives(process) for process in family)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        (marks / "hold").unlink(missing_ok=True)
    left = [name for process in family if (name := lives(process))]
    end = time.monotonic() + 90
    while time.monotonic() < end and left:
        time.sleep(0.2)
        left = [name for process in family if (name := lives(process))]
    assert left == []


def lives(process: psutil.Process) -> str:
    """Its name; nothing once it has ended, be it between two looks."""
    try:
        return str(process.name()) if process.is_running() and process.status() != psutil.STATUS_ZOMBIE else ""
    except psutil.NoSuchProcess:
        return ""
