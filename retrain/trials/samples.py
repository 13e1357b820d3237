"""From rows of the lake to what the sequential tests take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from monitoring.intake.events import value_text
from registry.contract import Output
from registry.loss import bounded_loss
from retrain.trials.guards import Counts, Outcome, clipped
from retrain.trials.policy import Baseline, Trial
from retrain.trials.sequential import Stratum
from retrain.trials.stats import AbStats

__all__ = ["ab_stats", "baseline", "paired_losses", "primary", "units_of", "whole"]

#: Requests of the champion below which nothing is said about its usual latency and answers.
LEAST = 100
#: Classes whose rates are watched, the champion's most frequent ones.
CLASSES = 20
#: Answers further off than so many standard deviations count as so far: one broken row must not weigh like thousands.
FAR = 5.0
_DAY = 86_400_000_000
Flags = NDArray[np.bool_]


def losses(output: Output, rows: pa.Table, prefix: str, cap: float) -> NDArray[np.float64]:
    """Bounded loss of each row's answer, served ("_") or in shadow ("_shadow_"); NaN where it cannot be told."""
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
    d = losses(output, rows, "_", cap) - losses(output, rows, "_shadow_", cap)
    ok = np.isfinite(d)
    ids = [i for i, keep in zip(rows.column("_id").to_pylist(), ok, strict=True) if keep]
    return ids, d[ok].astype(np.float32)


@dataclass(frozen=True)
class _Drawn:
    """Rows that were drawn to an arm, each with its step, its day, its unit and whether the candidate was drawn."""

    rows: pa.Table
    step: NDArray[np.int64]
    day: NDArray[np.int64]
    unit: NDArray[np.int64]
    treated: Flags

    def once(self) -> _Drawn:
        """Each unit in one stratum: the day of its first request in the last step that saw it.

        A unit that comes back keeps its ways: counted in each step, or every day, it would be taken for many.
        """
        last = np.full(int(self.unit.max()) + 1, -1)
        np.maximum.at(last, self.unit, self.step)
        keep = self.step == last[self.unit]
        unit, day = self.unit[keep], self.day[keep]
        first = np.full(last.size, np.iinfo(np.int64).max)
        np.minimum.at(first, unit, day)
        return _Drawn(self.rows.filter(pa.array(keep)), self.step[keep], first[unit], unit, self.treated[keep])

    def strata(self, value: NDArray[np.float64]) -> tuple[Stratum, ...]:
        """By step and day; a unit counts by the mean of its values. NaN is left out."""
        ok = np.isfinite(value)
        if not ok.any():
            return ()
        places, place = np.unique(self.step[ok] * 1_000_000 + self.day[ok], return_inverse=True)
        width = int(self.unit.max()) + 1
        cell, inverse = np.unique((place * 2 + self.treated[ok]) * width + self.unit[ok], return_inverse=True)
        mean = np.bincount(inverse, value[ok]) / np.bincount(inverse)
        side, most = cell // width, 2 * places.size
        n, total = np.bincount(side, minlength=most), np.bincount(side, mean, minlength=most)
        squares = np.bincount(side, mean * mean, minlength=most)
        return tuple(
            Stratum(
                f"{int(key) // 1_000_000}/{np.datetime64(int(key) % 1_000_000, 'D')}",
                *(int(n[t]), float(total[t]), float(squares[t])),
                *(int(n[c]), float(total[c]), float(squares[c])),
            )
            for key, c, t in zip(places.tolist(), range(0, most, 2), range(1, most, 2), strict=True)
        )

    def counts(self, hit: Flags, weights: Mapping[int, float]) -> tuple[Counts, ...]:
        """By step: units of each arm, and those of them that were hit at least once."""
        found = []
        for step in np.unique(self.step).tolist():
            here = self.step == step
            n_t, hits_t = _units(self.unit, here & self.treated, hit)
            n_c, hits_c = _units(self.unit, here & ~self.treated, hit)
            found.append(Counts(str(step), weights[step], n_t, hits_t, n_c, hits_c))
        return tuple(found)

    def firsts(self) -> _Drawn:
        """The first row of each unit."""
        _, index = np.unique(self.unit, return_index=True)
        rows = self.rows.take(pa.array(index))
        return _Drawn(rows, self.step[index], self.day[index], self.unit[index], self.treated[index])


def _units(unit: NDArray[np.int64], where: Flags, hit: Flags) -> tuple[int, int]:
    return int(np.unique(unit[where]).size), int(np.unique(unit[where & hit]).size)


def ab_stats(joined: pa.Table, trial: Trial, output: Output) -> AbStats:
    """Everything that canary and A/B have seen of a trial so far."""
    drawn = _drawn(joined, trial)
    if drawn is None:
        return AbStats()
    p, base = trial.policy, trial.baseline
    weights = {number: step.weight for number, step in enumerate(p.ladder)}
    every, drawn = drawn, drawn.once()
    rows = drawn.rows
    failed = pc.equal(rows.column("_arm"), "fallback").to_numpy(zero_copy_only=False)
    slow: tuple[Counts, ...] = ()
    if base.slow_ms is not None:
        waited = rows.column("_latency_ms").to_numpy(zero_copy_only=False).astype(np.float64)
        slow = drawn.counts(waited > base.slow_ms, weights)
    classes: dict[str, tuple[Counts, ...]] = {}
    answers: tuple[Stratum, ...] = ()
    if output.kind == "classification":
        first = drawn.firsts()
        said = first.rows.column("_prediction").cast(pa.string()).to_numpy(zero_copy_only=False)
        classes = {name: first.counts(said == name, weights) for name in base.shares}
    elif base.sd > 0.0:
        said = rows.column("_prediction").to_numpy(zero_copy_only=False).astype(np.float64)
        answers = drawn.strata(np.clip((said - base.mean) / base.sd, -FAR, FAR))
    compared = primary(rows, trial, output)
    return AbStats(
        strata=drawn.strata(compared),
        units=every.counts(np.zeros(every.step.size, dtype=bool), weights),
        failed=drawn.counts(failed, weights),
        slow=slow,
        classes=classes,
        answers=answers,
        outcomes={what.name: drawn.strata(_told(rows, what)) for what in p.outcomes if what.name != p.metric},
        labelled=drawn.counts(np.isfinite(compared), weights),
    )


def primary(rows: pa.Table, trial: Trial, output: Output) -> NDArray[np.float64]:
    """What is compared: the label's loss, or an outcome turned into one, 0 at its best bound and 1 at its worst."""
    goal = trial.policy.goal()
    if goal is not None:
        low, high = goal.bounds
        share = (_told(rows, goal) - low) / (high - low)
        return 1.0 - share if goal.higher_is_better else share
    loss = np.full(rows.num_rows, np.nan)
    known = rows.column("_label").is_valid().to_numpy(zero_copy_only=False).astype(bool)
    if known.any():
        loss[known] = losses(output, rows.filter(pa.array(known)), "_", trial.cap)
    return loss


def _told(rows: pa.Table, what: Outcome) -> NDArray[np.float64]:
    """Clipped values of a named outcome; NaN where none was told."""
    name = f"_outcome_{what.name}"
    if name not in rows.column_names:
        return np.full(rows.num_rows, np.nan)
    return clipped(rows.column(name).to_numpy(zero_copy_only=False).astype(np.float64), what.bounds)


def _drawn(joined: pa.Table, trial: Trial) -> _Drawn | None:
    """Rows that serving routed by one of the trial's drawn deployments, on the arm that it drew, whoever answered.

    Each row says by which deployment it was routed, so it does not matter when a process began to follow a new one.
    Whoever pinned a version, or belongs to a segment, was not drawn.
    """
    steps = trial.policy.ladder
    by_revision = {m.revision: m.step for m in trial.marks if m.step < len(steps) and steps[m.step].drawn}
    if joined.num_rows == 0 or not by_revision:
        return None
    revision = whole(joined, "_deployment")
    known = np.array(sorted(by_revision), dtype=np.int64)
    place = np.minimum(np.searchsorted(known, revision), known.size - 1)
    step = np.array([by_revision[r] for r in known.tolist()], dtype=np.int64)[place]
    assigned = whole(joined, "_assigned")
    keep = (known[place] == revision) & ((assigned == trial.candidate) | (assigned == trial.champion))
    if not keep.any():
        return None
    rows = joined.filter(pa.array(keep))
    at = rows.column("_at").cast(pa.int64()).to_numpy(zero_copy_only=False)
    return _Drawn(rows, step[keep], at // _DAY, units_of(rows), assigned[keep] == trial.candidate)


def units_of(rows: pa.Table) -> NDArray[np.int64]:
    """A number for each entity; without one each request is a unit of its own."""
    entity = pc.fill_null(rows.column("_entity"), "")
    unit = pc.if_else(pc.equal(entity, ""), rows.column("_id"), entity).combine_chunks().dictionary_encode()
    found: NDArray[np.int64] = unit.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def whole(table: pa.Table, name: str) -> NDArray[np.int64]:
    """A column of whole numbers; null is 0."""
    found: NDArray[np.int64] = pc.fill_null(table.column(name), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def baseline(rows: pa.Table, trial: Trial, output: Output) -> Baseline:
    """What the champion did in rows from before the first request was drawn; nothing where they are too few."""
    if rows.num_rows:
        mine = pc.and_(pc.equal(rows.column("_version"), trial.champion), pc.equal(rows.column("_arm"), "champion"))
        rows = rows.filter(mine)
    if rows.num_rows < LEAST:
        return Baseline()
    slow = None
    if trial.policy.latency is not None:
        waited = rows.column("_latency_ms").to_numpy(zero_copy_only=False).astype(np.float64)
        waited = waited[np.isfinite(waited)]
        slow = float(np.quantile(waited, 0.99)) * trial.policy.latency if waited.size >= LEAST else None
    answers = rows.column("_prediction")
    if output.kind == "classification":
        counted = pc.value_counts(answers.cast(pa.string()).combine_chunks().drop_null()).to_pylist()
        often = {row["values"]: row["counts"] / rows.num_rows for row in counted}
        known = dict.fromkeys((str(value_text(c)) for c in output.classes), 0.0) | often
        most = sorted(known, key=lambda name: (-known[name], name))[:CLASSES]
        return Baseline(slow, shares={name: known[name] for name in most})
    said = answers.to_numpy(zero_copy_only=False).astype(np.float64)
    said = said[np.isfinite(said)]
    return Baseline(slow, float(said.mean()), float(said.std())) if said.size >= LEAST else Baseline(slow)
