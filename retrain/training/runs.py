"""Retraining runs as the worker sees them: begun, resumed after a crash, cancelled, concluded once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

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
from retrain.training.ends import UNREADABLE, end_of, failure_of, pause
from retrain.training.spec import Result, Spec, recorded
from retrain.triggering.past import past_run
from retrain.triggering.triggers import PastRun, breaker_open, next_attempt

__all__ = ["ANSWER", "CANCEL", "Concluded", "Runs", "run_id"]

CANCEL = "run_cancel"
"""Kind of the row of evidence that asks for a run's end."""
ANSWER = "run_callback"
"""Kind of the row with which an external engine answers."""


def run_id(model: str, reason: str, champion: int, now: datetime, settings: RetrainSettings) -> str:
    """The run of one occasion: the same occasion is the same run, however often it is begun."""
    what = "\x1f".join((model, reason, str(champion), now.isoformat(), settings.model_dump_json()))
    return f"{model}-{hashlib.sha256(what.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class Concluded:
    """A run that ended; `result` is None when it broke or was cancelled."""

    run: Run
    spec: Spec
    result: Result | None
    evidence_id: int | None
    seconds: float
    ended: Literal["done", "failed", "cancelled"] = "done"


def _wall() -> datetime:
    return datetime.now(UTC)


@dataclass
class Runs:
    """Starts children, a bounded number at a time, and turns their ends into rows."""

    ledger: Ledger
    places: Places
    most: int = 1
    hook_secret: str = field(default="", repr=False)
    wall: Callable[[], datetime] = _wall
    _active: dict[str, Child] = field(default_factory=dict, init=False)

    @property
    def busy(self) -> bool:
        """Whether a child of this worker is at work."""
        return bool(self._active)

    @property
    def full(self) -> bool:
        """Whether no further child may be started now."""
        return len(self._active) >= self.most

    def begin(self, spec: Spec, *, token: int) -> None:
        """Record the run, then start its child. A crash between the two is mended by `tend`."""
        self.ledger.record_run(spec.run_id, spec.model, status="running", step="begin", body=_body(spec), token=token)
        try:
            self._start(spec, token)
        except OSError as error:  # no room for its folder, or no right to it: an attempt more would not help
            at = _next(spec, self._past(spec.model, PastRun(spec.now, "error")))
            told = {"error": f"its folder cannot be written: {error.strerror}", "code": "disk", "at_step": "begin"}
            body = {**_body(spec), **told, "next_attempt": at.isoformat() if at else None}
            self.ledger.record_run(spec.run_id, spec.model, status="failed", step="failed", body=body, token=token)

    def _start(self, spec: Spec, token: int) -> None:
        stores = {"ledger_url": self.places.ledger, "tracking_uri": self.places.tracking}
        stores["hook_secret"] = self.hook_secret
        spec = msgspec.structs.replace(spec, **stores, lake_url=self.places.lake_url, token=token, parent=os.getpid())
        folder = self.places.run(spec.run_id)
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)  # whoever writes here writes what runs are made of
        path = folder / f"spec-{spec.attempt}-{token}.json"
        write_private(path, msgspec.json.encode(spec))
        seconds = float(spec.settings.get("training_timeout_s", 900.0))
        self._active[spec.run_id] = Child.start(
            ["retrain.training.child", str(path)], log=folder / "log.txt", seconds=seconds
        )

    def tend(self, model: str, *, token: int) -> Concluded | None:
        """Look after the model's running run: conclude it, end it, or bring it back after a crash."""
        run = next((r for r in self.ledger.runs(model, limit=20) if r.status == "running"), None)
        if run is None:
            return None
        spec = msgspec.convert(run.body["spec"], type=Spec)
        if self._asked(run, CANCEL):
            return self._cancel(run, spec, token)
        if run.step == "handed_over":
            return self._answered(run, spec, token)
        child = self._active.get(run.run_id)
        status = child.poll() if child is not None else None
        if child is not None and status is None:
            return None
        self._active.pop(run.run_id, None)
        if (self.places.run(run.run_id) / "result.json").exists():
            return self._conclude(run, spec, token)
        if child is None and (self.full or self._waits(run)):
            return None
        end = end_of(run, status, attempt=spec.attempt, now=self.wall())
        if end == "again" or (child is None and run.step == "waiting"):
            # a crash uses up an attempt; neither a new leader nor a store that was away does
            lost = child is None and run.step != "waiting"
            self.begin(msgspec.structs.replace(spec, attempt=spec.attempt + lost), token=token)
            return None
        if end == "wait" or end == "handed":  # noqa: PLR1714 - what mypy narrows by
            (self._wait if end == "wait" else self._hand_over)(run, spec, token)
            return None
        return self._fail(run, spec, end, status, token)

    # ends -------------------------------------------------------------------------------------------------

    def _waits(self, run: Run) -> bool:
        return run.step == "waiting" and self.wall() < datetime.fromisoformat(run.body["retry_at"])

    def _wait(self, run: Run, spec: Spec, token: int) -> None:
        """A store is away: keep what is finished and try again later, however long that may take within a day."""
        now, earlier = self.wall(), self._waited(run.run_id)
        told = failure_of(self.places.run(run.run_id), None, step=run.step, attempt=spec.attempt)
        since = earlier[0] if earlier else now.isoformat()
        retry = (now + pause(len(earlier))).isoformat()
        body = {**_body(spec), "error": told["error"], "at_step": told["step"]}
        body |= {"waiting_since": since, "retry_at": retry}
        self.ledger.record_run(run.run_id, run.model, status="running", step="waiting", body=body, token=token)

    def _waited(self, run: str) -> list[str]:
        """When this run began to wait, once for each time in a row: steps that came further begin anew."""
        rows = [r for r in self.ledger.run_steps(run) if r.step != "begin"]
        found: list[str] = []
        for row in reversed(rows):
            if row.step == "waiting":
                found.append(row.body["waiting_since"])
            elif found and row.step != rows[-1].step:
                break
        return found[::-1]

    def _asked(self, run: Run, kind: str) -> dict[str, Any] | None:
        """The body of the newest row of this kind about the run."""
        asked = self.ledger.evidence(run.model, kind, limit=20)
        return next((row.body for row in asked if row.body.get("run_id") == run.run_id), None)

    def _hand_over(self, run: Run, spec: Spec, token: int) -> None:
        """An external engine has the rows: no child waits for it."""
        until = self.wall() + RetrainSettings(**spec.settings).webhook_timeout
        body = {**_body(spec), "until": until.isoformat()}
        self.ledger.record_run(run.run_id, run.model, status="running", step="handed_over", body=body, token=token)

    def _answered(self, run: Run, spec: Spec, token: int) -> Concluded | None:
        """Go on with what the engine answered; without an answer, wait for it as long as was agreed on."""
        answer = self._asked(run, ANSWER)
        if answer is None:
            late = self.wall() >= datetime.fromisoformat(run.body["until"])
            return self._fail(run, spec, "failed", None, token) if late else None
        if not self.full:
            self.begin(msgspec.structs.replace(spec, external=answer), token=token)
        return None

    def _cancel(self, run: Run, spec: Spec, token: int) -> Concluded:
        child = self._active.pop(run.run_id, None)
        if child is not None:
            child.stop()
        asked = self._asked(run, CANCEL) or {}
        body = {**_body(spec), "at_step": run.step, "actor": asked.get("actor"), "why": asked.get("reason")}
        self._last(run, "cancelled", "cancelled", body, token)
        return Concluded(run, spec, None, None, _lasted(run), "cancelled")

    def _fail(
        self, run: Run, spec: Spec, end: Literal["failed", "abandoned"], status: int | None, token: int
    ) -> Concluded:
        told = failure_of(self.places.run(run.run_id), status, step=run.step, attempt=spec.attempt)
        past = self._past(run.model, PastRun(spec.now, "error"))
        body = {**_body(spec), "error": told["error"], "code": told["code"], "at_step": told["step"]}
        if breaker_open(past):
            body["next_attempt"] = None
            opened = {"run_id": run.run_id, "error": told["error"], "closes": "perene retrain now"}
            self.ledger.record_evidence(run.model, "breaker_open", opened, token=token)
        else:
            at = _next(spec, past)
            body["next_attempt"] = at.isoformat() if at else None
        self._last(run, end, end, body, token)
        return Concluded(run, spec, None, None, _lasted(run), "failed")

    def _past(self, model: str, newest: PastRun) -> list[PastRun]:
        return [newest, *(p for r in self.ledger.runs(model, limit=20) if (p := past_run(r)))]

    def _last(
        self,
        run: Run,
        status: Literal["done", "failed", "abandoned", "cancelled"],
        step: str,
        body: dict[str, Any],
        token: int,
    ) -> None:
        self.ledger.record_run(run.run_id, run.model, status=status, step=step, body=body, token=token)

    # results ----------------------------------------------------------------------------------------------

    def _conclude(self, run: Run, spec: Spec, token: int) -> Concluded:
        path = self.places.run(run.run_id) / "result.json"
        try:
            result = msgspec.json.decode(path.read_bytes(), type=Result)
            gates = [Gate(g["gate"], g["verdict"], g["reason"], g["inputs"]) for g in result.gates]
        except (msgspec.DecodeError, KeyError):  # damaged on disk: it would be as damaged in every turn to come
            path.replace(path.with_name("result.damaged"))
            return self._fail(run, spec, "failed", UNREADABLE, token)
        evidence_id = self._evidence(run, result, gates, token) if gates else None
        if result.outcome in ("candidate", "held") and result.version is not None:
            self._registered(run, result.version, token)
        self.ledger.record_run(
            run.run_id, run.model, status="running", step="experiment", body=_body(spec), token=token
        )
        return Concluded(run, spec, result, evidence_id, _lasted(run))

    def _evidence(self, run: Run, result: Result, gates: list[Gate], token: int) -> int:
        for row in self.ledger.evidence(run.model, "gates", limit=20):
            if row.body.get("run_id") == run.run_id:
                return row.id
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
            "cap": done.result.cap,
            "loss_sd": done.result.loss_sd,
        }
        self._last(done.run, "done", "concluded", body, token)

    def untried(self, model: str, champion: int, reason: str) -> Concluded | None:
        """The newest run, if `reason` began it, against this champion, and its candidate was never tried."""
        run = next(iter(self.ledger.runs(model, limit=1)), None)
        if run is None or run.status != "done" or run.body.get("outcome") != "candidate":
            return None
        spec = msgspec.convert(run.body["spec"], type=Spec)
        if spec.reason != reason or spec.champion != champion:
            return None
        tried = {e.body.get("trial", {}).get("candidate") for e in self.ledger.experiments(model, limit=20)}
        if run.body["version"] in tried:
            return None
        body = run.body
        result = Result(
            run.run_id,
            "candidate",
            [],
            body["context"],
            body["version"],
            body.get("cap", 1.0),
            body.get("loss_sd", 0.5),
        )
        return Concluded(run, spec, result, body.get("evidence_id"), 0.0)

    def stop(self) -> None:
        """Kill the children: the runs stay `running` and are resumed by the next leader."""
        for child in self._active.values():
            child.stop()
        self._active.clear()


def _body(spec: Spec) -> dict[str, Any]:
    found: dict[str, Any] = {"spec": msgspec.to_builtins(recorded(spec))}
    return found


def _next(spec: Spec, past: list[PastRun]) -> datetime | None:
    """From when on another run may begin, by what the trigger will see."""
    settings = RetrainSettings(**spec.settings)
    longest = settings.holdout + settings.maturity if spec.reason in ("performance", "alert") else None
    return next_attempt(past, timedelta(seconds=spec.cooldown_s), longest=longest)


def _lasted(run: Run) -> float:
    return max((datetime.now(run.started_at.tzinfo) - run.started_at).total_seconds(), 0.0)
