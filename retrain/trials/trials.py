"""Trials as the worker carries them out. The deployment row is what happened; the trial's row follows it.

Order of every step: evidence, then the move, then the trial's row. After a crash between them `reconcile` reads off
the deployment how far it came, so nothing is decided twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
import numpy as np

from monitoring.lake.lake import Lake
from registry.approvals import standing
from registry.bundle import Bundle
from registry.errors import LedgerConflict
from registry.ledger import Deployment, Experiment, Ledger
from registry.policy import LedgerPolicy, refusal
from retrain.settings import RetrainSettings
from retrain.training.runs import Concluded
from retrain.trials.experiments import AbStats, Decision, Policy, ShadowStats, Trial, advance, trial_evidence
from retrain.trials.samples import ab_stats, paired_losses

__all__ = ["Trials", "reconcile", "waits_for"]

ACTOR = "worker"
State = Literal["promoted", "rejected", "inconclusive", "aborted"]
_ENDS: dict[str, State] = {
    "promote": "promoted",
    "reject": "rejected",
    "inconclusive": "inconclusive",
    "abort": "aborted",
}


def reconcile(trial: Trial, deployment: Deployment) -> Literal["enter", "shadow", "ab"] | State:
    """What the deployment says of the trial: not begun, in a stage, or over (by whose hand ever)."""
    if deployment.champion == trial.candidate:
        return "promoted"
    if deployment.champion != trial.champion:
        return "aborted"
    if deployment.candidate is None:
        return "enter"
    if deployment.candidate != trial.candidate:
        return "aborted"
    return "ab" if deployment.mode == "ab" else "shadow"


def waits_for(ledger: Ledger, policy: LedgerPolicy, model: str, version: int, *, by_people: bool = False) -> str | None:
    """Why the worker may not promote `version` yet: people must approve it, for it registered the version itself."""
    rules = LedgerPolicy(approvals=max(policy.approvals, int(by_people or policy.separation_of_duties)))
    return refusal(rules, standing(ledger, model, version), actor=ACTOR)


class Memory(msgspec.Struct):
    """Paired differences in the order in which they were seen: a bet may not be placed again in another order."""

    ids: list[str] = []
    d: list[float] = []


@dataclass(frozen=True)
class Trials:
    """Reads the lake, decides, moves the deployment. Every write carries the leader's token."""

    ledger: Ledger
    lake: Lake
    policy: LedgerPolicy
    _looked: dict[str, tuple[str | int, ...]] = field(default_factory=dict, init=False)

    def begin(self, done: Concluded, settings: RetrainSettings, now: datetime, *, token: int) -> Trial | None:
        """Write down the intent to try the run's version; `tend` then makes the move."""
        result = done.result
        if result is None or result.outcome != "candidate" or result.version is None:
            return None
        if settings.promotion == "manual" or result.version == done.spec.champion:
            return None
        reason = "freshness" if settings.freshness and done.spec.reason == "schedule" else done.spec.reason
        trial = Trial(
            experiment_id=f"{done.spec.run_id}-trial",
            champion=done.spec.champion,
            candidate=result.version,
            reason=reason,
            stage="shadow",
            started=now,
            policy=Policy(
                margin=settings.margin,
                alpha=settings.alpha,
                shadow_labels=settings.shadow_labels,
                ab_weight=settings.ab_weight,
                ab_min_per_arm=settings.ab_min_per_arm,
                ab_planned_per_arm=settings.ab_planned_per_arm,
                limit_s=settings.experiment_limit.total_seconds(),
                loss_sd=result.loss_sd,
            ),
            cap=result.cap,
        )
        known = {e.experiment_id for e in self.ledger.experiments(done.spec.model, limit=20)}
        if trial.experiment_id not in known:
            self._record(done.spec.model, trial, "running", {"evidence_id": done.evidence_id}, token)
        return trial

    def running(self, model: str) -> Experiment | None:
        """The model's trial, if one is on its way."""
        found = [e for e in self.ledger.experiments(model, limit=5) if e.state == "running"]
        return found[0] if found else None

    def ended_at(self, model: str) -> datetime | None:
        """When the last trial ended, on the model's clock."""
        for experiment in self.ledger.experiments(model, limit=5):
            if experiment.state != "running" and "now" in experiment.body:
                return datetime.fromisoformat(experiment.body["now"])
        return None

    def tend(
        self,
        row: Experiment,
        deployment: Deployment,
        champion: Bundle,
        settings: RetrainSettings,
        now: datetime,
        *,
        token: int,
    ) -> Decision | None:
        """One look at the trial. Returns the decision when one was looked for."""
        trial = Trial.from_dict(row.body["trial"])
        where = reconcile(trial, deployment)
        model = deployment.model
        if where == "enter":
            if row.body.get("entered"):
                self._close(model, trial, now, "the candidate was taken out", token)
            else:
                self._enter(row, trial, deployment, now, token)
            return None
        if where in ("promoted", "aborted"):
            self._close(model, trial, now, "the deployment was moved by hand", token, where)
            return None
        if where != trial.stage or not row.body.get("entered"):
            trial = trial.at_stage("ab" if where == "ab" else "shadow")
            self._record(model, trial, "running", {"entered": True}, token)
        made = self._made(model, trial)
        if made is not None:  # decided before a crash, not yet carried out
            self._carry_out(deployment, trial, made[1], made[0], now, token)
            return made[1]
        seen = (trial.stage, *(hash(tuple(self.lake.files(model, kind))) for kind in ("prediction", "shadow", "label")))
        in_time = now - trial.started < timedelta(seconds=trial.policy.limit_s)
        if in_time and self._looked.get(trial.experiment_id) == seen:
            return None  # nothing arrived since the last look
        stats = self._stats(model, trial, champion, token)
        decision = advance(trial, stats, now)
        if decision.action in ("continue", "pause"):
            self._looked[trial.experiment_id] = seen
            return decision
        by_people = settings.promotion == "approve"
        why = waits_for(self.ledger, self.policy, model, trial.candidate, by_people=by_people)
        if decision.action == "promote" and why is not None:
            return Decision("continue", f"{decision.reason}; it waits: {why}", decision.facts)
        body = trial_evidence(trial, stats, now, decision)
        evidence_id = self.ledger.record_evidence(model, "decision", body, token=token)
        self._carry_out(deployment, trial, decision, evidence_id, now, token)
        return decision

    def _enter(self, row: Experiment, trial: Trial, deployment: Deployment, now: datetime, token: int) -> None:
        self.ledger.move(
            deployment.model,
            expected_revision=deployment.revision,
            champion=trial.champion,
            candidate=trial.candidate,
            mode="shadow",
            salt=trial.experiment_id,
            actor=ACTOR,
            reason=f"shadow: {trial.reason}",
            evidence_id=row.body.get("evidence_id"),
            token=token,
        )
        self._record(deployment.model, trial, "running", {"entered": True}, token)

    def _stats(self, model: str, trial: Trial, champion: Bundle, token: int) -> ShadowStats | AbStats:
        joined = self.lake.joined(model, since=trial.started)
        output = champion.contract.output
        if trial.stage == "ab":
            return ab_stats(joined, output=output, cap=trial.cap, champion=trial.champion, candidate=trial.candidate)
        name = f"trial:{trial.experiment_id}"
        body = self.ledger.load_state(name)
        memory = msgspec.json.decode(body, type=Memory) if body else Memory()
        ids, d = paired_losses(joined, output=output, cap=trial.cap, champion=trial.champion, candidate=trial.candidate)
        seen = set(memory.ids)
        fresh = [(i, float(x)) for i, x in zip(ids, d, strict=True) if i not in seen]
        if fresh:
            memory.ids += [i for i, _ in fresh]
            memory.d += [x for _, x in fresh]
            self.ledger.save_state(name, msgspec.json.encode(memory), token=token)
        return ShadowStats(np.array(memory.d, dtype=np.float32))

    def _made(self, model: str, trial: Trial) -> tuple[int, Decision] | None:
        """The recorded decision of the trial's present stage: there is at most one."""
        for row in self.ledger.evidence(model, "decision", limit=50):
            of = row.body.get("trial", {})
            if of.get("experiment_id") == trial.experiment_id and of.get("stage") == trial.stage:
                return row.id, Decision(row.body["action"], row.body["reason"], row.body["facts"])
        return None

    def _close(self, model: str, trial: Trial, now: datetime, why: str, token: int, state: State = "aborted") -> None:
        """End a trial whose move is already made: by our own recorded decision, or by somebody's hand."""
        made = self._made(model, trial)
        if made is not None and made[1].action in _ENDS:
            more = {"evidence_id": made[0], "why": made[1].reason, "facts": made[1].facts}
            self._end(model, trial, _ENDS[made[1].action], now, more, token)
        else:
            self._end(model, trial, state, now, {"why": why}, token)

    def _carry_out(
        self, deployment: Deployment, trial: Trial, decision: Decision, evidence_id: int, now: datetime, token: int
    ) -> None:
        to_ab = decision.action == "advance"
        promoted = decision.action == "promote"
        try:
            self.ledger.move(
                deployment.model,
                expected_revision=deployment.revision,
                champion=trial.candidate if promoted else trial.champion,
                candidate=trial.candidate if to_ab else None,
                mode="ab" if to_ab else None,
                weight=trial.policy.ab_weight if to_ab else 0.0,
                salt=trial.experiment_id if to_ab else "",
                actor=ACTOR,
                reason=f"{decision.action}: {decision.reason}",
                evidence_id=evidence_id,
                token=token,
            )
        except LedgerConflict:
            return  # somebody moved first; the next tick reads what they made of it
        if to_ab:
            self._record(deployment.model, trial.at_stage("ab"), "running", {"entered": True}, token)
        else:
            more = {"evidence_id": evidence_id, "why": decision.reason, "facts": decision.facts}
            self._end(deployment.model, trial, _ENDS[decision.action], now, more, token)

    def _end(self, model: str, trial: Trial, state: State, now: datetime, more: dict[str, Any], token: int) -> None:
        body = {"trial": trial.to_dict(), "now": now.isoformat(), **more}
        self.ledger.record_experiment(trial.experiment_id, model, state=state, stage="done", body=body, token=token)

    def _record(self, model: str, trial: Trial, state: Literal["running"], more: dict[str, Any], token: int) -> None:
        body = {"trial": trial.to_dict(), **more}
        self.ledger.record_experiment(
            trial.experiment_id, model, state=state, stage=trial.stage, body=body, token=token
        )
