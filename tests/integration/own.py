"""Metrics and a statistic of somebody's own."""

from __future__ import annotations

from typing import Any

import numpy as np

from monitoring.drift.detectors import Statistic


def half(y: Any, prediction: Any) -> float:
    """Share of predictions within half a unit."""
    return float(np.mean(np.abs(y - prediction) <= 0.5))


def fails(y: Any, prediction: Any) -> float:
    """A metric that never works."""
    raise KeyError("secret")


ASKED = 0
FAILS_ON = 0


def sometimes(spec: Any, window: Any, reference: Any) -> float:
    """A distance that fails when it is asked for the time `FAILS_ON`."""
    global ASKED  # noqa: PLW0603 - a test sets both
    ASKED += 1
    if ASKED == FAILS_ON:
        raise RuntimeError
    return 0.0


far = Statistic(sometimes, 0.5)
