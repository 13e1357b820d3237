"""Declared events (a sale, a strike, a move to another supplier): drift in their span is recorded and alarms nobody."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["KnownEvent", "event_at"]


class KnownEvent(BaseModel):
    """A span of event time in which inputs are expected to differ; times without a zone are UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=100)]
    start: datetime
    end: datetime
    columns: Annotated[tuple[str, ...], Field(description="only these columns; empty: all")] = ()

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if _utc(self.end) <= _utc(self.start):
            raise ValueError("a known event ends after it starts; swap its times")
        return self


def event_at(events: Sequence[KnownEvent], at: float, columns: Sequence[str]) -> KnownEvent | None:
    """The first event that covers this event time (unix seconds) and every one of these columns."""
    moment = datetime.fromtimestamp(at, UTC)
    for event in events:
        covered = not event.columns or set(columns) <= set(event.columns)
        if covered and _utc(event.start) <= moment <= _utc(event.end):
            return event
    return None


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
