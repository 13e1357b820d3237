"""What happened, as lines: everything new in the ledger since the last look."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from perene.told import meaning, of_version, sentence
from registry.ledger import Deployment, Evidence, Ledger, Run

_FINE = ("pass", "not applicable")


@dataclass(frozen=True, slots=True)
class Line:
    """One happening: what kind of thing, and a sentence."""

    kind: str
    model: str
    text: str


@dataclass
class Story:
    """Reads the ledger and remembers what it told already."""

    ledger: Ledger
    _revisions: dict[str, int] = field(default_factory=dict)
    _evidence: int = 0
    _runs: dict[str, str] = field(default_factory=dict)
    _alarms: dict[tuple[str, str], bool] = field(default_factory=dict)

    def news(self) -> list[Line]:
        """The lines since the last call, oldest first."""
        return [*self._findings(), *self._new_runs(), *self._moves()]

    def _findings(self) -> Iterator[Line]:
        new = [e for e in reversed(self.ledger.evidence(limit=50)) if e.id > self._evidence]
        for row in new:
            self._evidence = row.id
            if row.kind in ("gates", "decision") or (row.kind == "finding" and self._worth_telling(row)):
                yield Line(row.kind, row.model, describe(row))
                if row.kind == "finding" and (means := self._meaning(row)):
                    yield Line(row.kind, row.model, f"  {means}")

    def _worth_telling(self, row: Evidence) -> bool:
        """Alarms, and their ends; what is merely watched stays in the ledger."""
        alarm = row.body["state"] in ("confirmed", "broken")
        before = self._alarms.get((row.model, row.body["kind"]), False)
        if row.body["state"] != "watch":
            self._alarms[row.model, row.body["kind"]] = alarm
        return alarm or (before and row.body["state"] == "ok")

    def _meaning(self, row: Evidence) -> str:
        """What it means with all that was found of the same version until then."""
        known = [each for each in self.ledger.evidence(row.model, "finding", limit=500) if each.id <= row.id]
        return meaning(of_version(known, (row.body.get("detail") or {}).get("version")))

    def _new_runs(self) -> Iterator[Line]:
        for run in reversed(self.ledger.runs(limit=20)):
            seen = f"{run.status} {run.step}"
            if self._runs.get(run.run_id) != seen:
                self._runs[run.run_id] = seen
                yield Line("run", run.model, _run(run))

    def _moves(self) -> Iterator[Line]:
        for model in self.ledger.deployments():
            for row in self.ledger.history(model):
                if row.revision > self._revisions.get(model, 0):
                    self._revisions[model] = row.revision
                    yield Line("deployment", model, _move(row))


def describe(row: Evidence) -> str:
    """A sentence about a row of evidence."""
    body = row.body
    if row.kind == "finding":
        return sentence(body)
    if row.kind == "gates":
        return "gates: " + _gates(body)
    return f"trial: {body.get('action')}: {body.get('reason')}"


def _gates(body: dict[str, Any]) -> str:
    gates = body.get("gates", [])
    failed = [f"{gate['gate']}: {gate['reason']}" for gate in gates if gate["verdict"] not in _FINE]
    passed = [f"{gate['gate']} pass" for gate in gates if gate["verdict"] == "pass"]
    return "; ".join(failed) or ", ".join(passed)


def _run(run: Run) -> str:
    return f"retraining {run.run_id.rsplit('-', 1)[-1]}: {run.status}, {run.step}"


def _move(row: Deployment) -> str:
    trial = f", {row.mode} of version {row.candidate} ({row.weight:.0%})" if row.candidate else ""
    return f"revision {row.revision}: champion version {row.champion}{trial} — {row.reason}"
