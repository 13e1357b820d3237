"""The paired comparison of shadow: candidate and champion answered the same request, and its label is known.

Differences are champion loss - candidate loss, in [-1, 1], in the order in which their labels became known. Nothing is
assumed of them but their bounds: the e-values are exact after any number of labels.

Source: betting on bounded means, Waudby-Smith, Ramdas 2024.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from retrain.trials.sequential import Interval

__all__ = ["log_paired_e", "paired_interval", "paired_path"]

_STEPS = 26  # halvings of [-1, 1]: to 3e-8, and outward


def paired_path(d: NDArray[np.float64], m0: float) -> NDArray[np.float64]:
    """Log wealth after each difference, betting against H0: E[d] <= m0 for d in [-1, 1], in the order given.

    Each bet uses the past only: lambda = clip((mean - m0) / (var + (mean - m0)^2), 0, 0.5 / (1 + m0)). Rows of a
    matrix are trials of their own.
    """
    x = np.asarray(d, dtype=np.float64) - m0
    n = np.arange(x.shape[-1], dtype=np.float64)  # how many are past
    past = np.cumsum(x, axis=-1) - x
    past_sq = np.cumsum(x * x, axis=-1) - x * x
    mean = past / (n + 1.0)  # shrunk to the null by one observation
    var = np.maximum((past_sq + 0.25) / (n + 1.0) - mean * mean, 1e-12)
    bet = np.clip(mean / (var + mean * mean), 0.0, 0.5 / (1.0 + m0))
    path: NDArray[np.float64] = np.cumsum(np.log1p(bet * x), axis=-1)
    return path


def log_paired_e(d: NDArray[np.float64], m0: float) -> float:
    """Log e-value against H0: E[d] <= m0, the last value of `paired_path`; for harm give `-d`."""
    path = paired_path(d, m0)
    return float(path[-1]) if path.size else 0.0


def paired_interval(d: NDArray[np.float64], alpha: float) -> Interval:
    """Two-sided 1 - alpha confidence sequence of E[d]: the means that neither bet rejects at alpha / 2.

    It holds at every look, which an interval of 1.96 standard errors does not.
    """
    x = np.asarray(d, dtype=np.float64)
    if not x.size:
        return Interval(-1.0, 1.0)
    return Interval(_lower(x, alpha / 2.0), -_lower(-x, alpha / 2.0))


def _lower(x: NDArray[np.float64], alpha: float) -> float:
    """The largest mean still rejected as too low: wealth falls as the mean that is bet against rises."""
    bar = -math.log(alpha)
    low, high = -1.0 + 1e-6, float(np.clip(x.mean(), -1.0 + 1e-6, 1.0))
    if log_paired_e(x, low) < bar:
        return -1.0
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        if log_paired_e(x, middle) >= bar:
            low = middle
        else:
            high = middle
    return low
