"""Where the loss rose: losses of one column's value at a time, beside the reference's losses of the same value.

A slice is a bin of a stored column in the reference: a category's value, a range of a number. Declared columns
(`Facts.slices`) have a detector for each of their slices. Of all columns that are looked at, the slices that are
worse beyond doubt are named; with as many as there are, the worst of them by its mean would be one of chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from monitoring.settings import MonitoringSettings
from monitoring.watching import quality
from registry.reference import bin_name, bins_of

__all__ = ["Slices", "add", "alarm_facts", "begin", "columns_of", "declared_facts", "parts", "threshold", "worst"]

MOST_COLUMNS: Final = 20
"""Columns looked at: the declared ones, then those that the score depends on most."""
REMEMBERED: Final = 2_000
"""Labels among which the worst slices are looked for."""
DECLARED_ROWS: Final = 100
"""Labelled rows of the reference below which a declared slice has no detector: its level would be noise."""
LEAST: Final = 30
"""Labels, and rows of the reference, below which a slice is not compared."""
DOUBT: Final = 0.05
"""Chance that any slice at all is named while none is worse."""
SHOWN: Final = 5


class Slices(msgspec.Struct):
    """Detectors of declared slices by `bin:column`; of the newest labels the loss, and the bin of every column."""

    detectors: dict[str, quality.ESR] = {}
    losses: list[float] = []
    parts: list[bytes] = []


def columns_of(reference: Mapping[str, Any]) -> tuple[str, ...]:
    """Columns that are looked at: the declared ones, then the most important ones, whose losses are known."""
    known = {name: spec for name, spec in reference["columns"].items() if "losses" in spec}
    first = [name for name in _declared(reference) if name in known]
    rest = sorted(known.keys() - set(first), key=lambda name: (-(known[name].get("importance") or 0.0), name))
    return (*first, *rest[: max(MOST_COLUMNS - len(first), 0)])


def begin(reference: Mapping[str, Any], settings: MonitoringSettings) -> Slices:
    """Nothing seen yet: a detector for every declared slice with enough rows in the reference."""
    spread = reference["quality"].get("loss_sd") or 0.0
    found = Slices()
    for name in _declared(reference):
        known = reference["columns"].get(name, {}).get("losses")
        if known is None:
            continue
        for position, rows in enumerate(known["rows"]):
            # few rows may all be alike: their own spread says too little then
            loss = {"n": rows, "loss": known["mean"][position], "loss_sd": max(known["sd"][position], spread)}
            level = quality.null_level(loss, settings.tolerance, settings.tolerance_relative)
            if rows >= DECLARED_ROWS and level is not None:
                found.detectors[f"{position}:{name}"] = quality.ESR(level)
    return found


def parts(
    reference: Mapping[str, Any], names: tuple[str, ...], values: Mapping[str, npt.NDArray[Any]], rows: int
) -> list[bytes]:
    """Of each row the bin of every column, a byte each: the reference has fewer than 256."""
    if not names:
        return [b""] * rows
    bins = [bins_of(reference["columns"][name], values[name]).astype(np.uint8) for name in names]
    return [row.tobytes() for row in np.stack(bins, axis=1)]


def add(state: Slices, names: tuple[str, ...], part: bytes, *, loss: float, at: float, run_length: float) -> bool:
    """One label's loss, of a prediction made at event time `at`; returns whether a slice of it alarms now."""
    if not names or len(part) != len(names):  # a prediction remembered before there were slices
        return False
    loud = False
    if state.detectors:
        limit = threshold(state, run_length)
        for name, position in zip(names, part, strict=True):
            detector = state.detectors.get(f"{position}:{name}")
            if detector is not None:
                quality.update(detector, loss, at)
                loud |= detector.evalue >= limit
    state.losses.append(loss)
    state.parts.append(part)
    if len(state.losses) > REMEMBERED:
        del state.losses[0], state.parts[0]
    return loud


def threshold(state: Slices, run_length: float) -> float:
    """e-value at which one declared slice alarms: with many of them each has to be surer."""
    return run_length * max(len(state.detectors), 1)


def alarm_facts(state: Slices, reference: Mapping[str, Any]) -> dict[str, Any]:
    """Which declared slice has most evidence that its loss rose, and since when (event time, unix seconds)."""
    key = max(state.detectors, key=lambda k: state.detectors[k].evalue)
    column, value = _named(key, reference)
    return {"slice": {"column": column, "value": value}, "since": state.detectors[key].since}


def declared_facts(state: Slices, reference: Mapping[str, Any], run_length: float) -> list[dict[str, Any]]:
    """The declared slices with most evidence, with what alarms."""
    limit = threshold(state, run_length)
    found = []
    for key in sorted(state.detectors, key=lambda k: (-state.detectors[k].evalue, k))[:SHOWN]:
        column, value = _named(key, reference)
        d = state.detectors[key]
        known = {"column": column, "value": value, "labels": d.labels, "null_level": d.null_level}
        found.append({**known, "evalue": d.evalue, "threshold": limit})
    return found


def worst(state: Slices, reference: Mapping[str, Any], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Slices whose loss rose beyond doubt, by the lower bound of the rise; none where that may be chance.

    The bound allows for all slices looked at (Bonferroni), and for the reference's own uncertainty.
    """
    if not names or len(state.losses) < LEAST:
        return []
    losses = np.asarray(state.losses)
    table = np.frombuffer(b"".join(state.parts), np.uint8).reshape(len(losses), len(names))
    found = [c for i, name in enumerate(names) for c in _compared(name, reference, table[:, i], losses)]
    if not found:
        return []
    z = NormalDist().inv_cdf(1.0 - DOUBT / len(found))
    for entry in found:
        entry["excess_low"] = entry["excess"] - z * entry.pop("error")
    worse = sorted((e for e in found if e["excess_low"] > 0), key=lambda e: (-e["excess_low"], e["column"], e["value"]))
    return [{k: round(v, 6) if isinstance(v, float) else v for k, v in e.items()} for e in worse[:SHOWN]]


def _compared(
    name: str, reference: Mapping[str, Any], bins: npt.NDArray[np.uint8], losses: npt.NDArray[np.float64]
) -> list[dict[str, Any]]:
    spec = reference["columns"][name]
    known, width = spec["losses"], len(spec["counts"])
    rows = np.bincount(bins, minlength=width)
    mean = np.bincount(bins, losses, minlength=width) / np.maximum(rows, 1)
    square = np.bincount(bins, losses**2, minlength=width) / np.maximum(rows, 1)
    # no slice is taken for surer than the mean one: thirty equal losses have no spread at all
    variance = np.maximum(square - mean**2, losses.var())
    before = max(float(reference["quality"].get("loss_sd") or 0.0), 0.0) ** 2
    found = []
    for position in np.flatnonzero((rows >= LEAST) & (np.asarray(known["rows"]) >= LEAST)).tolist():
        old, n, m = known["mean"][position], int(rows[position]), known["rows"][position]
        error = float(np.sqrt(variance[position] / n + max(known["sd"][position] ** 2, before) / m))
        entry = {"column": name, "value": bin_name(spec, position), "labels": n, "loss": float(mean[position])}
        found.append({**entry, "reference_loss": old, "excess": float(mean[position]) - old, "error": error})
    return found


def _declared(reference: Mapping[str, Any]) -> list[str]:
    slices = reference.get("baseline", {}).get("slices", [])
    return list(dict.fromkeys(entry["column"] for entry in slices))


def _named(key: str, reference: Mapping[str, Any]) -> tuple[str, str]:
    position, column = key.split(":", 1)
    return column, bin_name(reference["columns"][column], int(position))
