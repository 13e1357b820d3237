"""What a monitor knows, as it is saved."""

from __future__ import annotations

import msgspec

from monitoring.drift.verdict import Verdict
from monitoring.drift.windows import Window
from monitoring.watching import labels as join
from monitoring.watching import quality
from monitoring.watching.slices import Slices

__all__ = ["Gauges", "MonitorState"]


class Gauges(msgspec.Struct):
    """Facts of the newest closed window."""

    psi: dict[str, dict[str, float]] = {}
    flagged: list[str] = []
    null_ratio: dict[str, float] = {}
    unseen_ratio: dict[str, float] = {}


class MonitorState(msgspec.Struct):
    """All a monitor knows; `reference` is the digest of what its counts were made with."""

    format: int
    model: str
    version: int
    reference: str
    detector: quality.ESR | None
    consumed: list[str] = []
    marks: dict[str, int] = {}
    open: Window = msgspec.field(default_factory=Window)
    closed: list[Window] = []
    windows: int = 0
    verdicts: dict[str, Verdict] = {}
    book: join.Book = msgspec.field(default_factory=join.Book)
    gauges: Gauges = msgspec.field(default_factory=Gauges)
    last_event: float | None = None
    slices: Slices = msgspec.field(default_factory=Slices)
