"""What one model's owner decides about its retraining."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from monitoring.lake.lake_root import LakeUrl
from monitoring.settings import MonitoringSettings
from registry.errors import ConfigInvalid
from registry.policy import LedgerPolicy
from retrain.duration import Duration, read_duration
from retrain.gates.settings import GateSettings
from retrain.trials.trial_settings import TrialSettings

__all__ = ["RetrainSettings", "WatchSettings", "WorkerSettings"]


class RetrainSettings(BaseModel):
    """One `[models.NAME.retrain]` table. Durations are text such as "14d"; they are spans of the model's clock."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trainer: str = Field(pattern=r"^[\w.]+:\w+$", description="module:function of train(frame) -> estimator")
    loader: str | None = Field(
        default=None, pattern=r"^[\w.]+:\w+$", description="module:function of load(window) -> frame"
    )
    target: str = Field(description="name of the label's column in the training frame")
    schedule: str | None = Field(default=None, description="cron with five fields, on the model's clock")
    timezone: str = Field(default="UTC", description="whose clocks the schedule means, for example Europe/Berlin")
    triggers: tuple[Literal["performance", "alert", "volume", "estimated"], ...] = Field(
        default=("performance", "alert"), description="what brings the next run forward, beside schedule and requests"
    )
    volume: float = Field(default=0.2, gt=0, description="share of new labelled rows that the trigger volume asks for")
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
    engine: Literal["process", "ray", "webhook"] = Field(
        default="process", description="who trains: the run's own process, tasks of Ray, or an external engine"
    )
    webhook_url: str = Field(default="", description="of the external engine, which is told where the rows are")
    webhook_hosts: tuple[str, ...] = Field(
        default=(), description="hosts that may be told at private addresses, and over plain HTTP"
    )
    webhook_timeout: Duration = Field(default=timedelta(days=1), description="time for its answer")
    callback_url: str = Field(default="", description="of our server, as the external engine reaches it")
    ray_address: str = Field(default="local", description="of the Ray cluster; `local` starts one for the run")
    search: str | None = Field(
        default=None, pattern=r"^[\w.]+:\w+$", description="module:function of search(trial) -> parameters of train"
    )
    search_trials: int = Field(default=30, ge=1, le=10_000, description="trials of the search at most")
    search_seconds: float = Field(default=300.0, gt=0, description="time for all of them")
    folds: int = Field(default=3, ge=0, le=10, description="folds in the order of time whose losses are logged")
    training_timeout_s: float = Field(default=900.0, gt=0)
    training_memory_mb: int = Field(default=8_192, ge=256)
    gates: GateSettings = Field(default=GateSettings(), description="the table `[models.NAME.retrain.gates]`")

    @model_validator(mode="after")
    def _fires(self) -> RetrainSettings:
        if self.schedule is not None:
            from retrain.triggering.scheduler import next_fire  # APScheduler, which only a schedule needs

            try:
                next_fire(self.schedule, datetime.now(UTC), self.timezone)
            except ConfigInvalid as error:
                raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _engine_is_named(self) -> RetrainSettings:
        if self.engine == "webhook" and not (self.webhook_url and self.callback_url):
            raise ValueError("an external engine needs webhook_url and callback_url")
        return self

    @field_validator("windows")
    @classmethod
    def _known_windows(cls, found: tuple[str, ...]) -> tuple[str, ...]:
        for spec in found:
            if spec not in ("since-drift", "expanding"):
                read_duration(spec)
        if not found:
            raise ValueError("name at least one window")
        return found


class WatchSettings(BaseModel):
    """One model: how it is watched, and how it is retrained if it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    retrain: RetrainSettings | None = None
    trial: TrialSettings = Field(default=TrialSettings(), description="the table `[models.NAME.trial]`")
    monitoring: MonitoringSettings = MonitoringSettings()
    retention_days: int | None = Field(default=None, ge=1, le=36_500, description="instead of the one for all models")


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
    retention_days: int | None = Field(
        default=None, ge=1, le=36_500, description="days of events that are kept; none: all"
    )
    upkeep_s: float = Field(default=600.0, gt=0, description="pause between two rounds of upkeep of the event lake")
    signing_key: Path | None = Field(default=None, description="signs what retraining registers")
    allow_pickle: bool = Field(default=False, description="whether what becomes champion may be a pickle")
    trusted: tuple[str, ...] = Field(default=(), description="keys of which one must have signed what becomes champion")
    hook_secret: str = Field(default="", repr=False, description="signs hand-overs to external engines")
    runs_at_once: int = Field(default=1, ge=1, le=64, description="retraining runs of all models at the same time")
    reports: bool = Field(default=True, description="write reports: on findings, and those that models ask for")
