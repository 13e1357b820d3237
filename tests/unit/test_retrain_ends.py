"""How a run's child ended, and what follows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from registry.ledger import Run
from retrain.training.ends import end_of, failure_of, pause
from retrain.training.kept import keep, kept, kept_file
from retrain.training.spec import LEASE_LOST, STORE_AWAY, Failure

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def run(**body: str) -> Run:
    return Run("r", "m", "running", "register", body, NOW, NOW)


def test_crashes_are_tried_again_and_failures_are_not() -> None:
    """Killed with its worker: three times. A new leader, a store that is away: no attempt is used up, for a day."""
    assert [end_of(run(), None, attempt=n, now=NOW) for n in (1, 2, 3)] == ["again", "again", "abandoned"]
    assert end_of(run(), LEASE_LOST, attempt=3, now=NOW) == "again"
    assert end_of(run(), STORE_AWAY, attempt=3, now=NOW) == "wait"
    long_ago = (NOW - timedelta(days=2)).isoformat()
    assert end_of(run(waiting_since=long_ago), STORE_AWAY, attempt=1, now=NOW) == "failed"
    assert [end_of(run(), status, attempt=1, now=NOW) for status in (1, 124, -9)] == ["failed"] * 3


def test_pauses_double_up_to_a_quarter_of_an_hour() -> None:
    assert [pause(n).total_seconds() for n in (0, 1, 2, 20)] == [5, 10, 20, 900]


def test_a_failure_is_told_by_the_child_or_guessed_from_its_status(tmp_path: Path) -> None:
    said = {n: failure_of(tmp_path, n, step="train", attempt=3) for n in (124, -9, 3, None)}
    assert [told["code"] for told in said.values()] == ["timeout", "killed", "broke", "abandoned"]
    assert "signal 9" in said[-9]["error"]
    (tmp_path / "failure.json").write_bytes(msgspec.json.encode(Failure("training_failed", "no rows", "snapshot")))
    told = failure_of(tmp_path, 1, step="train", attempt=1)
    assert told == {"error": "no rows", "code": "training_failed", "step": "snapshot"}


def test_what_is_kept_is_whole_or_not_there(tmp_path: Path) -> None:
    """Without its digest, or with another content, a file is none."""
    path = tmp_path / "deep" / "file"
    keep(path, b"all of it")
    assert kept(path) == b"all of it"
    digest = kept_file(path)
    path.write_bytes(b"all of it?")
    assert kept(path) is None
    assert not path.exists()  # a damaged file is not looked at again
    path.write_bytes(b"all of it")
    assert kept(path) is None
    keep(path, b"all of it")
    assert kept_file(path) == digest
