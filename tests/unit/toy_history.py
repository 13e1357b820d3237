"""A history whose truth is known: a line that jumps, with labels that take their time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from monitoring.settings import MonitoringSettings
from retrain.backtest.history import History
from retrain.backtest.policies import chosen
from retrain.backtest.replay import Asked, replay
from retrain.backtest.result import Backtest
from retrain.settings import RetrainSettings

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
START, END = BEGIN + timedelta(days=40), BEGIN + timedelta(days=140)
DRIFT = BEGIN + timedelta(days=80)
A_DAY = 40
PLAN = RetrainSettings(
    trainer="tests.unit.toy_history:line",
    loader="tests.unit.toy_history:rows",
    target="y",
    windows=("30d", "since-drift"),
    holdout=timedelta(days=8),
    maturity=timedelta(days=1),
    cooldown=timedelta(days=5),
    min_labels=100,
)
WATCH = MonitoringSettings(min_rows=50)


def rows(window: Any = None, *, drift: datetime | None = DRIFT, seed: int = 0, delay: timedelta | None = None) -> Any:
    """y = a + b + noise; from `drift` on 3 more. With `delay` each label is known that much after its row."""
    generator = np.random.default_rng(seed)
    n = A_DAY * 140
    at = pd.Series([BEGIN + timedelta(days=i / A_DAY) for i in range(n)])
    a, b = generator.normal(size=(2, n))
    jump = 3.0 * (at >= drift).to_numpy() if drift is not None else 0.0
    frame = pd.DataFrame({"a": a, "b": b, "y": a + b + jump + generator.normal(0, 0.5, n), "_at": at})
    return frame if delay is None else frame.assign(_label_at=at + delay)


def line(frame: Any) -> Any:
    """A straight line."""
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit(frame.drop(columns="y"), frame["y"])


def history(**more: Any) -> History:
    """The same as a history."""
    return History.of(rows(**more), target="y", maturity=PLAN.maturity)


def replayed(found: History, *policies: str, plan: RetrainSettings = PLAN, train: Any = line, **more: Any) -> Backtest:
    """The policies on a history."""
    known = chosen(policies, scheduled=plan.schedule is not None)
    return replay(found, Asked(START, END, known, **more), plan, WATCH, train=train, model="toy")
