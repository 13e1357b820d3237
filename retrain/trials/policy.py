"""A trial as the ledger keeps it: what was fixed before its first label, and how far it has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

import msgspec

from registry.routing import salt_of
from retrain.trials.guards import Outcome
from retrain.trials.stages import Step, ladder

__all__ = ["Baseline", "Mark", "Policy", "Stage", "Trial"]

Stage = Literal["shadow", "canary", "ab", "watch"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What was fixed before the first label: nothing here may change while the trial runs.

    `several` is how many candidates began, where there was more than one: each is tested at alpha over that number.
    Spans are in seconds of the model's clock. A guardrail without a tolerance is off.
    """

    margin: float
    alpha: float
    stages: tuple[str, ...]
    dwell_s: float
    shadow_labels: int
    canary_units: int
    step_labels: int
    min_per_arm: int
    planned_per_arm: int
    limit_s: float
    watch_s: float
    loss_sd: float
    metric: str = "loss"
    errors: float | None = None
    latency: float | None = None
    predictions: float | None = None
    rates: float | None = None
    outcomes: tuple[Outcome, ...] = ()
    several: int = 0

    @property
    def ladder(self) -> tuple[Step, ...]:
        """The stages before promotion."""
        return ladder(self.stages)

    @property
    def weight(self) -> float:
        """The candidate's share in the last stage, for which the tests are made sharpest."""
        return self.ladder[-1].weight

    def goal(self) -> Outcome | None:
        """The outcome that is compared instead of the label's loss, if it is one."""
        return next((o for o in self.outcomes if o.name == self.metric), None)


@dataclass(frozen=True, slots=True)
class Mark:
    """A deployment of a step: requests say which one they were routed by, and so with which weight.

    With several candidates `weights` are those of each, and of the champion.
    """

    step: int
    revision: int
    weights: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the champion did before the first request was drawn: guardrails measure against it.

    `slow_ms` is its p99 latency times what is tolerated, `mean` and `sd` are of its answers, `shares` of its classes.
    """

    slow_ms: float | None = None
    mean: float = 0.0
    sd: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate against one champion; `cap` is the loss cap of the champion, used for both.

    `step` counts the stages of the ladder; the one beyond the last is the watch. `entered` is when it began, on the
    model's clock. `better` says that shadow has proved the candidate better by labels: that it answers otherwise is
    then no reason to take it out. `others` are further candidates beside the first.
    """

    experiment_id: str
    champion: int
    candidate: int
    reason: str
    started: datetime
    entered: datetime
    policy: Policy
    cap: float
    step: int = 0
    by_people: bool = False
    actor: str = "worker"
    marks: tuple[Mark, ...] = ()
    baseline: Baseline = Baseline()
    gates_id: int | None = None
    better: bool = False
    others: tuple[int, ...] = ()

    @property
    def candidates(self) -> tuple[int, ...]:
        """Those that are tried still."""
        return (self.candidate, *self.others)

    @property
    def salt(self) -> str:
        """What entities are drawn with: one for the whole trial, so that ramps are monotone."""
        return salt_of(self.experiment_id)

    @property
    def bandit(self) -> bool:
        """Whether several candidates share the traffic."""
        return self.policy.several > 0 and self.step < len(self.policy.stages)

    @property
    def stage(self) -> Stage:
        """The stage's kind."""
        steps = self.policy.ladder
        return steps[self.step].kind if self.step < len(steps) else "watch"

    @property
    def name(self) -> str:
        """The stage as settings call it, or "watch"."""
        return self.policy.stages[self.step] if self.step < len(self.policy.stages) else "watch"

    def to_dict(self) -> dict[str, Any]:
        """The JSON form kept in rows of the ledger."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Trial:
        """Read the JSON form."""
        return msgspec.convert(body, cls)

    def at_step(self, step: int, revision: int, now: datetime) -> Trial:
        """The same trial in a stage that this revision of the deployment began at `now`."""
        return replace(self, step=step, entered=now, marks=(*self.marks, Mark(step, revision)))

    def at_epoch(self, weights: Mapping[int, float], revision: int, now: datetime) -> Trial:
        """The same trial in the next epoch, with these candidates and the champion."""
        first, *others = (v for v in weights if v != self.champion)
        mark = Mark(0, revision, tuple(weights.items()))
        return replace(self, candidate=first, others=tuple(others), entered=now, marks=(*self.marks, mark))

    def marked(self, revision: int) -> Trial:
        """The same trial where somebody moved the deployment without touching the stage: segments, for example."""
        weights = self.marks[-1].weights if self.marks else ()
        return replace(self, marks=(*self.marks, Mark(self.step, revision, weights)))

    def won_by(self, version: int) -> Trial:
        """The same trial once one of several candidates has won it."""
        return replace(self, candidate=version, others=())
