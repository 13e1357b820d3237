"""Whether the gap between declared groups grew: the largest difference of their losses, against the champion's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from registry.contract import Contract
from retrain.gates.bound import bound, summary
from retrain.gates.gates import Gate
from retrain.gates.named import Mask, named_parts

__all__ = ["fairness_gate", "judge_fairness"]

Floats = NDArray[np.float64]
ALPHA: Final = 0.05
KEPT: Final = 20
"""Of many pairs, those with the widest gaps."""


def fairness_gate(
    contract: Contract,
    frame: pd.DataFrame,
    losses: tuple[Floats, Floats],
    blocks: NDArray[np.int64],
    *,
    columns: Sequence[str],
    min_rows: int,
    margin: float,
) -> Gate:
    """For each column compare every pair of groups with the champion's widest gap.

    Args:
        losses: champion's and candidate's, one for each row of `frame`.
    """
    known = {column.name: column for column in contract.columns}
    found: dict[str, Any] = {}
    for name in dict.fromkeys(columns):
        if name not in known:
            found[name] = {"why": "the contract has no such column"}
            continue
        groups = list(named_parts(known[name], frame[name], noun="group"))
        large = {value: mask for value, mask in groups if mask.sum() >= min_rows}
        if len(large) < 2:
            found[name] = {"why": f"{len(large)} of {len(groups)} groups have {min_rows} rows"}
        else:
            found[name] = _gaps(large, losses, blocks) | {"left_out": len(groups) - len(large)}
    return judge_fairness({"columns": found, "margin": margin, "alpha": ALPHA})


def judge_fairness(inputs: dict[str, Any]) -> Gate:
    """Pass where every pair's gap is shown to be within the margin, fail where one is shown to be beyond it."""
    if not inputs["columns"]:
        return Gate("fairness", "not applicable", "no groups are declared", inputs)
    failed, unsure, shown = [], [], []
    for name, found in inputs["columns"].items():
        if "why" in found:
            unsure.append(f"{name}: {found['why']}")
            continue
        alpha = float(inputs["alpha"])
        low = max(bound(pair, alpha / int(found["compared"]), "lower") for pair in found["pairs"])
        high = max(bound(pair, alpha, "upper") for pair in found["pairs"])
        gaps = f"{name}: gap {found['champion']:.4f} to {found['candidate']:.4f}"
        shown.append(gaps)
        if low > float(inputs["margin"]):
            failed.append(f"{gaps}, wider by at least {low:.4f}")
        elif high > float(inputs["margin"]):
            unsure.append(f"{gaps}, wider by up to {high:.4f}")
    if failed:
        return Gate("fairness", "fail", "; ".join(failed), inputs)
    if unsure:
        return Gate("fairness", "insufficient", "; ".join(unsure), inputs)
    return Gate("fairness", "pass", "; ".join(shown), inputs)


def _gaps(groups: dict[str, Mask], losses: tuple[Floats, Floats], blocks: NDArray[np.int64]) -> dict[str, Any]:
    """Each ordered pair's excess over the champion's widest gap, with its error.

    An excess is a sum of four group means. Each row's share of it, centred by its group's mean, has mean 0 and the
    error of the excess; champion and candidate are paired, so what both get wrong alike cancels.
    """
    base, fresh = ({value: float(found[mask].mean()) for value, mask in groups.items()} for found in losses)
    worst, best = max(base, key=base.__getitem__), min(base, key=base.__getitem__)
    gap = base[worst] - base[best]
    size = len(blocks)

    def share(found: Floats, value: str, means: dict[str, float]) -> Floats:
        mask = groups[value]
        return np.asarray(np.where(mask, (found - means[value]) * size / mask.sum(), 0.0), np.float64)

    pairs: list[dict[str, Any]] = []
    for high, low in permutations(groups, 2):
        centred = share(losses[1], high, fresh) - share(losses[1], low, fresh)
        centred -= share(losses[0], worst, base) - share(losses[0], best, base)
        entry = summary(centred, blocks) | {"mean": fresh[high] - fresh[low] - gap}
        pairs.append({"worse": high, "better": low, **entry})
    pairs.sort(key=lambda pair: -float(pair["mean"]))
    widest = max(fresh.values()) - min(fresh.values())
    return {"champion": gap, "candidate": widest, "compared": len(pairs), "pairs": pairs[:KEPT]}
