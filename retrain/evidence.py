"""Evidence must be recomputable: `replay` decides again from the row alone and compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retrain.gates.gates import Gate, certificate_gate, judge_contract, judge_pairs, passed
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
        return (again.action, again.reason, again.facts) == (body["action"], body["reason"], body["facts"])
    if body.get("subject") == "gates":
        found = [_judge(g) for g in body["gates"]]
        return [g.to_dict() for g in found] == list(body["gates"]) and passed(found) == body["passed"]
    return False


def _judge(gate: Mapping[str, Any]) -> Gate:
    inputs = dict(gate["inputs"])
    if gate["gate"] == "certificate":
        return certificate_gate(inputs)
    if gate["gate"] == "contract":
        return judge_contract(inputs)
    return judge_pairs(inputs)
