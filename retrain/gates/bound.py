"""A mean with its error, as a gate keeps it: enough for a one-sided bound, and small enough for a row of evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from retrain.gates.gates import PairedSample

__all__ = ["bound", "summary"]

Floats = NDArray[np.float64]


def summary(differences: Floats, blocks: NDArray[np.int64]) -> dict[str, Any]:
    """Rows, mean, standard error and degrees of freedom of per-row differences, by time block.

    >>> summary(np.array([0.1, 0.3]), np.array([0, 0]))["dof"]
    1
    """
    found = PairedSample.of(differences, np.zeros_like(differences), blocks)
    if found.n < 2:
        return {"n": found.n, "mean": found.mean, "se": 0.0, "dof": 0}
    error, dof = found.standard_error()
    return {"n": found.n, "mean": found.mean, "se": error, "dof": dof}


def bound(entry: Mapping[str, Any], alpha: float, side: Literal["lower", "upper"]) -> float:
    """The one-sided bound of the mean at error `alpha`."""
    if int(entry["dof"]) < 1:
        return float("-inf") if side == "lower" else float("inf")
    reach = float(stdtrit(int(entry["dof"]), 1.0 - alpha)) * float(entry["se"])
    return float(entry["mean"]) + (reach if side == "upper" else -reach)
