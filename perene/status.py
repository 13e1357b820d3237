"""`perene status`: what serves, what is on trial, what was found, what is being trained."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from typing import Any

from perene.config import Settings
from perene.told import meaning, of_version, sentence, standing
from registry.bundle import read_bundle
from registry.errors import BundleCorrupt, ModelUnknown
from registry.ledger import Deployment, Ledger
from retrain.settings import WatchSettings
from retrain.watch import label_facts, saved_snapshot

FINDINGS = 500
"""Newest findings that are looked through for alarms that stand."""


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
        if as_of is not None:
            return [_deployment(row) for row in rows]
        now = [_row(settings, ledger, row) for row in rows]
        # of one model only: it takes its bundle
        return [row | {"watch": _watched(settings, ledger, rows[0])} for row in now] if name else now


def history(settings: Settings, name: str) -> list[dict[str, Any]]:
    """Every ledger row of a model, oldest first."""
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        return [_deployment(row) for row in ledger.history(name)]


def _row(settings: Settings, ledger: Ledger, deployment: Deployment) -> dict[str, Any]:
    findings = ledger.evidence(deployment.model, "finding", limit=FINDINGS)
    mine = of_version(findings, deployment.champion)
    alarms = standing(mine)
    told = (alarms or findings)[:1]
    about = _reports(settings, ledger, deployment.model, {row.id for row in alarms}) if alarms else []
    runs = ledger.runs(deployment.model, limit=1)
    trials = ledger.experiments(deployment.model, limit=1)
    reports = ledger.evidence(deployment.model, "report", limit=1)
    return {
        **_deployment(deployment),
        "finding": f"{told[0].body.get('kind')} {told[0].body.get('state')}" if told else None,
        "findings": [row.body for row in alarms],
        "told": [*(sentence(row.body) for row in alarms), *([means] if (means := meaning(mine)) else []), *about],
        "run": f"{runs[0].status} {runs[0].step}" if runs else None,
        "trial": f"{trials[0].state} {trials[0].stage}" if trials else None,
        "report": reports[0].body["key"] if reports else None,
        "labels": label_facts(ledger, deployment.model),
    }


def _watched(settings: Settings, ledger: Ledger, deployment: Deployment) -> dict[str, Any]:
    """States of the champion, why those that are insufficient are, and the slices whose loss rose; {} if not known."""
    model, version = deployment.model, deployment.champion
    try:
        champion = read_bundle(settings.places.bundle(model, version))
    except BundleCorrupt:  # not in this machine's cache
        return {}
    facts = saved_snapshot(ledger, model, champion, settings.models.get(model, WatchSettings()).monitoring)
    if not facts:
        return {}
    shown = {name: facts[name] for name in ("states", "reasons", "predictions", "predictions_foreign")}
    return {**shown, "worst_slices": facts["performance"]["worst_slices"]}


def _reports(settings: Settings, ledger: Ledger, model: str, alarms: set[int]) -> list[str]:
    """Where the worker's reports on these findings lie, on the machine that made them, and Evidently's own verdict."""
    made = [row.body for row in ledger.evidence(model, "report", limit=FINDINGS)]
    return [
        f"report: {settings.places.report(model, body['key'])}{_verdict(body)}"
        for body in made
        if body.get("finding") in alarms
    ]


def _verdict(body: dict[str, Any]) -> str:
    names = body.get("evidently")
    if names is None:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f" (Evidently: {'drift in ' + ', '.join(names[:5]) + more if names else 'no drift'})"


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
