"""Each gate's rule on plain values, by name: what decided once decides again from the row of evidence alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from retrain.gates.gates import Gate, Verdict, certificate_gate, judge_contract, judge_pairs

__all__ = ["judged_again"]

Rule = Callable[[dict[str, Any]], Gate]


@cache
def _rules() -> Mapping[str, Rule]:
    """Imported when something is judged again: beside the rules are the measurements, which need pandas."""
    from retrain.gates import spending
    from retrain.gates.calibration import judge_calibration
    from retrain.gates.fairness import judge_fairness
    from retrain.gates.latency import judge_latency
    from retrain.gates.leakage import judge_leakage
    from retrain.gates.robustness import judge_robustness
    from retrain.gates.slices import judge_slices

    return {
        "certificate": certificate_gate,
        "contract": judge_contract,
        "non_inferiority": judge_pairs,
        "slices": judge_slices,
        "calibration": judge_calibration,
        "robustness": judge_robustness,
        "fairness": judge_fairness,
        "latency": judge_latency,
        "leakage": judge_leakage,
        spending.NAME: spending.judge_alpha,
    }


def judged_again(recorded: Mapping[str, Any]) -> Gate:
    """The verdict that follows from a recorded gate's inputs.

    Raises:
        KeyError: there is no such gate, or an input is missing.
    """
    name, inputs = str(recorded["gate"]), dict(recorded["inputs"])
    if inputs.keys() & {"off", "unmeasured"}:  # nothing was decided on figures
        verdict: Verdict = "not applicable" if "off" in inputs else "insufficient"
        why = "switched off" if "off" in inputs else f"it could not be measured: {inputs['unmeasured']}"
        return Gate(name, verdict, why, inputs)
    return _rules()[name](inputs)
