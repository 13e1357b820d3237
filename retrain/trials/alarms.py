"""Alerts that end a trial: rows of evidence that the receiver of Alertmanager's webhook wrote."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

from registry.ledger import Ledger
from retrain.trials.stats import Alarm

__all__ = ["ALERT", "firing"]

ALERT: Final = "alert"
_RECENT: Final = 200


def firing(ledger: Ledger, model: str, *, since: datetime, names: Collection[str] = ()) -> Alarm | None:
    """The newest alert about the model that began after `since`, asks for a rollback and has not been resolved.

    One that was firing before the trial began says nothing of its candidate.
    """
    told: set[tuple[str, str]] = set()
    for row in ledger.evidence(model, ALERT, limit=_RECENT):  # newest first: of each alert its last word counts
        body = row.body
        key = str(body.get("alert")), str(body.get("fingerprint"))
        if key in told or row.at < since:
            continue
        told.add(key)
        labels = body.get("labels") or {}
        asks = str(labels.get("rollback", "")).lower() == "true" or body.get("alert") in names
        if asks and body.get("status") == "firing" and _began(body, row.at) >= since:
            return Alarm(str(body.get("alert")), row.id)
    return None


def _began(body: dict[str, Any], otherwise: datetime) -> datetime:
    """When the alert began to fire; when it was told, where it does not say so."""
    try:
        found = datetime.fromisoformat(str(body.get("starts_at")))
    except ValueError:
        return otherwise
    return found if found.tzinfo else found.replace(tzinfo=otherwise.tzinfo)
