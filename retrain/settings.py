"""What one model's owner decides about its retraining."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from monitoring.lake.lake_root import LakeUrl
from monitoring.settings import MonitoringSettings
from registry.errors import ConfigInvalid
from registry.policy import LedgerPolicy
from retrain.gates.settings import GateSettings
from retrain.training.windows import parse_duration

__all__ = ["RetrainSettings", "WatchSettings", "WorkerSettings"]


def _duration(value: object) -> object:
    """Our own spelling first; the ISO 8601 of a dumped setting is left to pydantic."""
    if not isinstance(value, str) or value.startswith("P"):
        return value
    try:
        return parse_duration(value)
    except ConfigInvalid as error:
        raise ValueError(str(error)) from error


Duration = Annotated[timedelta, BeforeValidator(_duration)]


class RetrainSettings(BaseModel):
    """One `[models.NAME.retrain]` table. Durations are text such as "14d"; they are spans of the model's clock."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trainer: str = Field(pattern=r"^[\w.]+:\w+$", description="module:function of train(frame) -> estimator")
    loader: str | None = Field(
        default=None, pattern=r"^[\w.]+:\w+$", description="module:function of load(window) -> frame"
    )
    target: str = Field(description="name of the label's column in the training frame")
    schedule: str | None = Field(default=None, description="cron with five fields, in UTC of the model's clock")
    windows: tuple[str, ...] = ("90d", "since-drift", "expanding")
    holdout: Duration = timedelta(days=14)
    maturity: Duration = timedelta(days=1)
    min_labels: int = Field(default=500, ge=30)
    max_rows: int = Field(default=90_000, ge=100, description="rows a trainer gets at most; a seeded sample beyond")
    margin: float = Field(default=0.01, gt=0, lt=0.5, description="non-inferiority margin in units of bounded loss")
    alpha: float = Field(default=0.05, gt=0, le=0.2)
    freshness: bool = Field(default=False, description="a scheduled successor need only be no worse")
    cooldown: Duration = timedelta(days=7)
    clock: Literal["wall", "event"] = "wall"
    seed: int = 0
    shadow_labels: int = Field(default=300, ge=30, description="paired labels before shadow may end")
    ab_weight: float = Field(default=0.5, gt=0, lt=1)
    ab_min_per_arm: int = Field(default=300, ge=30)
    ab_planned_per_arm: int = Field(default=3_000, ge=100)
    experiment_limit: Duration = timedelta(days=30)
    training_timeout_s: float = Field(default=900.0, gt=0)
    training_memory_mb: int = Field(default=8_192, ge=256)
    promotion: Literal["auto", "approve", "manual"] = "auto"
    gates: GateSettings = Field(default=GateSettings(), description="the table `[models.NAME.retrain.gates]`")

    @field_validator("windows")
    @classmethod
    def _known_windows(cls, found: tuple[str, ...]) -> tuple[str, ...]:
        for spec in found:
            if spec not in ("since-drift", "expanding"):
                _duration(spec)
        if not found:
            raise ValueError("name at least one window")
        return found


class WatchSettings(BaseModel):
    """One model: how it is watched, and how it is retrained if it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    retrain: RetrainSettings | None = None
    monitoring: MonitoringSettings = MonitoringSettings()
    retention_days: int | None = Field(default=None, ge=1, description="instead of the one for all models")


class WorkerSettings(BaseModel):
    """One worker process. Deployed models without a table of their own are watched with the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: dict[str, WatchSettings] = {}
    policy: LedgerPolicy = LedgerPolicy()
    host: str = "127.0.0.1"
    port: int = Field(default=8002, ge=0, le=65_535, description="of /metrics; 0 takes a free one")
    tick_s: float = Field(default=1.0, gt=0)
    lease_ttl_s: float = Field(default=10.0, gt=0.5)
    ledger_url: str = ""
    tracking_uri: str = ""
    lake_url: LakeUrl = ""
    retention_days: int | None = Field(default=None, ge=1, description="days of events that are kept; none: all")
    upkeep_s: float = Field(default=600.0, gt=0, description="pause between two rounds of upkeep of the event lake")
    signing_key: Path | None = Field(default=None, description="signs what retraining registers")
    allow_pickle: bool = Field(default=False, description="whether what becomes champion may be a pickle")
    trusted: tuple[str, ...] = Field(default=(), description="keys of which one must have signed what becomes champion")
    reports: bool = Field(default=True, description="write reports: on findings, and those that models ask for")
