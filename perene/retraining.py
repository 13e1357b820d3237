"""Retraining from outside the worker: ask for a run, look at it, end it. The ledger is the only way in."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from monitoring.lake.lake import Lake
from perene.api import actor
from perene.config import Settings
from registry.errors import ConfigInvalid, LedgerConflict, ModelUnknown
from registry.ledger import Ledger, Run
from retrain.settings import RetrainSettings, WatchSettings
from retrain.training.progress import ENDS, durations, left, usual
from retrain.training.runs import CANCEL
from retrain.training.windows import plan
from retrain.triggering import occasion, standing
from retrain.watch import Watch

__all__ = ["Seen", "ask", "cancel", "dry_run", "follow", "log_of", "status"]

LOG_BYTES: Final = 1 << 20
"""Of a run's log that is shown at most."""
PATIENCE_S: Final = 30.0
"""After so long without a run, whoever waits is told why that may be."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a run that is waited for; `run` is None while no worker has begun it.

    `steps` are all that it has begun: between two looks there may be several.
    """

    run: Run | None
    steps: tuple[str, ...]
    left_s: float | None
    held: str


@contextmanager
def _ledger(settings: Settings) -> Iterator[Ledger]:
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        yield ledger


def _retrained(settings: Settings, ledger: Ledger, model: str) -> RetrainSettings:
    if ledger.deployment(model) is None:
        raise ModelUnknown(f"model '{model}' has no deployment", hint="perene models lists what is registered")
    found = settings.models.get(model, WatchSettings()).retrain
    if found is None:
        raise ConfigInvalid(
            f"model '{model}' is not retrained",
            where=f"models.{model}.retrain",
            hint="name its trainer and target in this table of perene.toml",
        )
    return found


def ask(settings: Settings, model: str, *, reason: str = "") -> tuple[int, datetime]:
    """Ask for a run; returns the request's row and when it was written.

    Raises:
        ModelUnknown: it is not deployed.
        ConfigInvalid: it has no table of retraining.
        LedgerConflict: a run of it is on its way.
    """
    with _ledger(settings) as ledger:
        _retrained(settings, ledger, model)
        going = next((r for r in ledger.runs(model, limit=20) if r.status == "running"), None)
        if going is not None:
            raise LedgerConflict(
                f"run {going.run_id} of '{model}' is on its way", hint=f"perene retrain cancel {going.run_id} ends it"
            )
        before = datetime.now(UTC)
        body = {"reason": "manual", "actor": actor(), "why": reason}
        return ledger.record_evidence(model, "run_request", body), before


def dry_run(settings: Settings, model: str) -> dict[str, Any]:
    """What a run of now would learn from, be judged on and take; nothing is begun.

    Raises:
        ModelUnknown: it is not deployed.
        ConfigInvalid: it has no table of retraining.
    """
    with _ledger(settings) as ledger:
        table = _retrained(settings, ledger, model)
        watch = Watch(model, ledger, Lake(settings.places.lake), settings.models[model].monitoring)
        labels = watch.labels
        now = (watch.now() if table.clock == "event" else None) or datetime.now(UTC)
        deployment = ledger.deployments()[model]
        drift = occasion.drift_since(ledger, model, deployment.champion)
        laid = plan(table.windows, now, holdout=table.holdout, maturity=table.maturity, drift_at=drift)
        stood = standing.read(ledger, model)
        times = usual([ledger.run_steps(r.run_id) for r in ledger.runs(model, limit=5)])
        return {
            "model": model,
            "champion": deployment.champion,
            "trainer": table.trainer,
            "windows": [_span(w.name, w.window.start, w.window.end) for w in laid.train],
            "holdout": _span("holdout", laid.holdout.start, laid.holdout.end),
            "former": occasion.former_champions(ledger.history(model), deployment.champion),
            "labels": labels,
            "needed": table.min_labels,
            "held": stood.why if stood is not None and stood.brake in ("run", "trial", "full", "quality") else None,
            "takes_s": round(sum(times.values()), 1) if times else None,
        }


def _span(name: str, start: datetime, end: datetime) -> dict[str, str]:
    return {"name": name, "from": start.isoformat(), "to": end.isoformat()}


def follow(settings: Settings, model: str, since: datetime, *, every_s: float = 0.5) -> Iterator[Seen]:
    """Looks at the run that began after `since`, until it has an end."""
    with _ledger(settings) as ledger:
        known = usual([ledger.run_steps(r.run_id) for r in ledger.runs(model, limit=6)])
        while True:
            run = next((r for r in ledger.runs(model, limit=5) if r.started_at >= since), None)
            rows = ledger.run_steps(run.run_id) if run is not None else []
            stood = standing.read(ledger, model)
            held = stood.why if run is None and stood is not None and stood.brake else ""
            yield Seen(run, tuple(row.step for row in rows), left(rows, known, datetime.now(UTC)), held)
            if run is not None and run.status in ENDS:
                return
            time.sleep(every_s)


def status(settings: Settings, model: str | None = None) -> list[dict[str, Any]]:
    """One row for each model with a table of retraining: its newest run, what holds the next, and until when.

    Raises:
        ModelUnknown: `model` is given and is not deployed.
        ConfigInvalid: `model` is given and has no table.
    """
    with _ledger(settings) as ledger:
        if model is not None:
            _retrained(settings, ledger, model)
        deployed = ledger.deployments()
        names = [model] if model else sorted(n for n, t in settings.models.items() if t.retrain and n in deployed)
        return [_row(ledger, name) for name in names]


def _row(ledger: Ledger, model: str) -> dict[str, Any]:
    stood = standing.read(ledger, model)
    row: dict[str, Any] = {
        "model": model,
        "held": stood.why if stood else None,
        "brake": stood.brake if stood else None,
    }
    row["next_at"] = stood.next_at if stood else None
    runs = ledger.runs(model, limit=6)
    if not runs:
        return row | dict.fromkeys(("run", "status", "step", "reason", "began", "left_s", "told"))
    newest, rows = runs[0], ledger.run_steps(runs[0].run_id)
    body = newest.body
    told = body.get("error") or body.get("why") or (body.get("context") or {}).get("why") or body.get("outcome")
    seconds = left(rows, usual([ledger.run_steps(r.run_id) for r in runs[1:]]), datetime.now(UTC))
    return row | {
        "run": newest.run_id,
        "status": newest.status,
        "step": newest.step,
        "reason": body.get("spec", {}).get("reason"),
        "began": newest.started_at,
        "left_s": None if seconds is None else round(seconds, 1),
        "told": told,
        "version": body.get("version"),
        "next_attempt": body.get("next_attempt") or body.get("retry_at"),
    }


def log_of(settings: Settings, run: str) -> dict[str, Any]:
    """A run's steps with their seconds and facts, and its log where that is on this machine.

    Raises:
        ModelUnknown: the ledger knows no such run.
    """
    with _ledger(settings) as ledger:
        rows = _rows(ledger, run)
        path = settings.places.run(run) / "log.txt"
        steps = [
            {"step": r.step, "status": r.status, "at": r.at, "attempt": r.body.get("spec", {}).get("attempt")}
            | {"facts": r.body.get("facts", {})}
            for r in rows
        ]
        text = _end_of(path) if path.is_file() else None
        return {"run": run, "model": rows[0].model, "steps": steps, "seconds": durations(rows), "log": text}


def _end_of(path: Path) -> str:
    """A training may print as much as it likes: the end tells how it ended."""
    with path.open("rb") as file:
        cut = max(file.seek(0, os.SEEK_END) - LOG_BYTES, 0)
        file.seek(cut)
        text = file.read().decode(errors="replace")
    return f"… {cut} bytes before …\n{text}" if cut else text


def cancel(settings: Settings, run: str, *, reason: str = "", wait: Callable[[float], None] | None = None) -> Run:
    """Ask for a run's end and wait a while for it; returns how it stands then.

    Raises:
        ModelUnknown: the ledger knows no such run.
        LedgerConflict: it has an end already.
    """
    with _ledger(settings) as ledger:
        newest = _rows(ledger, run)[-1]
        if newest.status in ENDS:
            raise LedgerConflict(f"run {run} has ended already: {newest.status}", hint="perene retrain status")
        body = {"run_id": run, "actor": actor(), "reason": reason}
        ledger.record_evidence(newest.model, CANCEL, body)
        for _ in range(20 if wait else 0):
            newest = ledger.run_steps(run)[-1]
            if newest.status in ENDS:
                break
            (wait or time.sleep)(0.25)
        return newest


def _rows(ledger: Ledger, run: str) -> list[Run]:
    rows = ledger.run_steps(run)
    if not rows:
        raise ModelUnknown("there is no such run", where="RUN", hint="perene retrain status names the newest ones")
    return rows
