"""The replay: all policies walk through history side by side, so that a window is fitted once and then forgotten."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from monitoring.settings import MonitoringSettings
from registry.errors import ConfigInvalid, PereneError, TrainingFailed
from retrain.backtest.fits import Fit, Fits, Judge, Trainer, cap_of
from retrain.backtest.history import History, Rows, micros
from retrain.backtest.lane import Lane
from retrain.backtest.policies import Policy
from retrain.backtest.result import Backtest, Course, Month, Move, Run
from retrain.settings import RetrainSettings
from retrain.training.windows import Plan, Window, plan
from retrain.trials.trial_settings import TrialSettings

__all__ = ["Asked", "Report", "first_plan", "replay"]

Report = Callable[[int, int, int], None]
"""Told how far it is: steps done, steps in all, rows seen."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is replayed. `sample` is the share of rows that are served; trainers still see all of them.

    With `trial` what passes the gates is promoted after a paired trial under these rules.
    """

    start: datetime
    end: datetime
    policies: tuple[Policy, ...]
    step: timedelta = timedelta(hours=6)
    sample: float = 1.0
    seed: int = 0
    trial: TrialSettings | None = None

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise ConfigInvalid("the span ends before it begins", where="to", expected="a day after --from")
        if not 0.0 < self.sample <= 1.0:
            raise ConfigInvalid("the sample is no share", where="sample", expected="more than 0, at most 1")
        if self.step <= timedelta(0):
            raise ConfigInvalid("the step is no time", where="step", expected="for example 6h")


def first_plan(settings: RetrainSettings, start: datetime) -> Plan:
    """Where the first version learns and is accepted: as a run at `start` would, from the first window."""
    return plan(settings.windows[:1], start, holdout=settings.holdout, maturity=settings.maturity)


def replay(
    history: History,
    asked: Asked,
    settings: RetrainSettings,
    monitoring: MonitoringSettings,
    *,
    train: Trainer,
    model: str,
    report: Report | None = None,
) -> Backtest:
    """Walk through history under each policy. The same arguments give the same result.

    Raises:
        TrainingFailed: no rows in the span, or the first version cannot be made.
    """
    report = report or (lambda reached, total, rows: None)
    played = _played(history, asked)
    fits = Fits(history, settings, train, model, seed=asked.seed)
    report(0, 1, 0)  # from here on an interruption ends at the next step
    with threadpool_limits(_threads(), user_api="openmp"):
        return _walk(history, asked, fits, monitoring, played, report)


def _threads() -> int:
    """One, as in the worker's training child: threads that spin beside busy neighbours cost more than they bring."""
    import sklearn.ensemble  # noqa: F401  # brings its OpenMP: a limit reaches only what is loaded

    return int(os.environ.get("OMP_NUM_THREADS") or 1)


def _walk(
    history: History, asked: Asked, fits: Fits, monitoring: MonitoringSettings, played: Rows, report: Report
) -> Backtest:
    first, judge = _first(history, fits, asked.start)
    lanes = [
        Lane(policy, fits, judge, monitoring, first, asked.start, played, trial=asked.trial)
        for policy in asked.policies
    ]
    order = played[np.argsort(history.known_at[played], kind="stable")]
    arrivals = history.known_at[order]
    steps = max(-(-(asked.end - asked.start) // asked.step), 1)
    seen = 0
    for number in range(1, steps):  # what is decided at the end serves nobody
        now = asked.start + number * asked.step
        upto = int(np.searchsorted(arrivals, micros(now), side="right"))
        for lane in lanes:
            lane.turn(now, order[seen:upto])
        seen = upto
        fits.forget([fit for lane in lanes for fit in lane.held])
        report(number, steps, upto)
    report(steps, steps, len(played))
    for lane in lanes:
        lane.finish(asked.end)
    courses = _courses(history, played, lanes)
    window = first.window.window
    return Backtest(
        model=fits.model,
        kind=first.contract.output.kind,
        start=asked.start,
        end=asked.end,
        first=(window.start, window.end),
        promotion="a paired trial after the gates" if asked.trial else "by the gates alone",
        seed=asked.seed,
        rows=len(played),
        fits=fits.made,
        policies=courses,
    )


def _played(history: History, asked: Asked) -> Rows:
    """The rows that are served, drawn by seed."""
    rows = history.between(Window(asked.start, asked.end))
    if not len(rows):
        raise TrainingFailed(
            "there is no labelled row in this span",
            where="loader",
            expected=f"rows from {asked.start:%Y-%m-%d} to {asked.end:%Y-%m-%d}",
            hint="choose --from and --to within the loader's data",
        )
    drawn = np.random.default_rng(asked.seed).random(len(rows)) < asked.sample
    return rows[drawn] if drawn.any() else rows[:1]


def _first(history: History, fits: Fits, start: datetime) -> tuple[Fit, Judge]:
    """The version that all policies begin with, and the scale of losses that comes with it."""
    settings = fits.settings
    laid = first_plan(settings, start)
    window, holdout = laid.train[0], history.learnable(laid.holdout, start)
    rows = history.learnable(window.window, start)
    least = min(len(rows), len(holdout))
    if least < settings.min_labels:
        raise TrainingFailed(
            f"the first version would have {len(rows)} rows to learn from and {len(holdout)} to be accepted on",
            where="from",
            expected=f"{settings.min_labels} of each before {start:%Y-%m-%d}",
            hint="begin later, or lower min_labels",
        )
    if pd.unique(history.truth(rows, start)).size < 2:
        raise TrainingFailed(
            "the first version's labels are all the same", where="from", expected="two values or more before it"
        )
    try:
        fit = fits.fit(window, start)
        if fit is None:  # counted above
            raise TrainingFailed("the first window has too few rows", where="from")
        errors = Judge(history, 1.0).errors(fit, holdout, start)
    except PereneError:
        raise
    except Exception as error:  # the user's trainer: whatever it raises, there is nothing to begin with
        raise TrainingFailed(
            f"the trainer failed on the first window: {type(error).__name__}", where=settings.trainer
        ) from error
    fit.blocks.clear()
    judge = Judge(history, cap_of(errors) if fit.contract.output.kind == "regression" else 1.0)
    judge.accept(fit, holdout, start)
    return fit, judge


def _courses(history: History, played: Rows, lanes: Sequence[Lane]) -> tuple[Course, ...]:
    months = pd.to_datetime(history.at[played], unit="us").strftime("%Y-%m").to_numpy()
    base = float(lanes[0].errors.mean())  # the first lane is `never`
    return tuple(_course(lane, months, base) for lane in lanes)


def _course(lane: Lane, months: NDArray[np.object_], base: float) -> Course:
    errors, fits = lane.errors, sum(a.fits for a in lane.attempts)
    mean = float(errors.mean())
    return Course(
        policy=lane.policy.name,
        rows=len(errors),
        error=mean,
        months=tuple(
            Month(m, int((months == m).sum()), float(errors[months == m].mean())) for m in sorted(set(months))
        ),
        fits=fits,
        deployments=len(lane.tenures) - 1,
        gained=base - mean,
        gained_per_fit=(base - mean) / fits if fits else None,
        runs=tuple(Run(a.at, a.reason, a.outcome, a.why, a.fits, a.best) for a in lane.attempts),
        moves=tuple(Move(t.since, t.version, t.why) for t in lane.tenures[1:]),
    )
