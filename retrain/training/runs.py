"""Retraining runs as the worker sees them: begun, resumed after a crash, concluded once."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from registry import approvals
from registry.bundle import read_bundle
from registry.errors import BundleCorrupt
from registry.ledger import Ledger, Run
from registry.private import write_private
from retrain.evidence import gate_evidence
from retrain.gates.gates import Gate
from retrain.places import Places
from retrain.process import Child
from retrain.settings import RetrainSettings
from retrain.training.child import LEASE_LOST, Result, Spec, recorded

__all__ = ["Concluded", "Runs", "run_id"]

MAX_ATTEMPTS = 3


def run_id(model: str, reason: str, champion: int, now: datetime, settings: RetrainSettings) -> str:
    """The idempotency key: the same occasion is the same run, however often it is begun."""
    what = "\x1f".join((model, reason, str(champion), now.isoformat(), settings.model_dump_json()))
    return f"{model}-{hashlib.sha256(what.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class Concluded:
    """A run that ended; `result` is None when it broke."""

    run: Run
    spec: Spec
    result: Result | None
    evidence_id: int | None
    seconds: float


@dataclass
class Runs:
    """Starts children one at a time and turns their ends into rows."""

    ledger: Ledger
    places: Places
    _active: dict[str, Child] = field(default_factory=dict, init=False)

    @property
    def busy(self) -> bool:
        """Whether a child of this worker is at work: one at a time for the whole worker."""
        return bool(self._active)

    def begin(self, spec: Spec, *, token: int) -> None:
        """Record the run, then start its child. A crash between the two is mended by `tend`."""
        self.ledger.record_run(spec.run_id, spec.model, status="running", step="begin", body=_body(spec), token=token)
        self._start(spec, token)

    def _start(self, spec: Spec, token: int) -> None:
        stores = {"ledger_url": self.places.ledger, "tracking_uri": self.places.tracking}
        spec = msgspec.structs.replace(spec, **stores, lake_url=self.places.lake_url, token=token, parent=os.getpid())
        folder = self.places.run(spec.run_id)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"spec-{spec.attempt}-{token}.json"
        write_private(path, msgspec.json.encode(spec))
        seconds = float(spec.settings.get("training_timeout_s", 900.0))
        self._active[spec.run_id] = Child.start(
            ["retrain.training.child", str(path)], log=folder / "log.txt", seconds=seconds
        )

    def tend(self, model: str, *, token: int) -> Concluded | None:
        """Look after the model's running run: conclude it, or bring it back after a crash."""
        running = [r for r in self.ledger.runs(model, limit=20) if r.status == "running"]
        if not running:
            return None
        run = running[0]
        spec = msgspec.convert(run.body["spec"], type=Spec)
        child = self._active.get(run.run_id)
        status = child.poll() if child is not None else None
        if child is not None and status is None:
            return None
        self._active.pop(run.run_id, None)
        if (self.places.run(run.run_id) / "result.json").exists():
            return self._conclude(run, spec, token)
        if status == LEASE_LOST:
            child = None  # not the run's fault: begin again under our own token
        if child is None and spec.attempt < MAX_ATTEMPTS:
            again = msgspec.structs.replace(spec, attempt=spec.attempt + 1)
            self.begin(again, token=token)
            return None
        why = "abandoned" if child is None else "failed"
        error = "it ran out of time" if status == 124 else f"exit status {status}"
        body = {**_body(spec), "error": error if child else f"given up after {spec.attempt} attempts"}
        self.ledger.record_run(
            run.run_id, model, status="abandoned" if child is None else "failed", step=why, body=body, token=token
        )
        return Concluded(run, spec, None, None, _lasted(run))

    def _conclude(self, run: Run, spec: Spec, token: int) -> Concluded:
        path = self.places.run(run.run_id) / "result.json"
        result = msgspec.json.decode(path.read_bytes(), type=Result)
        evidence_id = self._evidence(run, result, token)
        if result.outcome == "candidate" and result.version is not None:
            self._registered(run, result.version, token)
        return Concluded(run, spec, result, evidence_id, _lasted(run))

    def _evidence(self, run: Run, result: Result, token: int) -> int:
        for row in self.ledger.evidence(run.model, "gates", limit=20):
            if row.body.get("run_id") == run.run_id:
                return row.id
        gates = [Gate(g["gate"], g["verdict"], g["reason"], g["inputs"]) for g in result.gates]
        body = gate_evidence(run.run_id, gates, result.context)
        return self.ledger.record_evidence(run.model, "gates", body, token=token)

    def _registered(self, run: Run, version: int, token: int) -> None:
        """The worker is the registrar of what it trained; a former champion that won keeps its own."""
        try:
            digest = read_bundle(self.places.run(run.run_id) / "bundle").digest
        except BundleCorrupt:
            return  # nothing new was built
        approvals.record(self.ledger, run.model, version, kind="registered", actor="worker", digest=digest, token=token)

    def close_run(self, done: Concluded, *, token: int) -> None:
        """The last row of a run that has an answer; written after everything that follows from it."""
        if done.result is None:
            return
        body = {
            **_body(done.spec),
            "outcome": done.result.outcome,
            "version": done.result.version,
            "evidence_id": done.evidence_id,
            "context": done.result.context,
        }
        self.ledger.record_run(done.run.run_id, done.run.model, status="done", step="concluded", body=body, token=token)

    def stop(self) -> None:
        """Kill the children: the runs stay `running` and are resumed by the next leader."""
        for child in self._active.values():
            child.stop()
        self._active.clear()


def _body(spec: Spec) -> dict[str, Any]:
    found: dict[str, Any] = {"spec": msgspec.to_builtins(recorded(spec))}
    return found


def _lasted(run: Run) -> float:
    return max((datetime.now(run.started_at.tzinfo) - run.started_at).total_seconds(), 0.0)
