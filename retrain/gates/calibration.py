"""Whether the answers can still be taken at their word: probabilities as frequencies, numbers without bias.

The calibration error is the mean distance, over ten bins of the answer, between what was said and what came. Given the
sign of each bin it is a mean over rows, so its error follows from the same clustered sums as any other mean's.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from registry.contract import Output
from registry.loss import class_index
from retrain.gates.bound import bound, summary
from retrain.gates.gates import Gate

__all__ = ["calibration_gate", "judge_calibration"]

Floats = NDArray[np.float64]
BINS: Final = 10
ALPHA: Final = 0.05
MIN_ROWS: Final = 30


def calibration_gate(
    output: Output,
    answers: tuple[Floats, Floats],
    losses: tuple[Floats, Floats],
    labels: NDArray[Any],
    blocks: NDArray[np.int64],
    *,
    cap: float,
    limit: float,
) -> Gate:
    """Compare Brier loss and calibration error; of a regression the bias by bins, in units of the loss's cap.

    Args:
        answers: champion's and candidate's, numbers [N, T] or probabilities [N, K].
        losses: their bounded losses; of a classification half the Brier score.
    """
    if output.scores:
        return judge_calibration({"why": "the model has scores and no probabilities"})
    said = [_said(output, found, labels, cap) for found in answers]
    usable = np.isfinite(said[0][0]) & np.isfinite(said[1][0]) & np.isfinite(said[0][1])
    errors: dict[str, Any] = {}
    if usable.sum() >= MIN_ROWS:
        base, fresh = (_contributions(bins[usable], gap[usable]) for bins, gap in said)
        errors["calibration"] = _compared(base, fresh, blocks[usable], limit)
        if output.kind == "classification":
            errors["brier"] = _compared(losses[0][usable], losses[1][usable], blocks[usable], limit)
    return judge_calibration({"rows": int(usable.sum()), "errors": errors, "limit": limit, "alpha": ALPHA})


def judge_calibration(inputs: dict[str, Any]) -> Gate:
    """Fail where an error is shown to have grown by more than the limit; noise alone shows nothing."""
    if "why" in inputs:
        return Gate("calibration", "not applicable", inputs["why"], inputs)
    if not inputs["errors"]:
        return Gate("calibration", "insufficient", f"{inputs['rows']} rows have two usable answers", inputs)
    grown = [name for name, entry in inputs["errors"].items() if bound(entry, float(inputs["alpha"]), "upper") < 0]
    shown = "; ".join(f"{name} {e['champion']:.4f} to {e['candidate']:.4f}" for name, e in inputs["errors"].items())
    if grown:
        return Gate("calibration", "fail", f"{shown}: worse by more than {inputs['limit']:.0%}", inputs)
    return Gate("calibration", "pass", shown, inputs)


def _said(output: Output, answers: Floats, labels: NDArray[Any], cap: float) -> tuple[Floats, Floats]:
    """Of each row the answer that is put in bins, and by how much it was too high."""
    if output.kind == "regression":
        answer = answers[:, 0]
        return answer, np.clip((answer - np.asarray(labels, np.float64)) / cap, -1.0, 1.0)
    index = class_index(output, labels)
    if answers.shape[1] == 2:
        answer, right = answers[:, 1], (index == 1).astype(np.float64)
    else:
        answer, right = answers.max(axis=1), (answers.argmax(axis=1) == index).astype(np.float64)
    return answer, np.where(index < 0, np.nan, answer - right)


def _contributions(answer: Floats, gap: Floats) -> Floats:
    """What each row adds to the error: its gap with the sign of its bin. Bins hold about as many rows each."""
    edges = np.unique(np.quantile(answer, np.arange(1, BINS) / BINS))
    bins = np.searchsorted(edges, answer, side="right")
    signs = np.sign(np.bincount(bins, gap, minlength=BINS))
    return np.asarray(gap * signs[bins], np.float64)


def _compared(base: Floats, fresh: Floats, blocks: NDArray[np.int64], limit: float) -> dict[str, Any]:
    entry = summary((1.0 + limit) * base - fresh, blocks)
    return {"champion": float(base.mean()), "candidate": float(fresh.mean()), **entry}
