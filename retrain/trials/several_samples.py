"""From rows of the lake to the epochs of a trial of several candidates."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from registry.contract import Output
from retrain.trials.bandit import Arm
from retrain.trials.policy import Trial
from retrain.trials.samples import primary, units_of, whole
from retrain.trials.several import Epoch, SeveralStats

__all__ = ["several_stats"]


def several_stats(joined: pa.Table, trial: Trial, output: Output) -> SeveralStats:
    """Each epoch's draws and losses by version; a unit is in the last epoch that saw it, by the mean of its losses.

    Of units all are counted in each epoch, labelled or not: they are for the split.
    """
    marks = [m for m in trial.marks if m.weights]
    epochs = [(dict(weights), [m.revision for m in some]) for weights, some in groupby(marks, lambda m: m.weights)]
    if not epochs:
        return SeveralStats(())
    if joined.num_rows == 0:
        return SeveralStats(tuple(Epoch(weights, {}, {}, {}, {}) for weights, _ in epochs))
    revision, assigned = whole(joined, "_deployment"), whole(joined, "_assigned")
    epoch = np.full(joined.num_rows, -1)
    for number, (weights, revisions) in enumerate(epochs):
        epoch[np.isin(revision, revisions) & np.isin(assigned, list(weights))] = number
    keep = epoch >= 0
    rows, epoch, assigned = joined.filter(pa.array(keep)), epoch[keep], assigned[keep]
    unit = units_of(rows)
    last = np.full(int(unit.max(initial=-1)) + 1, -1)
    np.maximum.at(last, unit, epoch)
    loss = primary(rows, trial, output)
    failed = pc.equal(rows.column("_arm"), "fallback").to_numpy(zero_copy_only=False).astype(bool)
    found = []
    for number, (weights, _) in enumerate(epochs):
        counts, once, failures, arms = {}, {}, {}, {}
        for version in weights:
            here = (epoch == number) & (assigned == version)
            mine = here & (last[unit] == number)
            counts[version] = int(np.unique(unit[here]).size)
            once[version] = int(np.unique(unit[mine]).size)
            failures[version] = int(np.unique(unit[mine & failed]).size)
            ok = mine & np.isfinite(loss)
            _, code = np.unique(unit[ok], return_inverse=True)
            mean = np.bincount(code, loss[ok]) / np.maximum(np.bincount(code), 1)
            arms[version] = Arm(mean.size, float(mean.sum()), float((mean * mean).sum()))
        found.append(Epoch(weights, counts, once, failures, arms))
    return SeveralStats(tuple(found))
