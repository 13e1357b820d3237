"""Settings of monitoring, one frozen value per model."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from monitoring.watching.known import KnownEvent

_OWN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
_DETECTOR = r"^(ladder|evidently|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$"


class MonitoringSettings(BaseModel):
    """How windows close, when drift is called, and how often a false alarm is acceptable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_rows: Annotated[int, Field(ge=20, description="a window closes at this many rows")] = 500
    window_max_age_s: Annotated[float, Field(gt=0, description="or at this event-time age, in seconds")] = 3600.0
    min_rows: Annotated[int, Field(ge=10, description="but never with fewer rows than this: it stays open")] = 100
    expected_days_between_false_alarms: Annotated[
        float, Field(ge=1, description="days of event time between false drift alarms of one model, at least")
    ] = 90.0
    psi_floor: Annotated[float, Field(ge=0, description="corrected PSI up to which a change is tolerated")] = 0.02
    confirm: Annotated[int, Field(ge=1, description="flagged windows, among the last `of`, that confirm")] = 2
    of: Annotated[int, Field(ge=1)] = 3
    clear: Annotated[int, Field(ge=1, description="clean windows in a row that end a confirmed state")] = 3
    esr_run_length: Annotated[float, Field(gt=10, description="mean labels between false performance alarms")] = (
        10_000.0
    )
    tolerance: Annotated[
        float, Field(ge=0.0, lt=1.0, description="loss increase that is accepted, in loss units (0..1)")
    ] = 0.02
    tolerance_relative: Annotated[
        float, Field(ge=0.0, lt=1.0, description="the same as a share of the loss; the larger counts")
    ] = 0.10
    label_lateness_s: Annotated[float, Field(ge=0, description="labels delivered within this are put in order")] = 60.0
    park_hours: Annotated[
        float, Field(gt=0, description="a label waits this long for its prediction's event, then it is given up")
    ] = 24.0
    max_pending: Annotated[int, Field(ge=100, description="predictions remembered while they wait for a label")] = (
        50_000
    )

    detector: Annotated[
        str, Field(pattern=_DETECTOR, description="what decides on drift: `ladder`, `evidently`, or `module:name`")
    ] = "ladder"
    daily_report: Annotated[bool, Field(description="write Evidently's report on every day that is over")] = False
    performance_report: Annotated[
        Literal["off", "daily", "weekly"], Field(description="write a report on every day, or week, that is over")
    ] = "weekly"
    metrics: Annotated[
        tuple[Annotated[str, Field(pattern=_OWN)], ...],
        Field(description="`module:name` of functions of labels and predictions, for these reports"),
    ] = ()
    known_events: Annotated[
        tuple[KnownEvent, ...],
        Field(description="spans (name, start, end, columns): drift is recorded, not raised"),
    ] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_rows > self.window_rows:
            raise ValueError("min_rows is larger than window_rows: no window could close; lower min_rows")
        if self.confirm > self.of:
            raise ValueError("confirm is larger than of: nothing could be confirmed; lower confirm")
        return self
