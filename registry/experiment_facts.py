"""What the ledger says of trials, as plain facts: for commands, the API and whoever shows them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from registry.errors import ExperimentUnknown
from registry.ledger import Evidence, Experiment, Ledger

__all__ = [
    "LOOKS",
    "REQUEST",
    "asked",
    "decisions",
    "did_you_mean",
    "ended",
    "facts",
    "find",
    "latest",
    "listed",
    "looks",
    "requested",
    "stage_of",
]

REQUEST: Final = "experiment_request"
LOOKS: Final = "looks:"
"""Before the id: under which name the worker keeps how a trial stood at each look."""
_RECENT: Final = 1_000


def ended(trial: Experiment) -> bool:
    """Whether nothing of it is left to do; a promotion that is still watched has not ended."""
    return trial.stage == "done"


def latest(ledger: Ledger, model: str) -> Experiment | None:
    """The trial that began last, if there was one."""
    return next(iter(ledger.experiments(model, limit=1)), None)


def requested(ledger: Ledger, model: str | None = None) -> list[Evidence]:
    """Starts that the worker has not taken up, newest first."""
    rows = [row for row in ledger.evidence(model, REQUEST, limit=_RECENT) if row.body.get("action") == "start"]
    if not rows:
        return []
    begun = {trial.experiment_id for trial in ledger.experiments(model, limit=_RECENT)}
    return [row for row in rows if row.body.get("experiment_id") not in begun]


def listed(ledger: Ledger, model: str | None = None, *, limit: int = 100) -> list[Experiment]:
    """Trials, those that are only asked for too, newest first."""
    waiting = [_waiting(row) for row in requested(ledger, model)]
    return [*waiting, *ledger.experiments(model, limit=limit)][:limit]


def find(ledger: Ledger, model: str | None, experiment_id: str) -> Experiment:
    """A trial by its id.

    Raises:
        ExperimentUnknown: there is none of this id; what is near is named.
    """
    found = listed(ledger, model, limit=_RECENT)
    for trial in found:
        if trial.experiment_id == experiment_id:
            return trial
    raise ExperimentUnknown(
        "there is no trial of this id",
        where="id",
        hint=did_you_mean(experiment_id, (trial.experiment_id for trial in found))
        or ("perene experiment list names them" if found else "no trial was ever begun"),
    )


def facts(trial: Experiment) -> dict[str, Any]:
    """A trial as JSON has it: who against whom, how it stands, and why it ended if it has."""
    about = trial.body.get("trial") or trial.body
    return {
        "experiment_id": trial.experiment_id,
        "model": trial.model,
        "state": trial.state,
        "stage": trial.stage,
        "champion": about.get("champion"),
        "candidate": about.get("candidate"),
        "reason": about.get("reason"),
        "started_at": trial.started_at.isoformat(),
        "at": trial.at.isoformat(),
        "why": trial.body.get("why"),
        "facts": trial.body.get("facts"),
    }


def asked(ledger: Ledger, trial: Experiment) -> dict[str, Any] | None:
    """Who asked for it and why; None of one that retraining began."""
    for row in ledger.evidence(trial.model, REQUEST, limit=_RECENT):
        if row.body.get("experiment_id") == trial.experiment_id:
            return {"actor": row.body.get("actor"), "reason": row.body.get("reason"), "at": row.at.isoformat()}
    return None


def decisions(ledger: Ledger, trial: Experiment) -> list[dict[str, Any]]:
    """What was decided about it, oldest first: action, reason, numbers, and the row of evidence that says it."""
    rows = ledger.evidence(trial.model, "decision", limit=_RECENT)
    return [
        {
            "evidence": row.id,
            "at": row.at.isoformat(),
            "now": row.body.get("now"),
            "stage": stage_of(row.body.get("trial") or {}),
            **{name: row.body.get(name) for name in ("action", "reason", "facts")},
        }
        for row in reversed(rows)
        if (row.body.get("trial") or {}).get("experiment_id") == trial.experiment_id
    ]


def stage_of(trial: Mapping[str, Any]) -> str:
    """The name of a trial's stage, of what a row holds of it.

    >>> stage_of({"step": 1, "policy": {"stages": ["shadow", "ab:0.5"]}})
    'ab:0.5'
    """
    stages, step = (trial.get("policy") or {}).get("stages") or (), trial.get("step", 0)
    return str(stages[step]) if step < len(stages) else "watch"


def looks(ledger: Ledger, experiment_id: str) -> list[dict[str, Any]]:
    """How the tests stood at each look that the worker kept, oldest first."""
    body = ledger.load_state(LOOKS + experiment_id)
    found: list[dict[str, Any]] = json.loads(body) if body else []
    return found


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """A hint at the name that is nearest, if one is near."""
    near = difflib.get_close_matches(text[:100], list(known), n=1)
    return f"did you mean '{near[0]}'?" if near else ""


def _waiting(row: Evidence) -> Experiment:
    body = row.body
    return Experiment(str(body["experiment_id"]), row.model, "requested", "waiting", body, row.at, row.at)
