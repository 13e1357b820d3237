"""`perene status`: what serves, what is on trial, what was found, what is being trained."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from typing import Any

from perene.config import Settings
from registry.errors import ModelUnknown
from registry.ledger import Deployment, Ledger
from retrain.watch import label_facts


def overview(settings: Settings, name: str | None = None, as_of: datetime | None = None) -> list[dict[str, Any]]:
    """One row per deployed model: as it is now, or what served at `as_of`, without what is known only of now.

    Raises:
        ModelUnknown: `name` is given and was never deployed (by `as_of`).
    """
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        names = [name] if name else sorted(ledger.deployments())
        found = [(model, ledger.deployment(model, as_of)) for model in names]
        if name and found[0][1] is None:
            raise ModelUnknown(f"model '{name}' has no deployment", hint="perene models lists what is registered")
        rows = [deployment for _, deployment in found if deployment is not None]
        return [_row(ledger, row) if as_of is None else _deployment(row) for row in rows]


def history(settings: Settings, name: str) -> list[dict[str, Any]]:
    """Every ledger row of a model, oldest first."""
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        return [_deployment(row) for row in ledger.history(name)]


def _row(ledger: Ledger, deployment: Deployment) -> dict[str, Any]:
    findings = ledger.evidence(deployment.model, "finding", limit=1)
    runs = ledger.runs(deployment.model, limit=1)
    trials = ledger.experiments(deployment.model, limit=1)
    return {
        **_deployment(deployment),
        "finding": f"{findings[0].body.get('kind')} {findings[0].body.get('state')}" if findings else None,
        "run": f"{runs[0].status} {runs[0].step}" if runs else None,
        "trial": f"{trials[0].state} {trials[0].stage}" if trials else None,
        "labels": label_facts(ledger, deployment.model),
    }


def _deployment(row: Deployment) -> dict[str, Any]:
    return {
        "model": row.model,
        "revision": row.revision,
        "champion": row.champion,
        "candidate": row.candidate,
        "mode": row.mode,
        "weight": row.weight,
        "at": row.at,
        "actor": row.actor,
        "reason": row.reason,
    }
