"""Evidence must be recomputable: `replay` decides again from the row alone and compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retrain.gates.gates import Gate, passed
from retrain.gates.rules import judged_again
from retrain.trials.experiments import replay_trial

__all__ = ["gate_evidence", "replay"]


def gate_evidence(run_id: str, gates: Sequence[Gate], context: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a gate set's row."""
    return {
        "subject": "gates",
        "run_id": run_id,
        "gates": [g.to_dict() for g in gates],
        "passed": passed(gates),
        "context": dict(context),
    }


def replay(body: Mapping[str, Any]) -> bool:
    """Whether the recorded decision follows exactly from the recorded inputs."""
    if body.get("subject") == "trial":
        again = replay_trial(body)
        recorded = (body["action"], body["reason"], body["cause"], body["facts"])
        return (again.action, again.reason, again.cause, again.facts) == recorded
    if body.get("subject") == "gates":
        found = [judged_again(g) for g in body["gates"]]
        return [g.to_dict() for g in found] == list(body["gates"]) and passed(found) == body["passed"]
    return False
