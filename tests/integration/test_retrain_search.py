"""Searches for hyper-parameters, on real children: pruned, bounded, logged, and gone on with after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retrain.places import Places
from tests.integration import retrain_home as at

TRAINERS = "tests.integration.trainers"


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("searched")
    at.make(home)
    with at.working(home) as worker:
        _, spec = at.begun(worker)
    found: dict[str, Any] = json.loads(spec.read_text())
    return found


def child(begun: dict[str, Any], name: str, *, search: str, **settings: Any) -> tuple[int, Path]:
    """A run with its own folder; a second call of the same name is its next attempt."""
    folder = Places(Path(begun["home"])).run(f"search-{name}")
    folder.mkdir(parents=True, exist_ok=True)
    asked = {"trainer": f"{TRAINERS}:ridge", "search": f"{TRAINERS}:{search}", "search_trials": 12, "folds": 0}
    spec = begun | {"run_id": folder.name, "settings": begun["settings"] | asked | settings}
    (folder / "spec.json").write_text(json.dumps(spec))
    done = at.child(folder / "spec.json")
    (folder / "log.txt").write_bytes(done.stdout + done.stderr)
    return done.returncode, folder


def test_a_search_that_was_killed_goes_on(begun: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    """The trials before the kill count; the best parameters are those of every window, and are logged."""
    monkeypatch.setenv("MARKS", str(tmp_path))
    monkeypatch.setenv("DIE_AT", "10")
    status, folder = child(begun, "killed", search="search")
    assert status == -9
    kept = (folder / "search.journal").read_text()
    assert not (folder / "search.json").exists()
    status, folder = child(begun, "killed", search="search")
    assert status == 0, (folder / "log.txt").read_text()[-3000:]
    assert (folder / "search.journal").read_text().startswith(kept)
    result = json.loads((folder / "result.json").read_text())
    found = result["context"]["search"]
    assert found["trials"] == 12
    assert found["params"]["intercept"] is True
    assert found["pruned"] > 0
    calls = sorted(tmp_path.glob("call-*"), key=lambda c: int(c.name[5:]))
    last = calls[-1].read_text().split()
    assert (float(last[2]), last[3]) == (found["params"]["strength"], "True")
    assert result["outcome"] == "candidate"


@pytest.mark.parametrize(
    ("search", "said"),
    [("bad_search", "none of 3 trials"), ("wrong_search", "none of 3 trials")],
)
def test_a_search_that_fails_is_a_failed_run(
    begun: dict[str, Any], tmp_path: Path, monkeypatch: Any, search: str, said: str
) -> None:
    monkeypatch.setenv("MARKS", str(tmp_path))
    status, folder = child(begun, search, search=search, search_trials=3)
    assert status == 1
    told = json.loads((folder / "failure.json").read_text())
    assert (told["code"], told["step"]) == ("training_failed", "search")
    assert said in told["message"]
    assert "secret" not in told["message"]


def test_a_search_ends_with_its_time(begun: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    """However many trials are asked for."""
    monkeypatch.setenv("MARKS", str(tmp_path))
    status, folder = child(begun, "timed", search="search", search_trials=10_000, search_seconds=1.0)
    assert status == 0, (folder / "log.txt").read_text()[-3000:]
    found = json.loads((folder / "result.json").read_text())["context"]["search"]
    assert 0 < found["trials"] < 10_000
