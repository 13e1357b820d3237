"""What the registry's timings are taken of: 10,000 flights with 30 columns, models of 200 trees."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor

from examples.flights import source

Subject = tuple[Any, pd.DataFrame, Any]
ROWS = 10_000
COLUMNS = 30
TREES = 200


def flights() -> tuple[pd.DataFrame, Any]:
    """Flights; the columns beyond their own are products of two of them."""
    table = source.flights().sample(ROWS, random_state=0).reset_index(drop=True)
    frame = table[[*source.INTEGERS, *source.WEATHER]].astype(np.float32)
    names = list(frame.columns)
    pairs = [(a, b) for n, a in enumerate(names) for b in names[n + 1 :]][: COLUMNS - len(names)]
    more = {f"{a}_{b}": frame[a] * frame[b] for a, b in pairs}
    return frame.assign(**more), table["air_time"].to_numpy(np.float64)


def forest() -> Subject:
    """A random forest whose leaves hold ten flights or more."""
    frame, labels = flights()
    made = RandomForestRegressor(TREES, min_samples_leaf=10, max_features=0.3, n_jobs=2, random_state=0)
    return made.fit(frame, labels), frame, labels


def histogram() -> Subject:
    """Histogram gradient boosting."""
    frame, labels = flights()
    made = HistGradientBoostingRegressor(max_iter=TREES, early_stopping=False, random_state=0)
    return made.fit(frame, labels), frame, labels


def cpu_seconds() -> float:
    """CPU time of this process: what a quiet machine would take at least."""
    return time.process_time()
