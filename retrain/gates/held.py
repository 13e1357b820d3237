"""What waits for a person because a gate would not decide by itself: an approval puts it on trial."""

from __future__ import annotations

import logging

from registry.approvals import APPROVAL
from registry.errors import ExperimentInvalid, LedgerConflict, VersionUnknown
from registry.experiment_facts import REQUEST
from registry.experiment_requests import start
from registry.ledger import Ledger

__all__ = ["HELD", "release"]

HELD = "held"
"""Outcome of a run whose version only needs a person's word."""
_log = logging.getLogger("perene.retrain")


def release(ledger: Ledger, model: str) -> int | None:
    """Ask once for a trial of the version that the newest run left for a person, if one approved it since.

    Returns:
        The version whose trial was asked for.
    """
    run = next(iter(ledger.runs(model, limit=1)), None)
    version = run.body.get("version") if run is not None and run.body.get("outcome") == HELD else None
    if run is None or not isinstance(version, int):
        return None
    # a former champion may have been approved, and tried, before this run: that says nothing of what a gate found now
    approved = [row for row in ledger.evidence(model, APPROVAL, limit=200) if row.body.get("version") == version]
    approvers = sorted({str(row.body["actor"]) for row in approved if row.at >= run.started_at})
    asked = [row for row in ledger.evidence(model, REQUEST, limit=200) if row.body.get("candidate") == version]
    if not approvers or any(row.at >= run.started_at for row in asked):
        return None
    try:
        start(ledger, model, version, actor=approvers[0], reason="approved although a gate asked for a person")
    # a trial runs, it serves already, or the ledger never saw it registered; it is looked at again in the next turn
    except (ExperimentInvalid, LedgerConflict, VersionUnknown) as error:
        _log.debug("gates.held: %s", error.message, extra={"model": model})
        return None
    return version
