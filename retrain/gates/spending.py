"""The year's error budget: whoever tries often enough is lucky once, so each attempt may err less than the last.

alpha_k = alpha * 6 / (pi^2 k^2) of the k-th claim of a model in a year of its own clock sums to alpha over all k
(alpha spending as in online testing; Foster and Stine 2008).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from retrain.gates.bound import bound
from retrain.gates.gates import Gate

__all__ = ["NAME", "alpha_gate", "attempts", "judge_alpha", "spent"]

NAME = "alpha"


def spent(alpha: float, k: int) -> float:
    """What the k-th claim of a year may err.

    >>> round(spent(0.05, 1), 4), round(spent(0.05, 12), 6)
    (0.0304, 0.000211)
    """
    return alpha * 6.0 / (math.pi**2 * k**2)


def attempts(bodies: Iterable[Mapping[str, Any]], year: int, run_id: str, champion: int | None = None) -> int:
    """Claims to be better in `year` that the budget has paid for, by the rows of the gates; a run counts once.

    A claim that passed and led to another champion earns the budget anew (alpha investing): among equals nothing is
    ever earned but by the error that the budget allows for, so the year's error stays what it was. A champion that
    took over without such a claim, for freshness or by hand, earns nothing.

    Args:
        bodies: newest first.
        champion: who serves now; without it nothing counts as earned.
    """
    claims: set[str] = set()
    serving = champion
    for body in bodies:
        before = body.get("context", {}).get("champion")
        claim = next((g for g in body.get("gates", ()) if g["gate"] == NAME and g["verdict"] in ("pass", "fail")), None)
        moved = serving is not None and before not in (None, serving)
        if claim is not None:
            if moved and claim["verdict"] == "pass" and body.get("passed"):
                break
            if claim["inputs"].get("year") == year:
                claims.add(str(body.get("run_id")))
        serving = before if moved else serving
    return len(claims - {run_id})


def alpha_gate(pairs: Mapping[str, Any], *, alpha: float, before: int, year: int, contenders: int, reason: str) -> Gate:
    """The claim to be better once more, at what is left of the year's budget.

    Args:
        pairs: mean difference with its error, as `bound.summary` gives it.
        before: claims of the model in this year.
        contenders: candidates of which the best was chosen; they share the attempt's part.
    """
    inputs = {"pairs": dict(pairs), "alpha": alpha, "k": before + 1, "year": year}
    return judge_alpha(inputs | {"contenders": contenders, "reason": reason})


def judge_alpha(inputs: dict[str, Any]) -> Gate:
    """Pass where the lower bound at alpha_k / contenders is above 0."""
    if inputs["reason"] == "freshness":
        return Gate(NAME, "not applicable", "freshness claims no superiority", inputs)
    k = int(inputs["k"])
    level = spent(float(inputs["alpha"]), k) / max(int(inputs["contenders"]), 1)
    lower = bound(inputs["pairs"], level, "lower")
    said = f"claim {k} of {inputs['year']}: lower bound {lower:+.4f} at {level:.2g}"
    return Gate(NAME, "pass" if lower > 0 else "fail", said, inputs)
