"""The reference: histograms of the champion's validation rows, and the one function that counts by them.

A number's bins: 0 null, 1 infinite, 2 below the reference's minimum, 3 above its maximum, 4.. quantile bins.
A category's bins: 0 null, 1 unseen, 2 other (seen, not kept), 3.. the kept values.

Numbers are compared as float32, the platform's number type, so that a value lands in the same bin whether it
comes from training data (float64) or from a served request (float32).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from registry.contract import Contract, Output

MAX_CATEGORIES: Final = 50
MAX_OTHERS: Final = 1000
QUANTILES: Final = 10
BLOCK: Final = 100
HOURS: Final = 24
MIN_SEASON_ROWS: Final = 1000
SEASON_Z: Final = 4.5
RIDGE: Final = 10.0
"""Rows by which a bin's mean score is drawn to the mean of all."""
NULL: Final = 0
INFINITE: Final = 1
BELOW: Final = 2
ABOVE: Final = 3
UNSEEN: Final = 1
OTHER: Final = 2
FIRST_NUMBER: Final = 4
FIRST_CATEGORY: Final = 3

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Spec = dict[str, Any]


def build_reference(
    contract: Contract,
    frame: Any,
    score: Any,
    losses: Any,
    cap: float,
    metrics: Mapping[str, float],
    *,
    window: tuple[str | None, str | None] = (None, None),
    at: Any = None,
) -> dict[str, Any]:
    """Describe validation rows as the JSON object kept in `reference.json`.

    Columns whose policy is not "store" are left out: their values must not leave training, and the event log
    does not hold them.

    Args:
        frame: the validation rows, a pandas frame or a mapping of arrays; in order of time if they have one,
            because `null_peak` learns from it how nulls clump.
        score: predictions [N] of a regression, probabilities [N, K] of a classification.
        losses: bounded loss of each row (`registry.loss`).
        cap: the loss cap, in units of the label.
        metrics: metric values on the rows; "mae" or "log_loss" is kept, else the first.
        window: first and last event time of the rows, ISO 8601.
        at: event time of each row, unix seconds; then columns that follow the hour of the day keep `seasons`.
    """
    loss = np.asarray(losses, np.float64)
    hours = None if at is None else np.asarray(np.floor(np.asarray(at, np.float64) / 3600.0) % HOURS, np.int64)
    columns = {}
    for c in contract.columns:
        if c.policy == "store":
            data = texts(frame[c.name]) if c.dtype == "string" else numbers(frame[c.name])
            columns[c.name] = _category(data) if c.dtype == "string" else _number(data)
            columns[c.name]["null_peak"] = _null_peak(data)
            columns[c.name] |= _seasons(columns[c.name], data, hours) | _heeded(columns[c.name], data, score)
            columns[c.name] |= _lost(columns[c.name], data, loss)
    values = score_values(contract.output, score)
    spec = _number(values) if values.dtype != object else _category(values)
    spec |= _seasons(spec, values, hours)
    loss = loss[np.isfinite(loss)]
    wanted = "mae" if contract.output.kind == "regression" else "log_loss"
    metric = wanted if wanted in metrics else next(iter(metrics), wanted)
    return {
        "rows": len(values),
        "columns": columns,
        "score": spec,
        "quality": {
            "n": len(loss),
            "loss": float(loss.mean()) if len(loss) else None,
            "loss_sd": float(loss.std(ddof=1)) if len(loss) > 1 else None,
            "cap": float(cap),
            "metric": metric,
            "value": float(metrics[metric]) if metric in metrics else None,
        },
        "window": {"start": window[0], "end": window[1]},
    }


def score_values(output: Output, score: Any) -> npt.NDArray[Any]:
    """The one value per row whose distribution is watched.

    Regression: the prediction. Two classes: the probability of the second. More: the most probable class.
    """
    array = np.asarray(score)
    if output.kind == "regression" or array.ndim == 1 or array.shape[1] == 1:
        return array.astype(np.float64).ravel()
    if array.shape[1] == 2:
        return np.asarray(array[:, 1], np.float64)
    names = np.array([str(value) for value in output.classes], dtype=object)
    return np.asarray(names[np.argmax(array, axis=1)], dtype=object)


def bin_counts(spec: Spec, values: npt.NDArray[Any]) -> Counts:
    """Count one column by a reference's bins.

    Args:
        spec: `columns[name]` or `score` of the reference.
        values: floats with NaN for null, or objects with None or "" for null.

    >>> spec = {"kind": "number", "edges": [2.0], "minimum": 1.0, "maximum": 3.0, "counts": []}
    >>> bin_counts(spec, np.array([np.nan, 0.0, 1.0, 2.0, 3.0, 9.0])).tolist()
    [1, 0, 1, 1, 1, 2]
    """
    if spec["kind"] == "number":
        return _count_numbers(spec, numbers(values))
    return _count_categories(spec, values)


def numbers(column: Any) -> Floats:
    """A column as float64 rounded to float32; None and NA become NaN."""
    if hasattr(column, "isna"):  # pandas: its nullable types know how to spell a missing value
        array = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        array = np.asarray(column, dtype=np.float64)
    with np.errstate(over="ignore"):
        return np.asarray(array.astype(np.float32), np.float64)


def texts(column: Any) -> npt.NDArray[Any]:
    """A column as objects; every kind of missing value becomes None."""
    array = np.array(column, dtype=object)
    if hasattr(column, "isna"):
        array[np.asarray(column.isna(), bool)] = None
    return array


def _number(values: Floats) -> Spec:
    values = numbers(values)
    finite = np.sort(values[np.isfinite(values)])
    spec: Spec = {"kind": "number", "edges": bin_edges(finite), "minimum": None, "maximum": None}
    if len(finite):
        spec |= {"minimum": float(finite[0]), "maximum": float(finite[-1])}
    spec["counts"] = _count_numbers(spec, values).tolist()
    return spec


def bin_edges(ordered: Floats) -> list[float]:
    """Inner bin edges, at most nine, taken from the data.

    Few distinct values get a bin each. Otherwise quantiles; a value so frequent that several quantiles fall on
    it (zero rain) is fenced in by the next larger value instead, else its bin would swallow everything above.
    """
    if not len(ordered):
        return []
    distinct = np.unique(ordered)
    if len(distinct) <= QUANTILES:
        return [float(value) for value in distinct[1:]]
    shares = np.arange(1, QUANTILES) / QUANTILES
    found, repeats = np.unique(np.quantile(ordered, shares, method="inverted_cdf"), return_counts=True)
    heavy = found[(repeats > 1) | (found == ordered[0])]
    after = np.searchsorted(distinct, heavy, side="right")
    edges = np.union1d(found, distinct[after[after < len(distinct)]])
    return [float(edge) for edge in edges[edges > ordered[0]]]


def bins_of(spec: Spec, values: npt.NDArray[Any]) -> Counts:
    """The bin of each value; see `bin_counts`."""
    if spec["kind"] == "number":
        return _number_bins(spec, numbers(values))
    positions, default = _positions(spec)
    rows = values.tolist()
    by_value = {value: NULL if _missing(value) else positions.get(str(value), default) for value in set(rows)}
    return np.array([by_value[value] for value in rows], np.int64)


def bin_name(spec: Spec, position: int) -> str:
    """What the rows of a bin have in common, to be read by people.

    >>> spec = {"kind": "number", "edges": [2.0, 2.5], "minimum": 1.0, "maximum": 3.0}
    >>> [bin_name(spec, position) for position in (0, 3, 4, 5, 6)]
    ['null', 'above 3', '1 to 2', '2 to 2.5', '2.5 to 3']
    """
    if spec["kind"] == "category":
        special = ("null", "unseen", "other")
        return special[position] if position < FIRST_CATEGORY else str(spec["values"][position - FIRST_CATEGORY])
    low, high = spec["minimum"], spec["maximum"]
    if position < FIRST_NUMBER:
        below, above = ("none" if end is None else f"{end:g}" for end in (low, high))
        return ("null", "infinite", f"below {below}", f"above {above}")[position]
    ends = [low, *spec["edges"], high]
    first, last = ends[position - FIRST_NUMBER : position - FIRST_NUMBER + 2]
    if first is None:  # a reference without one finite value
        return "finite"
    return f"{first:g}" if first == last else f"{first:g} to {last:g}"


def _count_numbers(spec: Spec, values: Floats) -> Counts:
    bins = _number_bins(spec, values)
    return np.bincount(bins, minlength=FIRST_NUMBER + len(spec["edges"]) + 1).astype(np.int64)


def _number_bins(spec: Spec, values: Floats) -> Counts:
    edges = np.asarray(spec["edges"], np.float64)
    bins = np.searchsorted(edges, values, side="right") + FIRST_NUMBER
    low, high = spec["minimum"], spec["maximum"]
    # a reference without one finite value knows no range: whatever comes is above it
    bins[values < (low if low is not None else -np.inf)] = BELOW
    bins[values > (high if high is not None else -np.inf)] = ABOVE
    bins[np.isinf(values)] = INFINITE
    bins[np.isnan(values)] = NULL
    return np.asarray(bins, np.int64)


def _seasons(spec: Spec, values: npt.NDArray[Any], hours: npt.NDArray[np.int64] | None) -> Spec:
    """Counts by hour of the day, of a column that depends on it beyond doubt; nothing of any other.

    A column that does not would only be compared with fewer rows. Few rows tell nothing about hours either.
    """
    if hours is None or len(values) < MIN_SEASON_ROWS:
        return {}
    each = np.stack([bin_counts(spec, values[hours == hour]) for hour in range(HOURS)]).astype(np.float64)
    seen, held = each.sum(axis=1) > 0, each.sum(axis=0) > 0
    table = each[seen][:, held]
    df = (table.shape[0] - 1) * (table.shape[1] - 1)
    if df == 0:
        return {}
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / table.sum()
    found = [(float(((table - expected) ** 2 / expected).sum()), df)]
    if spec["kind"] == "number":  # hours that differ in their means show in far fewer degrees of freedom
        place = np.arange(table.shape[1])
        of_hour, of_all = (table @ place) / table.sum(axis=1), float((table.sum(axis=0) @ place) / table.sum())
        variance = float(table.sum(axis=0) @ (place - of_all) ** 2 / table.sum())
        found.append((float(table.sum(axis=1) @ (of_hour - of_all) ** 2) / variance, table.shape[0] - 1))
    follows = any(_normal(statistic, freedom) > SEASON_Z for statistic, freedom in found)
    return {"seasons": each.astype(np.int64).tolist()} if follows else {}


def _heeded(spec: Spec, values: npt.NDArray[Any], score: Any) -> Spec:
    """Mean score of every bin's rows, and the share of the score's variance that lies between the bins."""
    array = np.asarray(score, np.float64)
    if len(array) != len(values) or not len(array) or not np.isfinite(array).all():
        return {}
    array = array.reshape(len(array), -1)
    watched = array.max(axis=1) if array.shape[1] > 2 else array[:, -1]
    bins, width = bins_of(spec, values), len(spec["counts"])
    rows = np.bincount(bins, minlength=width)
    mean, variance = float(watched.mean()), float(watched.var())
    means = (np.bincount(bins, watched, minlength=width) + RIDGE * mean) / (rows + RIDGE)
    between = float(rows @ (means - mean) ** 2) / len(watched)
    return {"scores": means.tolist(), "importance": between / variance if variance > 0 else 0.0}


def _lost(spec: Spec, values: npt.NDArray[Any], losses: Floats) -> Spec:
    """Labelled rows of every bin, with mean and spread of their losses: what slices are compared with."""
    if len(losses) != len(values) or not np.isfinite(losses).any():
        return {}
    usable = np.isfinite(losses)
    bins, width, loss = bins_of(spec, values)[usable], len(spec["counts"]), losses[usable]
    rows = np.bincount(bins, minlength=width)
    held = np.maximum(rows, 1)
    mean = np.bincount(bins, loss, minlength=width) / held
    spread = np.sqrt(np.bincount(bins, (loss - mean[bins]) ** 2, minlength=width) / held)
    return {"losses": {"rows": rows.tolist(), "mean": mean.round(6).tolist(), "sd": spread.round(6).tolist()}}


def _normal(statistic: float, df: int) -> float:
    """Wilson and Hilferty's normal form of a chi-square variable."""
    return float(((statistic / df) ** (1 / 3) - (1 - 2 / (9 * df))) / math.sqrt(2 / (9 * df)))


def _null_peak(values: npt.NDArray[Any]) -> float:
    """Largest null share among blocks of consecutive rows: real nulls clump, and a test must know how much."""
    null = np.array([_missing(value) for value in values.tolist()], np.float64)
    whole = len(null) // BLOCK * BLOCK
    if not whole:
        return float(null.mean()) if len(null) else 0.0
    return float(null[:whole].reshape(-1, BLOCK).mean(axis=1).max())


def _category(values: npt.NDArray[Any]) -> Spec:
    """Bins of a category.

    With more levels than bins, the kept values are chosen on every fourth row and counted on the others:
    levels chosen on the rows they are counted on look more frequent than they are (200 equal levels: 40 % of
    the reference but 25 % of new rows), which a test would take for drift.
    """
    ranked = _ranked(values)
    counted = values
    kept = ranked[:MAX_CATEGORIES]
    if len(ranked) > MAX_CATEGORIES:
        chosen = np.arange(len(values)) % 4 == 0
        kept = _ranked(values[chosen])[:MAX_CATEGORIES]
        counted = values[~chosen]
    inside = set(kept)
    others = [value for value in ranked if value not in inside]
    spec: Spec = {"kind": "category", "values": kept, "others": others[:MAX_OTHERS]}
    # past the cap a rare seen value cannot be told from an unseen one, so nothing is called unseen
    spec["open"] = len(others) > MAX_OTHERS
    spec["counts"] = _count_categories(spec, counted).tolist()
    return spec


def _ranked(values: npt.NDArray[Any]) -> list[str]:
    """Distinct non-null values, most frequent first, ties by text: independent of the order of rows."""
    seen = Counter(str(value) for value in values.tolist() if not _missing(value))
    return sorted(seen, key=lambda value: (-seen[value], value))


def _count_categories(spec: Spec, values: npt.NDArray[Any]) -> Counts:
    positions, default = _positions(spec)
    counts = np.zeros(FIRST_CATEGORY + len(spec["values"]), np.int64)
    for value, times in Counter(values.tolist()).items():
        counts[NULL if _missing(value) else positions.get(str(value), default)] += times
    return counts


def _positions(spec: Spec) -> tuple[dict[str, int], int]:
    """Bins by category, and that of any other."""
    positions = dict.fromkeys(spec.get("others", ()), OTHER)
    positions |= {value: index + FIRST_CATEGORY for index, value in enumerate(spec["values"])}
    return positions, OTHER if spec.get("open") else UNSEEN


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))
