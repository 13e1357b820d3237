"""No part of the traffic may pay for the rest: the slices, and the rule that no slice is shown to be worse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from registry.contract import Column, Contract
from registry.reference import numbers
from retrain.gates.bound import bound
from retrain.gates.gates import Gate, PairedSample
from retrain.gates.named import Mask, named_parts

__all__ = ["judge_slices", "slices_gate"]

Floats = NDArray[np.float64]
AUTOMATIC: Final = 20
"""Each slice more makes the others' bounds wider: with 20, a loss of 10 points in 150 rows is still found."""
PER_COLUMN: Final = 6
ALPHA: Final = 0.05
TOGETHER: Final = 1.2
"""Of the error by row, the error by day from which rows of a day count as moving together."""


def slices_gate(
    contract: Contract,
    frame: pd.DataFrame,
    differences: Floats,
    blocks: NDArray[np.int64],
    *,
    declared: Sequence[str],
    automatic: bool,
    min_rows: int,
    margin: float,
) -> Gate:
    """Judge every declared slice, and automatic ones until there are 20.

    Args:
        differences: champion's loss minus candidate's, one for each row of `frame`.
    """
    entries: list[dict[str, Any]] = []
    absent = [name for name in declared if name not in contract.names]
    for column, value, mask in _chosen(contract, frame, declared, automatic=automatic, min_rows=min_rows):
        count = int(mask.sum())
        entry: dict[str, Any] = {"column": column, "value": value, "rows": count}
        if count >= min_rows:
            entry |= _errors(differences[mask], blocks[mask])
        entries.append(entry)
    whole = _errors(differences, blocks) if len(differences) > 1 else {}
    inputs = {"slices": entries, "whole": whole, "absent": absent, "min_rows": min_rows}
    return judge_slices(inputs | {"margin": margin, "alpha": ALPHA, "together": TOGETHER})


def judge_slices(inputs: dict[str, Any]) -> Gate:
    """Fail where the upper bound of a slice's mean difference, at alpha / number of slices, is below -margin."""
    if inputs["absent"]:
        missing = ", ".join(f"'{name}'" for name in inputs["absent"])
        return Gate("slices", "insufficient", f"the contract has no column {missing}", inputs)
    judged = [entry for entry in inputs["slices"] if "mean" in entry]
    if not judged:
        return Gate("slices", "not applicable", f"no slice has {inputs['min_rows']} rows", inputs)
    alpha = float(inputs["alpha"]) / len(judged)
    by_day = _together(inputs["whole"], float(inputs["together"]))
    bounds = [_upper(entry, alpha, by_day=by_day or _together(entry, float(inputs["together"]))) for entry in judged]
    worse = [(entry, high) for entry, high in zip(judged, bounds, strict=True) if high < -float(inputs["margin"])]
    if not worse:
        return Gate("slices", "pass", f"none of {len(judged)} slices is shown to be worse", inputs)
    entry, high = min(worse, key=lambda found: found[1])
    said = f"{entry['column']}: {entry['value']} is worse by {-entry['mean']:.4f}, at least {-high:.4f}"
    return Gate("slices", "fail", said + (f", and {len(worse) - 1} more" if len(worse) > 1 else ""), inputs)


def _errors(differences: Floats, blocks: NDArray[np.int64]) -> dict[str, Any]:
    sample = PairedSample.of(differences, np.zeros_like(differences), blocks)
    plain, clustered = sample.errors()
    return {"mean": sample.mean, "se_rows": plain, "se_days": clustered, "days": len(sample.blocks)}


def _together(entry: Mapping[str, Any], ratio: float) -> bool:
    """Whether the rows of a day move together."""
    return float(entry["se_days"]) > ratio * float(entry["se_rows"])


def _upper(entry: Mapping[str, Any], alpha: float, *, by_day: bool) -> float:
    """The upper bound: by day where rows of a day move together, here or in the whole holdout.

    Always taking the larger error, as the comparison of the whole does, would hide harm in small slices: the error by
    day of 150 rows is the larger one half of the time by chance, and 14 days ask for a far wider bound.
    """
    days = by_day and float(entry["se_days"]) > float(entry["se_rows"])
    error, dof = (entry["se_days"], entry["days"] - 1) if days else (entry["se_rows"], entry["rows"] - 1)
    return bound({"mean": entry["mean"], "se": error, "dof": dof}, alpha, "upper")


def _chosen(
    contract: Contract, frame: pd.DataFrame, declared: Sequence[str], *, automatic: bool, min_rows: int
) -> Iterator[tuple[str, str, Mask]]:
    """Declared slices as the card shows them; then columns of few categories, and thirds of numbers.

    What is chosen depends on the features alone: picked by the differences, slices would be worse by chance.
    """
    columns = {column.name: column for column in contract.columns}
    judged = 0
    for name in dict.fromkeys(name for name in declared if name in columns):
        for value, mask in named_parts(columns[name], frame[name], noun="part"):
            judged += int(mask.sum()) >= min_rows
            yield name, value, mask
    if not automatic:
        return
    others = [c for c in contract.columns if c.name not in declared and c.policy == "store"]
    others.sort(key=lambda column: column.dtype not in ("string", "bool"))
    for column in others:
        if judged >= AUTOMATIC:
            return
        found = [(value, mask) for value, mask in _natural(column, frame[column.name]) if mask.sum() >= min_rows]
        if sum(not mask.all() for _, mask in found) == 0:
            continue  # one value everywhere is the whole holdout, which has a gate of its own
        for value, mask in found[: min(PER_COLUMN, AUTOMATIC - judged)]:
            judged += 1
            yield column.name, value, mask


def _natural(column: Column, values: Any) -> Iterator[tuple[str, Mask]]:
    if column.dtype in ("string", "bool"):
        yield from named_parts(column, values, noun="part")
        return
    data = numbers(values)
    finite = np.isfinite(data)
    if len(np.unique(data[finite])) <= PER_COLUMN:
        yield from ((f"{level:g}", data == level) for level in np.unique(data[finite]).tolist())
    else:
        low, high = np.quantile(data[finite], [1 / 3, 2 / 3]).tolist()
        yield f"up to {low:g}", finite & (data <= low)
        yield f"{low:g} to {high:g}", finite & (data > low) & (data <= high)
        yield f"above {high:g}", finite & (data > high)
    if not finite.all():
        yield "null", ~finite
