"""How a run's child ended, and what follows from that. Pure: the rows are written by `runs`."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from registry.ledger import Run
from retrain.training.spec import HANDED_OVER, LEASE_LOST, STORE_AWAY, Failure

__all__ = ["MAX_ATTEMPTS", "UNREADABLE", "End", "end_of", "failure_of", "pause"]

MAX_ATTEMPTS: Final = 3
"""Times that a run is begun again after a crash that nobody explained."""
UNREADABLE: Final = -1_000
"""In place of an exit status: it left a result that cannot be read."""
PATIENCE: Final = timedelta(days=1)
"""So long a run waits for a store that is away before it has failed."""
FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 900.0

End = Literal["again", "wait", "handed", "failed", "abandoned"]


def end_of(run: Run, status: int | None, *, attempt: int, now: datetime) -> End:
    """What to do about a child that left no result; `status` is None when it died with its worker.

    A replaced leader and a store that is away are not the run's fault, and cost it no attempt.
    """
    if status == LEASE_LOST:
        return "again"
    if status == HANDED_OVER:
        return "handed"
    if status == STORE_AWAY:
        since = run.body.get("waiting_since")
        return "wait" if since is None or now - datetime.fromisoformat(since) < PATIENCE else "failed"
    if status is None:
        return "again" if attempt < MAX_ATTEMPTS else "abandoned"
    return "failed"


def pause(waits: int) -> timedelta:
    """How long to leave a store alone that was away `waits` times: 5 s, doubled up to 15 minutes."""
    return timedelta(seconds=min(FIRST_PAUSE_S * 2**waits, LONGEST_PAUSE_S))


def failure_of(folder: Path, status: int | None, *, step: str, attempt: int) -> dict[str, Any]:
    """Code, words and step of a failure: the child's own, else what its exit status tells."""
    try:
        told = msgspec.json.decode((folder / "failure.json").read_bytes(), type=Failure)
    except (OSError, msgspec.DecodeError):
        told = Failure(*_guessed(status, attempt, step), step)
    return {"error": told.message, "code": told.code, "step": told.step}


def _guessed(status: int | None, attempt: int, step: str) -> tuple[str, str]:
    if step == "handed_over":
        return "timeout", "the external engine did not answer in time (webhook_timeout)"
    if status is None:
        return "abandoned", f"given up after {attempt} attempts: each was killed with its worker"
    if status == UNREADABLE:
        return "broke", "its result cannot be read: the disk, or somebody, changed it (result.damaged)"
    if status == 124:
        return "timeout", "it ran out of time (training_timeout_s)"
    if status < 0:
        return "killed", f"it was killed by signal {-status}; the kernel does so when memory runs out"
    return "broke", f"it ended with exit status {status} and said nothing"
