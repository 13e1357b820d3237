"""The champion's realised loss as the monitor would see it: the same e-SR, fed as labels become known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime

from monitoring.settings import MonitoringSettings
from monitoring.watching.quality import ESR, null_level, update
from retrain.backtest.fits import Fit, Judge
from retrain.backtest.history import History, Rows, micros

__all__ = ["Watched"]


@dataclass(eq=False)
class Watched:
    """One champion since its deployment. A new champion is watched anew: an alarm stands until then."""

    fit: Fit
    since: datetime
    settings: MonitoringSettings
    confirmed: bool = field(default=False, init=False)
    _detector: ESR | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        level = null_level(self.fit.quality or {}, self.settings.tolerance, self.settings.tolerance_relative)
        self._detector = ESR(level) if level is not None else None

    @property
    def drift_at(self) -> datetime | None:
        """When the confirmed loss began, by the detector's own estimate."""
        if not self.confirmed or self._detector is None:
            return None
        return datetime.fromtimestamp(self._detector.since, UTC)

    def fold(self, history: History, judge: Judge, arrived: Rows, now: datetime) -> None:
        """Add the losses of rows whose labels arrived, in that order; those another version answered do not count."""
        if self._detector is None:
            return
        own = arrived[history.at[arrived] >= micros(self.since)]
        losses = judge.losses(self.fit, own, now)
        for loss, at in zip(losses.tolist(), history.at[own].tolist(), strict=True):
            if math.isfinite(loss):
                update(self._detector, loss, at / 1e6)
                self.confirmed = self.confirmed or self._detector.evalue >= self.settings.esr_run_length
