"""What a model's owner decides about its trials, before any of them begins."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from registry.errors import ConfigInvalid
from retrain.duration import Duration
from retrain.trials.stages import LADDER, ladder

__all__ = ["GuardSettings", "OutcomeSettings", "TrialSettings"]


_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
#: What guardrails and the label's loss are called.
_TAKEN = ("loss", "error_rate", "latency", "prediction_rate", "harm", "alert")


class OutcomeSettings(BaseModel):
    """One named numeric outcome that feedback brings: values beyond `lower` and `upper` count as these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lower: float = Field(allow_inf_nan=False, description="values below count as this")
    upper: float = Field(allow_inf_nan=False, description="values above count as this")
    higher_is_better: bool = Field(default=True, description="whether more of it is better")
    tolerance: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="how much worse its mean may be, in its own units"
    )
    sd: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="its usual deviation; none: a quarter of the span"
    )

    @model_validator(mode="after")
    def _span(self) -> Self:
        if not self.lower < self.upper:
            raise ValueError("lower must be below upper")
        if not math.isfinite(self.upper - self.lower):
            raise ValueError("upper is too far from lower")
        return self


class GuardSettings(BaseModel):
    """What a candidate must not do while it answers. A tolerance that is none switches its guardrail off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    errors: float | None = Field(default=0.002, ge=0, lt=1, description="share of entities it may fail more often for")
    latency: float | None = Field(
        default=1.5, gt=1, description="slow is slower than the champion's p99 times this; 1 % of entities may be slow"
    )
    predictions: float | None = Field(
        default=0.5, gt=0, description="how far its mean answer may be off the champion's, in standard deviations"
    )
    rates: float | None = Field(
        default=0.2, gt=0, lt=1, description="how much more or less often it may answer a class, as a share"
    )


class TrialSettings(BaseModel):
    """One `[models.NAME.trial]` table. Durations are text such as "1h"; they are spans of the model's clock."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    promotion: Literal["auto", "approve", "manual"] = Field(
        default="auto", description="`auto`: the trial decides; `approve`: it waits for people; `manual`: none begins"
    )
    stages: tuple[str, ...] = Field(
        default=LADDER, description="`shadow`, `canary`, and `ab:` with a share; each wider than the one before"
    )
    margin: float = Field(default=0.01, gt=0, lt=0.5, description="non-inferiority margin in units of bounded loss")
    alpha: float = Field(default=0.05, gt=0, le=0.2, description="error rate of each test of the trial")
    metric: str = Field(default="loss", description="`loss` of the label, or one of `outcomes`: what is compared")
    dwell: Duration = Field(default=timedelta(hours=1), description="least time in each stage")
    shadow_labels: int = Field(default=300, ge=30, description="paired labels before shadow may end")
    canary_units: int = Field(default=100, ge=1, description="entities that the candidate answers before canary ends")
    step_labels: int = Field(default=100, ge=10, description="labels of each arm before an A/B stage is widened")
    min_per_arm: int = Field(default=300, ge=30, description="labels of each arm, over all stages, before it is won")
    planned_per_arm: int = Field(default=3_000, ge=100, description="labels of each arm at which the test is sharpest")
    limit: Duration = Field(default=timedelta(days=30), description="a trial older than this ends as inconclusive")
    watch: Duration = Field(
        default=timedelta(days=7),
        description="how long the former champion goes on in shadow after a promotion; with few labels twice as long",
    )
    guardrails: GuardSettings = Field(default=GuardSettings(), description="the table `[models.NAME.trial.guardrails]`")
    outcomes: dict[str, OutcomeSettings] = Field(
        default={}, description="one table `[models.NAME.trial.outcomes.OUTCOME]` for each: a guardrail"
    )
    rollback_alerts: tuple[str, ...] = Field(
        default=(), description="alerts that end a trial, besides those with the label `rollback=true`"
    )

    @field_validator("stages")
    @classmethod
    def _climbable(cls, found: tuple[str, ...]) -> tuple[str, ...]:
        try:
            ladder(found)
        except ConfigInvalid as error:
            raise ValueError(f"{error.message}; expected {error.expected}") from error
        return found

    @field_validator("outcomes")
    @classmethod
    def _named(cls, found: dict[str, OutcomeSettings]) -> dict[str, OutcomeSettings]:
        if any(name in _TAKEN or not _NAME.fullmatch(name) for name in found):
            raise ValueError(f"an outcome's name is small letters, digits and _, and none of {', '.join(_TAKEN)}")
        return found

    @model_validator(mode="after")
    def _known_metric(self) -> Self:
        if self.metric != "loss" and self.metric not in self.outcomes:
            raise ValueError('metric must be "loss" or one of the outcomes')
        return self
