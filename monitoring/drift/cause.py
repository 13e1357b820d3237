"""Why: drifted columns by how far they moved and how much the model heeds them, and which of them moved the score.

Both come from counts. The reference keeps, for every bin of a column, the mean score of its rows (`scores`); how much
of the score's variance lies between the bins is the column's importance, and the shift of the bins' shares, weighed by
those means, is how far the column by itself would have moved the score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monitoring.drift.windows import Window

__all__ = ["explain", "strengths"]


def explain(
    ranked: Sequence[Mapping[str, Any]], specs: Mapping[str, dict[str, Any]], closed: Sequence[Window]
) -> list[dict[str, Any]]:
    """The entries of `ranked` (column, psi, scale) with `importance` and `score_moved`, the likeliest cause first.

    A column without known importance counts as one of average importance.
    """
    strength = strengths({entry["column"]: entry["psi"] for entry in ranked}, specs)
    found = []
    for entry in ranked:
        spec = specs[entry["column"]]
        found.append({**entry, "importance": spec.get("importance"), "score_moved": _moved(spec, entry, closed)})
    return sorted(found, key=lambda cause: (-strength[cause["column"]], cause["column"]))


def strengths(effects: Mapping[str, float], specs: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """Effect times importance of each column; unknown importance counts as the average of those that are known.

    >>> specs = {"a": {"importance": 0.5}, "b": {"importance": 0.1}, "c": {}}
    >>> {name: round(value, 3) for name, value in strengths({"a": 0.1, "b": 0.4, "c": -0.2}, specs).items()}
    {'a': 0.05, 'b': 0.04, 'c': 0.0}
    """
    known = [spec["importance"] for spec in specs.values() if spec.get("importance") is not None]
    average = float(np.mean(known)) if known else 1.0
    weights = {name: specs[name].get("importance") for name in effects}
    return {
        name: max(effect, 0.0) * (average if (weight := weights[name]) is None else weight)
        for name, effect in effects.items()
    }


def _moved(spec: Mapping[str, Any], entry: Mapping[str, Any], closed: Sequence[Window]) -> float | None:
    means = spec.get("scores")
    if means is None:
        return None
    pool = np.sum([window.counts[entry["column"]] for window in closed[-entry["scale"] :]], axis=0, dtype=np.float64)
    old = np.asarray(spec["counts"], np.float64)
    if not pool.sum() or not old.sum():
        return None
    return round(float((pool / pool.sum() - old / old.sum()) @ np.asarray(means)), 6)
