"""Trials as the worker carries them out. The deployment row is what happened; the trial's row follows it.

Order of every step: evidence, then the move, then the trial's row. After a crash between them `reconcile` reads off
the deployment how far it came, so nothing is decided twice.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from monitoring.lake.lake import Lake
from monitoring.lake.lake_tables import Kind
from registry.approvals import standing
from registry.bundle import Bundle
from registry.errors import ConfigInvalid, LedgerConflict
from registry.experiment_facts import requested
from registry.ledger import Deployment, Experiment, Ledger
from registry.policy import LedgerPolicy
from retrain.settings import RetrainSettings
from retrain.training.runs import Concluded
from retrain.trials import looks, moves, plans
from retrain.trials.alarms import firing
from retrain.trials.approvals import ACTOR, waits_for
from retrain.trials.decision import WAITING, Decision
from retrain.trials.experiments import advance, trial_evidence
from retrain.trials.policy import Trial
from retrain.trials.reconcile import End, by_hand, ended, reconcile
from retrain.trials.several import SeveralStats
from retrain.trials.stats import Alarm, Stats
from retrain.trials.trial_settings import TrialSettings
from retrain.trials.views import Views, digest

__all__ = ["Trials", "Turn"]

log = logging.getLogger("perene.retrain")

#: What a look reads: nothing has changed where none of these files has.
KINDS: tuple[Kind, ...] = ("prediction", "shadow", "label", "outcome")
#: Trials of one model that are looked through for the one that is open.
_RECENT = 50
#: A look that takes longer than so many seconds is followed by a rest of several times its own length: events of many
#: days under heavy traffic must not keep the worker from its other models. Alerts do not wait for it.
LONG_LOOK_S, LOOKS_SHARE = 1.0, 5.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn of a model found: the stage ("none" without a trial), what was decided, and how the trial ended."""

    stage: str = "none"
    experiment_id: str = ""
    decision: Decision | None = None
    end: str | None = None


@dataclass(frozen=True)
class Trials:
    """Reads the lake, decides, moves the deployment. Every write carries the leader's token."""

    ledger: Ledger
    lake: Lake
    policy: LedgerPolicy
    settings: Mapping[str, TrialSettings] = field(default_factory=dict)
    _looked: dict[str, tuple[Any, ...]] = field(default_factory=dict, init=False)
    _rests: dict[str, float] = field(default_factory=dict, init=False)

    def begin(self, done: Concluded, settings: RetrainSettings, now: datetime, *, token: int) -> Trial | None:
        """Write down the intent to try the run's version; `turn` then makes the move. None where it is not tried."""
        model = done.spec.model
        trial = plans.trained(done, self._settings(model), settings, now)
        if trial is None:
            return None
        known = {e.experiment_id for e in self.ledger.experiments(model, limit=20)}
        if trial.experiment_id not in known:
            if self.open(model) is not None:
                log.info("retrain.not_tried: another trial is on its way", extra={"model": model})
                return None
            self._record(model, trial, {}, token)
        return trial

    def open(self, model: str) -> Experiment | None:
        """The model's trial that has not ended; a promotion that is still watched has not."""
        return next((e for e in self.ledger.experiments(model, limit=_RECENT) if e.stage != "done"), None)

    def ended_at(self, model: str) -> datetime | None:
        """When the last trial ended, on the model's clock."""
        for experiment in self.ledger.experiments(model, limit=_RECENT):
            if experiment.stage == "done" and "now" in experiment.body:
                return datetime.fromisoformat(experiment.body["now"])
        return None

    def turn(
        self,
        deployment: Deployment,
        champion: Bundle,
        now: datetime,
        *,
        token: int,
        bundle: Callable[[int], Bundle | None] = lambda version: None,
    ) -> Turn:
        """One look at the model's trial, or the beginning of one that somebody asked for.

        Args:
            deployment: as it is now.
            champion: the bundle that answers.
            now: on the model's clock.
            token: the leader's.
            bundle: gives the bundle of another version, once this machine has it.
        """
        model = deployment.model
        row = self.open(model) or self._asked(deployment, champion, now, token)
        if row is None:
            return Turn()
        decision = self._tend(row, deployment, champion, now, token, bundle)
        after = next(
            (e for e in self.ledger.experiments(model, limit=_RECENT) if e.experiment_id == row.experiment_id), row
        )
        end = after.state if after.state != row.state else None
        return Turn(after.stage if after.stage != "done" else row.stage, row.experiment_id, decision, end)

    def _settings(self, model: str) -> TrialSettings:
        return self.settings.get(model, TrialSettings())

    def _asked(self, deployment: Deployment, champion: Bundle, now: datetime, token: int) -> Experiment | None:
        """Take up the oldest request; what cannot be tried any more is closed with the reason."""
        model = deployment.model
        for row in reversed(requested(self.ledger, model)):
            why = None
            if row.body.get("champion") != deployment.champion:
                why = "the champion is another one by now"
            elif deployment.candidate is not None:
                why = "another candidate was deployed meanwhile"
            else:
                try:
                    trial = plans.asked(row.body, self._settings(model), champion, now)
                except ConfigInvalid as error:
                    why = f"{error.message}: {error.where}"
            if why is None:
                self._record(model, trial, {"evidence_id": row.id}, token)
                return self.open(model)
            body = {**row.body, "why": why}  # without a time: it never began, so nothing has to cool down after it
            self.ledger.record_experiment(
                str(row.body["experiment_id"]), model, state="aborted", stage="done", body=body, token=token
            )
        return None

    # one look ---------------------------------------------------------------------------------------------

    def _tend(
        self,
        row: Experiment,
        deployment: Deployment,
        champion: Bundle,
        now: datetime,
        token: int,
        bundle: Callable[[int], Bundle | None],
    ) -> Decision | None:
        model = deployment.model
        try:
            trial = Trial.from_dict(row.body["trial"])
        except (msgspec.ValidationError, KeyError):
            self._give_up(row, deployment, now, token)
            return None
        entered, place = bool(row.body.get("entered")), reconcile(trial, deployment)
        if place == "out" and not entered:
            self._enter(trial, deployment, champion, now, token)
            return None
        if isinstance(place, str):
            if place == "promoted" and trial.bandit:
                trial = trial.won_by(deployment.champion)
            why = f"{deployment.actor}: {deployment.reason}"
            self._close(model, trial, now, why, token, by_hand(trial, place))
            return None
        trial = self._caught_up(trial, deployment, champion, place, now, token, entered=entered)
        made = self._made(model, trial)
        if made is not None:  # decided before a crash, not yet carried out
            self._carry_out(deployment, champion, trial, made[1], made[0], now, token)
            return made[1]
        alarm = firing(self.ledger, model, since=row.started_at, names=self._settings(model).rollback_alerts)
        seen = self._seen(model, trial, now, alarm)
        if self._looked.get(trial.experiment_id) == seen:
            return None  # nothing has changed since the last look
        began = time.monotonic()
        if alarm is None and began < self._rests.get(trial.experiment_id, 0.0):
            return None
        try:
            return self._look(trial, deployment, champion, now, token, bundle, alarm, seen)
        finally:
            took = time.monotonic() - began
            self._rests[trial.experiment_id] = began + (LOOKS_SHARE * took if took > LONG_LOOK_S else 0.0)

    def _seen(self, model: str, trial: Trial, now: datetime, alarm: Alarm | None) -> tuple[Any, ...]:
        """Everything that a look depends on, so that none is made twice."""
        p = trial.policy
        passed = (
            now - trial.entered >= timedelta(seconds=p.dwell_s),
            now - trial.entered >= timedelta(seconds=p.watch_s),
            now - trial.entered >= timedelta(seconds=2 * p.watch_s),
            now - trial.started >= timedelta(seconds=p.limit_s),
        )
        approvers = tuple(standing(self.ledger, model, version).approvers for version in trial.candidates)
        files = (hash(tuple(self.lake.files(model, kind))) for kind in KINDS)
        return (trial.step, alarm, *passed, approvers, *files)

    def _look(
        self,
        trial: Trial,
        deployment: Deployment,
        champion: Bundle,
        now: datetime,
        token: int,
        bundle: Callable[[int], Bundle | None],
        alarm: Alarm | None,
        seen: tuple[Any, ...],
    ) -> Decision:
        model = deployment.model
        stats, joined = self._stats(trial, model, champion, token, bundle)
        decision = advance(trial, stats, now, alarm)
        looks.add(self.ledger, trial.experiment_id, looks.look(trial, decision, now), token=token)
        why = None
        if decision.action == "promote":
            by_people = trial.by_people or self._settings(model).promotion != "auto"
            winner = int(decision.facts.get("best", trial.candidate))
            why = waits_for(self.ledger, self.policy, model, winner, by_people=by_people)
        if decision.action in WAITING or why is not None:
            self._looked[trial.experiment_id] = seen
            waits = f"{decision.reason}; it waits: {why}"
            return decision if why is None else replace(decision, action="continue", reason=waits)
        inputs = digest(joined) if joined is not None else {}
        body = trial_evidence(trial, stats, now, decision, alarm=alarm, inputs=inputs)
        evidence_id = self.ledger.record_evidence(model, "decision", body, token=token)
        self._carry_out(deployment, champion, trial, decision, evidence_id, now, token)
        return decision

    def _stats(
        self, trial: Trial, model: str, champion: Bundle, token: int, bundle: Callable[[int], Bundle | None]
    ) -> tuple[Stats | SeveralStats, Any]:
        for version in trial.candidates if trial.stage != "watch" else ():
            candidate = bundle(version)
            found = plans.unfit(champion, candidate) if candidate is not None else None
            if found is not None:
                return found, None
        return self.views.stats(model, trial, champion.contract.output, token)

    @property
    def views(self) -> Views:
        """What looks read."""
        return Views(self.ledger, self.lake)

    def _made(self, model: str, trial: Trial) -> tuple[int, Decision] | None:
        """The recorded decision of the trial's present step: there is at most one."""
        for row in self.ledger.evidence(model, "decision", limit=50):
            body, of = row.body, row.body.get("trial", {})
            same = of.get("experiment_id") == trial.experiment_id and of.get("step") == trial.step
            if same and (not trial.bandit or len(of["marks"]) == len(trial.marks)):  # with several, one of each epoch
                return row.id, Decision(body["action"], body["reason"], body["facts"], body["cause"])
        return None

    # moves ------------------------------------------------------------------------------------------------

    def _enter(self, trial: Trial, deployment: Deployment, champion: Bundle, now: datetime, token: int) -> None:
        moved = self.ledger.move(
            deployment.model,
            expected_revision=deployment.revision,
            **moves.to_enter(trial),
            actor=ACTOR,
            reason=f"{trial.name}: {trial.reason}",
            evidence_id=trial.gates_id,
            token=token,
        )
        try:
            self._caught_up(trial, moved, champion, 0, now, token, entered=False)
        except LedgerConflict:  # aborted in this moment, by somebody who saw no candidate yet to take out
            with contextlib.suppress(LedgerConflict):
                self._leave_champion(moved, "the trial was ended as it began", token)

    def _caught_up(
        self,
        trial: Trial,
        deployment: Deployment,
        champion: Bundle,
        place: int,
        now: datetime,
        token: int,
        *,
        entered: bool,
    ) -> Trial:
        """The trial's row follows the deployment: a step begun, or rows beside the trial (segments) within one."""
        if trial.policy.several and place == len(trial.policy.stages):
            trial = trial.won_by(deployment.champion)
        elif trial.bandit and not any(m.revision == deployment.revision for m in trial.marks):
            after = moves.next_epoch(trial, deployment, now)
            self._record(deployment.model, after, {"entered": True}, token)
            return after
        if entered and place == trial.step:
            if any(m.revision == deployment.revision for m in trial.marks):
                return trial
            after = trial.marked(deployment.revision)
        else:
            after = trial.at_step(place, deployment.revision, now)
            if moves.first_drawn(trial, after):
                output = champion.contract.output
                base = self.views.baseline(deployment.model, trial, output, now)
                after = replace(after, baseline=base, better=self._better(deployment.model, trial))
        self._record(deployment.model, after, {"entered": True}, token)
        return after

    def _better(self, model: str, trial: Trial) -> bool:
        """Whether shadow, which ends here, has proved the candidate better."""
        made = self._made(model, trial)
        return made is not None and made[1].facts.get("log_e_superiority", 0.0) >= -math.log(trial.policy.alpha)

    def _carry_out(
        self,
        deployment: Deployment,
        champion: Bundle,
        trial: Trial,
        decision: Decision,
        evidence_id: int,
        now: datetime,
        token: int,
    ) -> None:
        if decision.action == "promote":
            trial = trial.won_by(int(decision.facts.get("best", trial.candidate)))
        what = f"{decision.action} ({decision.cause})" if decision.cause else decision.action
        try:
            moved = self.ledger.move(
                deployment.model,
                expected_revision=deployment.revision,
                actor=ACTOR,
                reason=f"{what}: {decision.reason}",
                evidence_id=evidence_id,
                token=token,
                **moves.to_carry_out(trial, decision),
            )
        except LedgerConflict:
            return  # somebody moved first; the next tick reads what they made of it
        place = reconcile(trial, moved)
        if isinstance(place, int):
            self._caught_up(trial, moved, champion, place, now, token, entered=True)
        else:
            self._end(deployment.model, trial, ended(decision) or "aborted", now, _told(evidence_id, decision), token)

    # the trial's row --------------------------------------------------------------------------------------

    def _close(self, model: str, trial: Trial, now: datetime, why: str, token: int, state: End) -> None:
        """End a trial whose move is already made: by our own recorded decision, or by somebody's hand."""
        made = self._made(model, trial)
        end = ended(made[1]) if made is not None else None
        # one that somebody was faster than was never carried out
        if made is not None and end is not None and any(d.evidence_id == made[0] for d in self.ledger.history(model)):
            self._end(model, trial, end, now, _told(*made), token)
        else:
            self._end(model, trial, state, now, {"why": why}, token)

    def _leave_champion(self, deployment: Deployment, why: str, token: int) -> None:
        self.ledger.move(
            deployment.model,
            expected_revision=deployment.revision,
            champion=deployment.champion,
            actor=ACTOR,
            reason=f"abort: {why}",
            token=token,
        )

    def _give_up(self, row: Experiment, deployment: Deployment, now: datetime, token: int) -> None:
        """A trial that another build of Perene wrote cannot be gone on with: the champion stays, alone."""
        if deployment.candidate is not None:
            self._leave_champion(deployment, "the trial's row cannot be read", token)
        body = {**row.body, "why": "its row cannot be read", "now": now.isoformat()}
        self.ledger.record_experiment(
            row.experiment_id, deployment.model, state="aborted", stage="done", body=body, token=token
        )

    def _end(self, model: str, trial: Trial, state: End, now: datetime, more: dict[str, Any], token: int) -> None:
        body = {"trial": trial.to_dict(), "entered": True, "now": now.isoformat(), **more}
        self.ledger.record_experiment(trial.experiment_id, model, state=state, stage="done", body=body, token=token)

    def _record(self, model: str, trial: Trial, more: dict[str, Any], token: int) -> None:
        """A trial on its way; in the watch it counts as promoted already."""
        state: Literal["running", "promoted"] = "promoted" if trial.stage == "watch" else "running"
        body = {"trial": trial.to_dict(), "evidence_id": trial.gates_id, **more}
        self.ledger.record_experiment(
            trial.experiment_id, model, state=state, stage=trial.stage, body=body, token=token
        )


def _told(evidence_id: int, decision: Decision) -> dict[str, Any]:
    return {"evidence_id": evidence_id, "why": decision.reason, "cause": decision.cause, "facts": decision.facts}
