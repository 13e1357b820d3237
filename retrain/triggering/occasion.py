"""What the trigger's decision looks at, gathered from ledger and monitor."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from registry.ledger import Deployment, Ledger, Run
from retrain.settings import RetrainSettings
from retrain.training.windows import ready_at
from retrain.triggering.past import past_run, past_runs
from retrain.triggering.scheduler import next_fire
from retrain.triggering.triggers import Facts, PastRun
from retrain.watch import Watch

__all__ = [
    "alerted",
    "cooldown",
    "drift_since",
    "facts",
    "former_champions",
    "learnable_from",
    "rollbacks",
    "sample_time",
]

MANUAL = ("manual", "freshness")


def facts(
    ledger: Ledger,
    watch: Watch,
    settings: RetrainSettings,
    now: datetime,
    *,
    full: bool,
    ended_at: datetime | None,
    fitted_on: int = 0,
) -> Facts:
    """Everything `triggers.decide` needs.

    Args:
        full: this worker has as many runs under way as it may.
        ended_at: when the model's last trial ended.
        fitted_on: rows that the champion learned from.
    """
    model = watch.model
    runs = ledger.runs(model, limit=20)
    states = watch.snapshot().get("states", {})
    request = _request(ledger, model, runs)
    closed = ledger.evidence(model, "breaker_closed", limit=1)
    past = past_runs(runs, closed)
    known = next((r.body["spec"].get("labels", 0) for r in runs if "spec" in r.body and past_run(r)), None)
    harmed = states.get("performance") == "confirmed" and watch.monitor is not None
    changed_at = drift_since(ledger, model, watch.monitor.version) if harmed and watch.monitor else None
    return Facts(
        now=now,
        running=any(r.status == "running" for r in runs),
        in_trial=any(e.stage != "done" for e in ledger.experiments(model, limit=5)),
        data_quality=states.get("data_quality", "insufficient"),
        performance=states.get("performance", "insufficient"),
        schedule_due=_due(settings, watch, past),
        requested_at=request[0] if request else None,
        request_reason=request[1] if request else "manual",
        labels=watch.labels,
        past=past,
        decided_at=ended_at,
        full=full,
        estimated=states.get("estimated", "insufficient"),
        alert=alerted(ledger, model, runs),
        learned=fitted_on if known is None else known,
        fresh=max(watch.labels - (known or 0), 0),
        ready_at=learnable_from(settings, changed_at, sample_time(settings, watch.labels, watch.started(), now)),
        patience=settings.holdout + settings.maturity,
    )


def cooldown(settings: RetrainSettings, watch: Watch, now: datetime) -> timedelta:
    """The pause between two runs: never less than labels take to come, or than a gate's sample takes to gather."""
    return max(settings.cooldown, settings.maturity, sample_time(settings, watch.labels, watch.started(), now))


def sample_time(settings: RetrainSettings, labels: int, started: datetime | None, now: datetime) -> timedelta:
    """How long the least sample of a gate takes to gather, at the pace of the labels since `started`."""
    span = now - started if started is not None else timedelta()
    return span * (settings.min_labels / labels) if labels and span > timedelta() else timedelta()


def learnable_from(settings: RetrainSettings, changed_at: datetime | None, sample: timedelta) -> datetime | None:
    """When there is enough to learn of a change, and to judge by; None without one, or when no window begins at it.

    A run before that moment learns the world that has gone, is refused, and makes the next one wait.
    """
    if changed_at is None or "since-drift" not in settings.windows:
        return None
    return ready_at(changed_at, settings.holdout, settings.maturity, sample=sample)


def alerted(ledger: Ledger, model: str, runs: list[Run]) -> str:
    """The name of an alert about the model that asks for a run and came after the newest run began; else nothing."""
    since = runs[0].started_at if runs else None
    settled: set[str] = set()
    for row in ledger.evidence(model, "alert", limit=50):
        if since is not None and row.at <= since:
            break
        body = row.body
        asks = str(body.get("labels", {}).get("retrain")).lower() == "true"  # as trials read `rollback`
        if not asks or body.get("fingerprint") in settled:
            continue
        if body.get("status") == "firing":
            return str(body.get("alert", ""))[:100] or "(unnamed)"
        settled.add(str(body.get("fingerprint")))
    return ""


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
    return next_fire(settings.schedule, since, settings.timezone)


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
