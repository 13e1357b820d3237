"""One policy's course through history: what serves, what began a run, what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from monitoring.settings import MonitoringSettings
from retrain.backtest.attempts import Attempt, attempt, blind
from retrain.backtest.fits import Fit, Fits, Judge
from retrain.backtest.history import Rows, micros
from retrain.backtest.policies import Policy
from retrain.backtest.watched import Watched
from retrain.trials.paired import log_paired_e
from retrain.trials.trial_settings import TrialSettings
from retrain.triggering.occasion import learnable_from, sample_time
from retrain.triggering.scheduler import next_fire
from retrain.triggering.triggers import Facts, PastRun, decide

__all__ = ["FORMER", "Lane", "Tenure"]

FORMER = 3
"""Latest other champions that compete, as in `retrain.triggering.occasion`."""
HARM_ALPHA = 0.01


@dataclass(frozen=True, slots=True)
class Tenure:
    """A version that served from `since` on; versions are numbered in the order in which they first served."""

    since: datetime
    version: int
    why: str


@dataclass(eq=False)
class Trial:
    """A candidate beside the champion on the same rows, since `began`."""

    fit: Fit
    name: str
    reason: str
    began: datetime
    d: list[float] = field(default_factory=list)


@dataclass(eq=False)
class Lane:
    """A policy with its champion, its runs and its moves. `turn` is one look at the clock.

    `errors` has one for each row of `played`, once the version that served it has gone or `finish` was called: only the
    champion and the versions that may come back are kept, however long the history is.
    """

    policy: Policy
    fits: Fits
    judge: Judge
    monitoring: MonitoringSettings
    first: Fit
    start: datetime
    played: Rows
    trial: TrialSettings | None = None
    tenures: list[Tenure] = field(default_factory=list, init=False)
    attempts: list[Attempt] = field(default_factory=list, init=False)
    labels: int = field(default=0, init=False)
    errors: NDArray[np.float64] = field(init=False)
    _versions: dict[int, Fit] = field(default_factory=dict, init=False)
    """What serves, last, and what served before it."""
    _watched: Watched = field(init=False)
    _chosen_at: datetime = field(init=False)
    """When the gates let the champion through: claims before that were claims against others."""
    _trial: Trial | None = field(default=None, init=False)
    _ended: datetime | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.errors = np.full(len(self.played), np.nan)
        self._chosen_at = self.start
        self._deploy(self.first, self.start, "the first version")

    @property
    def champion(self) -> Fit:
        """What serves."""
        return next(reversed(self._versions.values()))

    @property
    def held(self) -> list[Fit]:
        """Versions that may be asked again."""
        return [*self._versions.values(), *([self._trial.fit] if self._trial else [])]

    def turn(self, now: datetime, arrived: Rows) -> None:
        """Fold in the labels that became known, then do what is due."""
        if not self.policy.fits:
            return
        self.labels += len(arrived)
        if self.policy.performance:
            self._watched.fold(self.fits.history, self.judge, arrived, now)
        if self._trial is not None:
            self._look(self._trial, self.trial or TrialSettings(), arrived, now)
        reason = self._reason(now)
        if reason is not None:
            self._run(reason, now)

    def _reason(self, now: datetime) -> str | None:
        settings = self.fits.settings
        since = self.attempts[-1].at if self.attempts else self.start
        due = next_fire(settings.schedule, since, settings.timezone) if settings.schedule is not None else None
        if not self.policy.gate:
            return "schedule" if due is not None and due <= now else None
        sample = sample_time(settings, self.labels, self.start, now)
        facts = Facts(
            now=now,
            running=False,
            in_trial=self._trial is not None,
            data_quality="ok",
            performance="confirmed" if self._watched.confirmed else "ok",
            schedule_due=due,
            requested_at=None,
            request_reason="manual",
            labels=self.labels,
            past=[PastRun(a.at, a.outcome) for a in self.attempts[:-21:-1]],
            decided_at=self._ended,
            ready_at=learnable_from(settings, self._watched.drift_at, sample),
            patience=settings.holdout + settings.maturity,
        )
        cooldown = max(settings.cooldown, settings.maturity, sample)
        return decide(facts, cooldown=cooldown, min_labels=settings.min_labels, triggers=settings.triggers).reason

    def _run(self, reason: str, now: datetime) -> None:
        if self.policy.gate:
            found = attempt(
                self.fits,
                self.judge,
                self.champion,
                self._former(),
                now=now,
                reason=reason,
                drift_at=self._watched.drift_at,
                claims=sum(a.claimed and a.at.year == now.year and a.at > self._chosen_at for a in self.attempts),
            )
        else:
            found = blind(self.fits, now)
        self.attempts.append(replace(found, winner=None))  # what won is kept for as long as it may serve
        if found.outcome != "candidate" or found.winner is None:
            return
        if self.trial is not None and self.policy.gate:
            self._trial = Trial(found.winner, found.best, reason, now)
        else:
            self._chosen_at = now
            self._deploy(found.winner, now, f"{reason}: {found.best}")

    def _former(self) -> dict[str, Fit]:
        """The latest other champions, newest first, by name."""
        return {f"version {version}": fit for version, fit in list(reversed(self._versions.items()))[1:]}

    def _look(self, trial: Trial, rules: TrialSettings, arrived: Rows, now: datetime) -> None:
        """The paired test of the shadow stage, on rows that both answered; who is shown better stays."""
        own = arrived[self.fits.history.at[arrived] >= micros(trial.began)]
        d = self.judge.losses(self.champion, own, now) - self.judge.losses(trial.fit, own, now)
        trial.d += d[np.isfinite(d)].tolist()
        late = now - trial.began >= rules.limit
        if len(trial.d) < rules.shadow_labels and not late:
            return
        seen = np.array(trial.d)
        fresh = self.fits.settings.freshness and trial.reason == "schedule"
        if log_paired_e(seen, -rules.margin if fresh else 0.0) >= -math.log(rules.alpha):
            self._chosen_at = trial.began
            self._deploy(trial.fit, now, f"{trial.reason}: {trial.name}")
        elif not late and log_paired_e(-seen, 0.0) < -math.log(HARM_ALPHA):
            return
        self._trial, self._ended = None, now

    def _deploy(self, fit: Fit, now: datetime, why: str) -> None:
        if self.tenures:
            self._account(now)
        newest = max((tenure.version for tenure in self.tenures), default=0)
        version = next((number for number, known in self._versions.items() if known is fit), newest + 1)
        self._versions.pop(version, None)
        self._versions[version] = fit
        while len(self._versions) > 1 + FORMER * self.policy.gate:
            del self._versions[next(iter(self._versions))]
        self.tenures.append(Tenure(now, version, why))
        self._watched = Watched(fit, now, self.monitoring)

    def finish(self, end: datetime) -> None:
        """Make the accounts of what serves last."""
        self._account(end)

    def _account(self, until: datetime) -> None:
        """Errors of the rows that the champion answered; their labels may come later than the next decision."""
        since = self.tenures[-1].since
        at = self.fits.history.at[self.played]
        low, high = np.searchsorted(at, (micros(since), micros(until)))
        self.errors[low:high] = self.judge.errors(self.champion, self.played[low:high], None)
