"""Why: drifted columns by how far they moved and how much the model heeds them, and which of them moved the score.

Both come from counts. The reference keeps, for every bin of a column, the mean score of its rows (`scores`); how much
of the score's variance lies between the bins is the column's importance, and the shift of the bins' shares, weighed by
those means, is how far the column by itself would have moved the score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monitoring.windows import Window

__all__ = ["explain"]


def explain(
    ranked: Sequence[Mapping[str, Any]], specs: Mapping[str, dict[str, Any]], closed: Sequence[Window]
) -> list[dict[str, Any]]:
    """The entries of `ranked` (column, psi, scale) with `importance` and `score_moved`, the likeliest cause first.

    A column without known importance counts as one of average importance.
    """
    known = [spec["importance"] for spec in specs.values() if spec.get("importance") is not None]
    average = float(np.mean(known)) if known else 1.0
    found = []
    for entry in ranked:
        spec = specs[entry["column"]]
        importance = spec.get("importance")
        weight = average if importance is None else importance
        cause = {**entry, "importance": importance, "score_moved": _moved(spec, entry, closed)}
        found.append((max(entry["psi"], 0.0) * weight, cause))
    return [cause for _, cause in sorted(found, key=lambda item: (-item[0], item[1]["column"]))]


def _moved(spec: Mapping[str, Any], entry: Mapping[str, Any], closed: Sequence[Window]) -> float | None:
    means = spec.get("scores")
    if means is None:
        return None
    pool = np.sum([window.counts[entry["column"]] for window in closed[-entry["scale"] :]], axis=0, dtype=np.float64)
    old = np.asarray(spec["counts"], np.float64)
    if not pool.sum() or not old.sum():
        return None
    return round(float((pool / pool.sum() - old / old.sum()) @ np.asarray(means)), 6)
