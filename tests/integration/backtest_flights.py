"""Every twelfth flight and a smaller trainer: the real year within seconds."""

from __future__ import annotations

import time
from typing import Any

from examples.flights import data

TOML = """
[models.small.retrain]
trainer = "tests.integration.backtest_flights:train"
loader = "tests.integration.backtest_flights:load"
target = "air_time"
schedule = "0 6 1 * *"
windows = ["90d", "since-drift", "expanding"]
min_labels = 200
seed = 7

[models.raising.retrain]
trainer = "tests.integration.backtest_flights:train"
loader = "tests.integration.backtest_flights:raising"
target = "air_time"

[models.timeless.retrain]
trainer = "tests.integration.backtest_flights:train"
loader = "tests.integration.backtest_flights:timeless"
target = "air_time"

[models.slow.retrain]
trainer = "tests.integration.backtest_flights:slow"
loader = "tests.integration.backtest_flights:load"
target = "air_time"
schedule = "0 6 * * *"
min_labels = 200

[models.unloaded.retrain]
trainer = "tests.integration.backtest_flights:train"
target = "air_time"
"""


def load(window: Any) -> Any:
    """Every twelfth flight of a window."""
    return data.load(window).iloc[::12]


def train(frame: Any) -> Any:
    """The example's pipeline with fewer, smaller trees."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    from examples.flights.trainer import _pipeline

    model = HistGradientBoostingRegressor(max_iter=25, max_leaf_nodes=15, early_stopping=False, random_state=0)
    return _pipeline(model).fit(frame[data.features], frame["air_time"])


def slow(frame: Any) -> Any:
    """Takes its time, and says that it has begun."""
    print("fitting", flush=True)
    time.sleep(0.5)
    return train(frame)


def raising(window: Any) -> Any:
    """A loader whose text must not reach anybody."""
    raise KeyError("a secret of a customer")


def timeless(window: Any) -> Any:
    """Rows without their times."""
    return load(window).drop(columns="_at")
