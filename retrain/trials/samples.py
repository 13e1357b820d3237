"""From rows of the lake to what the sequential tests take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from registry.contract import Output
from registry.loss import bounded_loss
from retrain.trials.experiments import AbStats
from retrain.trials.sequential import Stratum

__all__ = ["ab_stats", "paired_losses"]


def _losses(output: Output, rows: pa.Table, prefix: str, cap: float) -> NDArray[np.float64]:
    name = f"{prefix}prediction" if output.kind == "regression" else f"{prefix}probabilities"
    labels = rows.column("_label").to_numpy(zero_copy_only=False)
    if output.kind == "regression":
        predicted: Any = rows.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
    else:
        width = len(output.classes)
        listed = rows.column(name).to_pylist()
        blank = [np.nan] * width
        predicted = np.array([p if p is not None and len(p) == width else blank for p in listed], dtype=np.float64)
        predicted = predicted.reshape(len(listed), width)
    return bounded_loss(output, predicted, labels, cap)


def paired_losses(
    joined: pa.Table, *, output: Output, cap: float, champion: int, candidate: int
) -> tuple[list[str], NDArray[np.float32]]:
    """Ids and loss differences (champion - candidate) of labelled requests both answered, by time of their label."""
    if joined.num_rows == 0:
        return [], np.zeros(0, dtype=np.float32)
    mask = pc.and_(
        pc.and_(pc.equal(joined.column("_version"), champion), pc.equal(joined.column("_shadow_version"), candidate)),
        pc.is_valid(joined.column("_label")),
    )
    rows = joined.filter(mask).sort_by([("_label_at", "ascending"), ("_id", "ascending")])
    if rows.num_rows == 0:
        return [], np.zeros(0, dtype=np.float32)
    d = _losses(output, rows, "_", cap) - _losses(output, rows, "_shadow_", cap)
    ok = np.isfinite(d)
    ids = [i for i, keep in zip(rows.column("_id").to_pylist(), ok, strict=True) if keep]
    return ids, d[ok].astype(np.float32)


def ab_stats(joined: pa.Table, *, output: Output, cap: float, champion: int, candidate: int) -> AbStats:
    """Stratify by day of event time; within a day an entity counts once, by its mean loss.

    Rows up to the first one that the candidate answered are left out: serving follows the ledger with a delay,
    and before that moment nothing was randomised.
    """
    if joined.num_rows == 0:
        return AbStats((), (0, 0))
    version = joined.column("_version").to_numpy(zero_copy_only=False)
    at = joined.column("_at").cast(pa.int64()).to_numpy(zero_copy_only=False)
    treated = version == candidate
    if not treated.any():
        return AbStats((), (0, 0))
    # a caller who pinned a version was not randomised
    drawn = pc.not_equal(joined.column("_arm"), "pinned").to_numpy(zero_copy_only=False)
    rows = joined.filter(pa.array((at > at[treated].min()) & (treated | (version == champion)) & drawn))
    if rows.num_rows == 0:
        return AbStats((), (0, 0))
    version = rows.column("_version").to_numpy(zero_copy_only=False)
    treated = version == candidate
    # without an entity each request is a unit of its own
    pairs = zip(rows.column("_entity").to_pylist(), rows.column("_id").to_pylist(), strict=True)
    unit = np.array([entity or identifier for entity, identifier in pairs], dtype=str)
    exposed = (np.unique(unit[~treated]).size, np.unique(unit[treated]).size)
    day = rows.column("_at").cast(pa.int64()).to_numpy(zero_copy_only=False) // 86_400_000_000
    loss = np.full(rows.num_rows, np.nan)
    known = rows.column("_label").is_valid().to_numpy(zero_copy_only=False).astype(bool)
    if known.any():
        loss[known] = _losses(output, rows.filter(pa.array(known)), "_", cap)
    ok = np.isfinite(loss)
    _, code = np.unique(unit, return_inverse=True)
    strata = tuple(
        _stratum(
            str(np.datetime64(int(d), "D")),
            *(_unit_means(loss, code, ok & (day == d) & arm) for arm in (treated, ~treated)),
        )
        for d in np.unique(day[ok])
    )
    return AbStats(strata, (int(exposed[0]), int(exposed[1])))


def _unit_means(loss: NDArray[np.float64], code: NDArray[np.int64], keep: NDArray[np.bool_]) -> NDArray[np.float64]:
    _, index = np.unique(code[keep], return_inverse=True)
    means: NDArray[np.float64] = np.bincount(index, loss[keep]) / np.maximum(np.bincount(index), 1)
    return means


def _stratum(key: str, t: NDArray[np.float64], c: NDArray[np.float64]) -> Stratum:
    return Stratum(key, t.size, float(t.sum()), float((t * t).sum()), c.size, float(c.sum()), float((c * c).sum()))
