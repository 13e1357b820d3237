"""Thresholds in float32 that decide as they did in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def float32_floor(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The largest float32 not above each value, as float64."""
    nearest = values.astype(np.float32)
    lower = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest.astype(np.float64) > values, lower, nearest).astype(np.float64)
