"""What waits for a person because a gate would not decide by itself: an approval puts it on trial."""

from __future__ import annotations

import logging

from registry.approvals import standing
from registry.errors import ExperimentInvalid, LedgerConflict
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
    if not isinstance(version, int):
        return None
    approvers = sorted(standing(ledger, model, version).approvers)
    asked = [row for row in ledger.evidence(model, REQUEST, limit=200) if row.body.get("candidate") == version]
    if not approvers or asked:
        return None
    try:
        start(ledger, model, version, actor=approvers[0], reason="approved although a gate asked for a person")
    except (ExperimentInvalid, LedgerConflict) as error:  # a trial runs, or it serves already
        _log.info("gates.held: %s", error.message, extra={"model": model})
        return None
    return version
