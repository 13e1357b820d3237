"""What the trigger's decision looks at, gathered from ledger and monitor."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from registry.ledger import Deployment, Ledger, Run
from retrain.settings import RetrainSettings
from retrain.triggering.scheduler import next_fire
from retrain.triggering.triggers import Facts, Outcome, PastRun
from retrain.watch import Watch

__all__ = ["drift_since", "facts", "former_champions"]

MANUAL = ("manual", "freshness")


def facts(
    ledger: Ledger, watch: Watch, settings: RetrainSettings, now: datetime, *, busy: bool, ended_at: datetime | None
) -> Facts:
    """Everything `triggers.decide` needs; `busy` means that this worker's one child is at work."""
    model = watch.model
    runs = ledger.runs(model, limit=20)
    states = watch.snapshot().get("states", {})
    request = _request(ledger, model, runs)
    closed = ledger.evidence(model, "breaker_closed", limit=1)
    past = [p for r in runs if (p := _past(r)) and not (closed and r.started_at < closed[0].at)]
    return Facts(
        now=now,
        running=busy or any(r.status == "running" for r in runs),
        in_trial=any(e.state == "running" for e in ledger.experiments(model, limit=5)),
        data_quality=states.get("data_quality", "insufficient"),
        performance=states.get("performance", "insufficient"),
        schedule_due=_due(settings, watch, past),
        requested_at=request[0] if request else None,
        request_reason=request[1] if request else "manual",
        labels=watch.labels,
        past=past,
        decided_at=ended_at,
    )


def _past(run: Run) -> PastRun | None:
    at = run.body.get("spec", {}).get("now")
    if run.status == "running" or at is None:
        return None
    outcomes: dict[str, Outcome] = {"candidate": "candidate", "refused": "refused"}
    return PastRun(datetime.fromisoformat(at), outcomes.get(run.body.get("outcome", ""), "error"))


def _request(ledger: Ledger, model: str, runs: list[Run]) -> tuple[datetime, str] | None:
    found = ledger.evidence(model, "run_request", limit=1)
    if not found or (runs and runs[0].started_at >= found[0].at):
        return None
    reason = found[0].body.get("reason", "manual")
    return found[0].at, reason if reason in MANUAL else "manual"


def _due(settings: RetrainSettings, watch: Watch, past: list[PastRun]) -> datetime | None:
    """The first time of the schedule after the last run; a time that the brakes held stays due."""
    since = past[0].at if past else watch.started()
    if settings.schedule is None or since is None:
        return None
    return next_fire(settings.schedule, since)


def drift_since(ledger: Ledger, model: str, champion: int) -> datetime | None:
    """When the confirmed loss of performance of this champion began, by the detector's own estimate."""
    for row in ledger.evidence(model, "finding", limit=100):
        body: dict[str, Any] = row.body
        if body["kind"] == "performance" and body["state"] == "confirmed":
            if body["detail"].get("version") != champion:
                return None
            return datetime.fromisoformat(body["detail"].get("since") or body["at"])
    return None


def rollbacks(history: list[Deployment], *, after: int) -> list[Deployment]:
    """The rows beyond revision `after` that put a version back which was champion before the one they replace."""
    found: list[Deployment] = []
    champions: list[int] = []
    for row in history:
        if champions and row.champion != champions[-1]:
            if row.champion in champions and row.revision > after:
                found.append(row)
            champions.append(row.champion)
        elif not champions:
            champions.append(row.champion)
    return found


def former_champions(history: list[Deployment], champion: int, most: int = 3) -> list[int]:
    """The latest other champions, newest first."""
    found: list[int] = []
    for row in reversed(history):
        if row.champion != champion and row.champion not in found:
            found.append(row.champion)
    return found[:most]
