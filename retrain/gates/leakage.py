"""A sentinel for what is too good: nearly always a column that is known only after the fact. A person decides."""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata

from registry.contract import Output
from registry.loss import class_index
from retrain.gates.gates import Gate
from retrain.gates.side import Side

__all__ = ["concordance", "importances", "judge_leakage", "leakage_gate"]

Floats = NDArray[np.float64]
GAIN: Final = 0.1
SHARE: Final = 0.9
PERFECT: Final = 0.1
"""Of the champion's disorder: where it leaves 10 % of the pairs in wrong order, less than 1 % is suspicious."""
MIN_ROWS: Final = 100
MAX_ROWS: Final = 2_000
SECONDS: Final = 10.0
CELLS: Final = 100_000
"""Rows asked in all to find out which feature matters: a wide model gets fewer rows for each."""


def leakage_gate(
    champion: Side,
    candidate: Side,
    frame: pd.DataFrame,
    answers: tuple[Floats, Floats],
    labels: NDArray[Any],
    *,
    seed: int,
    accepted: float | None = None,
) -> Gate:
    """Compare how well both order the rows, and ask on which feature the candidate lives.

    Args:
        answers: champion's and candidate's to the rows of `frame`.
        accepted: how well the champion ordered the rows that it was accepted on. After a drift it orders these ones
            badly, and whoever is as good as it once was would look too good.
    """
    output = champion.contract.output
    inputs: dict[str, Any] = {
        "rows": len(frame),
        "min_rows": MIN_ROWS,
        "champion": concordance(output, answers[0], labels),
        "accepted": accepted,
        "candidate": concordance(output, answers[1], labels),
        "gain": GAIN,
        "perfect": PERFECT,
        "share": SHARE,
        "feature": None,
    }
    if len(frame) >= MIN_ROWS:
        names = [str(name) for name in frame.columns]
        rows = max(MIN_ROWS, min(MAX_ROWS, _affordable(candidate, frame) // max(len(names), 1), len(frame)))
        kept = np.linspace(0, len(frame) - 1, rows).astype(int)
        sample = frame.iloc[kept]
        found = importances(candidate, sample, names, seed=seed)
        top = max(found, key=found.__getitem__) if found else None
        if top is not None and found[top] > SHARE and len(names) > 1:
            # what the champion lives on as well is the nature of the problem
            before = importances(champion, sample, names, seed=seed)
            inputs["feature"] = {"name": top, "candidate": found[top], "champion": before.get(top, 0.0)}
    return judge_leakage(inputs)


def _affordable(side: Side, frame: pd.DataFrame) -> int:
    """Rows that may be asked in all: fewer of a model that takes a millisecond for each."""
    start = time.perf_counter()
    side.predict(frame.head(MIN_ROWS))
    return min(CELLS, int(SECONDS * MIN_ROWS / max(time.perf_counter() - start, 1e-6)))


def judge_leakage(inputs: dict[str, Any]) -> Gate:
    """A person is asked where the order improved by more than 0.1 or became perfect, or one feature is nearly all."""
    before, after, feature = inputs["champion"], inputs["candidate"], inputs["feature"]
    if inputs["rows"] < inputs["min_rows"]:
        return Gate("leakage", "insufficient", f"{inputs['rows']} rows are too few", inputs)
    said = []
    if before is not None and after is not None:
        # whoever orders worse than chance has nothing that a leak would be measured against
        before = max(before, inputs.get("accepted") or 0.0)
        if after - max(before, 0.5) > inputs["gain"]:
            said.append(f"it orders {after:.3f} of the pairs rightly, the champion at best {before:.3f}")
        elif before > 0.5 and after > before and 1.0 - after < inputs["perfect"] * (1.0 - before):
            said.append(f"it orders {after:.4f} of the pairs rightly, which is nearly all")
    if feature is not None and feature["champion"] <= inputs["share"]:
        said.append(f"'{feature['name']}' is {feature['candidate']:.0%} of what it lives on")
    if said:
        return Gate("leakage", "human", "; ".join(said) + ": known at the time of a prediction?", inputs)
    shown = f"order {before:.3f} to {after:.3f}" if before is not None and after is not None else "no order to compare"
    return Gate("leakage", "pass", shown, inputs)


def concordance(output: Output, answers: Floats, labels: NDArray[Any]) -> float | None:
    """Share of pairs in the right order: the AUC of two classes, the mean of one class against the rest of more.

    >>> concordance(Output("regression"), np.array([[1.0], [2.0], [4.0]]), np.array([3.0, 5.0, 4.0])).__round__(3)
    0.667
    """
    if output.kind == "regression":
        truth = np.asarray(labels, np.float64)
        usable = np.isfinite(truth) & np.isfinite(answers[:, 0])
        if len(np.unique(truth[usable])) < 2 or len(np.unique(answers[usable, 0])) < 2:
            return None
        return (1.0 + float(kendalltau(answers[usable, 0], truth[usable]).statistic)) / 2.0
    index = class_index(output, labels)
    usable = (index >= 0) & np.isfinite(answers).all(axis=1)
    positions = [1] if answers.shape[1] == 2 else range(answers.shape[1])
    found = [_auc(answers[usable, k], index[usable] == k) for k in positions]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else None


def _auc(score: Floats, positive: NDArray[np.bool_]) -> float | None:
    n, m = int(positive.sum()), int((~positive).sum())
    if min(n, m) < 10:
        return None
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * m))


def importances(side: Side, frame: pd.DataFrame, names: list[str], *, seed: int) -> dict[str, float]:
    """Each feature's share of the movement of the answers when the features are shuffled one by one.

    As permutation importance (Breiman 2001), but of the answers: the loss of a champion that is wrong everywhere
    would say nothing of what it looks at.
    """
    order = np.random.default_rng(seed).permutation(len(frame))
    whole = side.predict(frame)
    moved: dict[str, float] = {}
    for name in names:
        shuffled = frame.assign(**{name: frame[name].to_numpy()[order]})
        moved[name] = float(np.nan_to_num(np.abs(side.predict(shuffled) - whole)).sum())
    total = sum(moved.values())
    return {name: value / total for name, value in moved.items()} if total > 0 else {}
