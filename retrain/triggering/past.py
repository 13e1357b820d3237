"""Runs that ended, as the triggers see them."""

from __future__ import annotations

from datetime import datetime

from registry.ledger import Evidence, Run
from retrain.triggering.triggers import Outcome, PastRun

__all__ = ["past_run", "past_runs"]

_OUTCOMES: dict[str, Outcome] = {
    "candidate": "candidate",
    "held": "candidate",
    "refused": "refused",
    "repeat": "void",
}


def past_run(run: Run) -> PastRun | None:
    """A run as the triggers see it; None while it is on its way."""
    at = run.body.get("spec", {}).get("now")
    if run.status == "running" or at is None:
        return None
    outcome = "void" if run.status == "cancelled" else _OUTCOMES.get(run.body.get("outcome", ""), "error")
    return PastRun(datetime.fromisoformat(at), outcome)


def past_runs(runs: list[Run], closed: list[Evidence]) -> list[PastRun]:
    """Those that ended since the breaker was last closed, newest first."""
    return [p for r in runs if (p := past_run(r)) and not (closed and r.started_at < closed[0].at)]
