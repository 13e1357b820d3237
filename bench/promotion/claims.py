"""Claims A1 to A6 and A10 of the design, and what they rest on: each a function from how many trials to its rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bench.promotion import agreement, attacks, guarded, shadow, split
from bench.promotion.rules import FAILURES, MARGIN, judged
from bench.promotion.traffic import RAMP, Scenario
from retrain.trials.power import fixed_sample, needed
from retrain.trials.sequential import rho

Rows = list[dict[str, Any]]
LOSSES = ("binary", "heavy")
SPLITS = {"fixed 50 %": ((1.0, 0.5),), "ramped 5/25/50 %": RAMP}


def a1(runs: int) -> Rows:
    """False promotion of equal models (superiority) and at the margin (non-inferiority), and false rollback."""
    rows = []
    for loss in LOSSES:
        for base in ("constant", "trend", "falling", "sine"):
            for name, weights in SPLITS.items():
                what = Scenario(loss=loss, base=base, weights=weights)  # type: ignore[arg-type]
                rows.append({"loss": loss, "base": base, "split": name, "labels": "all, at once", **_null(what, runs)})
    late: dict[str, dict[str, Any]] = {
        "late: exponential, 2,000 users": {"delay": "exponential"},
        "late: all at once every 5,000 users": {"delay": "weekly"},
        "30 % missing": {"missing": (0.3, 0.3)},
        "50 % of the candidate's missing, 10 % of the champion's": {"missing": (0.5, 0.1)},
    }
    for loss in LOSSES:
        for name, how in late.items():
            if loss == "heavy" and how.get("delay") == "exponential":
                continue  # single labels of a sum cannot be drawn late
            what = Scenario(loss=loss, base="trend", weights=RAMP, **how)  # type: ignore[arg-type]
            rows.append(
                {"loss": loss, "base": "trend", "split": "ramped 5/25/50 %", "labels": name, **_null(what, runs)}
            )
    return rows


def _null(what: Scenario, runs: int) -> dict[str, float]:
    equal = judged(what, runs=runs, seed=1)
    worse = judged(replace(what, gain=-MARGIN), runs=runs, seed=2)
    return {
        "superiority": equal.share("superiority"),
        "non_inferiority": worse.share("non_inferiority"),
        "harm": equal.share("harm"),
        "z": equal.share("z"),
        "z_margin": worse.share("z_margin"),
        "z_once": equal.share("z_once"),
        "points": equal.share("points"),
        "argo_margin": float((worse.failures[9] <= FAILURES).mean()),
        "runs": runs,
    }


def a2(runs: int) -> Rows:
    """+2 points within 24,000 users."""
    rows = []
    for loss in LOSSES:
        for name, weights in SPLITS.items():
            found = judged(Scenario(loss=loss, gain=0.02, weights=weights), runs=runs, seed=3)  # type: ignore[arg-type]
            shares = {rule: found.share(rule) for rule in ("non_inferiority", "superiority")}
            rows.append({"loss": loss, "split": name, **shares, "runs": runs})
    return rows


def a3(runs: int) -> Rows:
    """-5 points: sent back, after how many treated."""
    rows = []
    for loss in LOSSES:
        for name, weights in SPLITS.items():
            found = judged(Scenario(loss=loss, gain=-0.05, weights=weights), runs=runs, seed=4)  # type: ignore[arg-type]
            equal = judged(Scenario(loss=loss, weights=weights), runs=runs, seed=5)  # type: ignore[arg-type]
            treated = found.treated["harm"]
            rows.append(
                {
                    "loss": loss,
                    "split": name,
                    "harm": found.share("harm"),
                    "median_treated": float(np.median(treated)),
                    "p95_treated": float(np.quantile(treated, 0.95, method="higher")),
                    "equal": equal.share("harm"),
                    "runs": runs,
                }
            )
    return rows


def a4(runs: int) -> Rows:
    """Paired shadow, read after every label."""
    cases: list[tuple[str, dict[str, Any]]] = [
        ("equal, binary, 10 % disagreement", {"gain": 0.0}),
        ("at the margin, binary", {"gain": -MARGIN, "m0": -MARGIN}),
        ("equal, binary, 1 % disagreement", {"gain": 0.0, "disagree": 0.01}),
        ("equal, heavy-tailed", {"gain": 0.0, "kind": "heavy"}),
        ("+2 points, binary, 10 % disagreement", {"gain": 0.02}),
    ]
    return [
        {"what": what, "runs": runs, **shadow.paired(runs=runs, labels=5_000, seed=6, **how)} for what, how in cases
    ]


def a5(runs: int) -> Rows:
    """The sample ratio over 200 looks."""
    cases: list[tuple[str, tuple[float, ...], tuple[float, ...]]] = [
        ("50/50 as asked", (0.5, 0.5), (0.5, 0.5)),
        ("95/5 as asked", (0.95, 0.05), (0.95, 0.05)),
        ("50/25/25 as asked", (0.5, 0.25, 0.25), (0.5, 0.25, 0.25)),
        ("48/52 for 50/50", (0.5, 0.5), (0.48, 0.52)),
    ]
    return [
        {"what": what, "runs": runs, **split.srm(runs=runs, users=20_000, looks=200, shares=asked, true=true, seed=7)}
        for what, asked, true in cases
    ]


def a6(runs: int) -> Rows:
    """Agreement with `ville`."""
    cases = min(runs, 500)
    return [
        {"what": name, "most": most, "cases": cases}
        for name, most in agreement.differences(cases=cases, seed=8).items()
    ]


def a10(runs: int) -> Rows:
    """The law of assignment, over a hundred entities for each trial asked for."""
    return [split.assigned(100 * runs)]


def guardrails(runs: int) -> Rows:
    """How often each guardrail sends an equal candidate back, and after how many treated units a bad one."""
    one = guarded.Truth
    rates: list[tuple[str, guarded.Truth, float, bool]] = [  # what, the truth, tolerance, whether it is harmless
        ("errors: 0.5 % in both arms", one(0.005, 0.005), 0.0, True),
        ("errors: 0.5 % and 1 %, half a point tolerated", one(0.005, 0.010), 0.005, True),
        ("errors: an incident of 20 % in both arms", one(0.005, 0.005, 0.20), 0.005, True),
        ("errors: 0.5 % and 5 %", one(0.005, 0.05), 0.005, False),
        ("errors: every request of the candidate", one(0.005, 0.999), 0.005, False),
        ("slow: 1 % in both arms, 30 % in both for a while", one(0.01, 0.01, 0.30), 0.0, True),
        ("slow: 1 % and 5 %", one(0.01, 0.05), 0.0, False),
        ("a class: 30 % and 32 %, two points tolerated", one(0.30, 0.32), 0.02, True),
        ("a class: 30 % and 20 %", one(0.30, 0.20), 0.02, False),
        ("labels: 70 % in both arms", one(0.70, 0.70), 0.02, True),
        ("labels: 70 % and 60 %", one(0.70, 0.60), 0.02, False),
    ]
    rows = []
    for what, truth, tolerance, null in rates:
        both = what.startswith(("a class", "labels"))
        centre = truth.champion if both else 0.0  # what is expected of a class or of labels, known before
        found = guarded.rates(truth, runs=runs, seed=9, tolerance=tolerance, both_ways=both, centre=centre)
        rows.append({"what": what, "runs": runs, "null": null, **found})
    for what, loss in (("equal", 0.0), ("2 cents a user less, as tolerated", 0.02), ("6 cents less", 0.06)):
        found = guarded.business(runs=runs, seed=10, loss=loss)
        rows.append({"what": f"revenue, clipped: {what}", "runs": runs, "null": loss <= 0.02, **found})
    return rows


def hostile(runs: int) -> Rows:
    """Set-ups in which a test goes wrong easily."""
    rows: Rows = []
    for weight, level in ((0.05, 0.20), (0.05, 0.005), (0.5, 0.002)):
        what = Scenario(users=12_000, block=20, weights=((1.0, weight),), level=level)
        sd = level**0.5
        equal = judged(what, runs=runs, seed=11, sd=sd, planned=300)
        worse = judged(replace(what, gain=-MARGIN), runs=runs, seed=12, sd=sd, planned=300)
        rows.append(
            {
                "what": f"days of 20 users, {100 * weight:g} % for the candidate, {100 * level:g} % errors",
                "ours": max(equal.share("superiority"), worse.share("non_inferiority")),
                "harm": equal.share("harm"),
                "naive": max(equal.share("z"), worse.share("z_margin")),
                "runs": runs,
            }
        )
    back = attacks.returning(runs=runs, seed=13)
    case = "1,000 entities that come every day for 14 days"
    rows.append({"what": case, "ours": back["once"], "naive": back["every_day"], "runs": runs})
    ramp = attacks.returning_in_a_ramp(runs=runs, seed=13, come=0.3)
    case = "2,000 entities that come every third day, while the split is ramped"
    rows.append({"what": case, "ours": ramp, "runs": runs})
    few = max(runs // 5, 50)
    same = attacks.bandit(runs=few, seed=14, gains=(0.0, 0.0))
    case = "two equal candidates under Thompson sampling, rate .20 to .30"
    rows.append({"what": case, "ours": same["promoted"], "runs": few})
    hidden = judged(Scenario(hidden=0.2), runs=runs, seed=15)
    case = "a fifth of the candidate's bad losses never get a label"
    rows.append({"what": case, "ours": hidden.share("superiority"), "naive": hidden.share("z"), "runs": runs})
    return rows


def bandits(runs: int) -> Rows:
    """What Thompson sampling gains, and costs."""
    few = max(runs // 5, 50)
    return [
        {"gains": list(gains), "runs": few, **attacks.bandit(runs=few, seed=16, gains=gains)}
        for gains in ((0.03, -0.02), (0.03, 0.03), (0.05, -0.05, -0.05))
    ]


def looks(runs: int) -> Rows:
    """Share promoted by each look, for the plot."""
    equal = judged(Scenario(), runs=runs, seed=1)
    worse = judged(Scenario(gain=-MARGIN), runs=runs, seed=2)
    kept = [("equal", rule, equal) for rule in ("superiority", "z", "points")]
    kept += [("worse", rule, worse) for rule in ("non_inferiority", "z_margin")]
    rows: Rows = [
        {"truth": truth, "rule": rule, "by_look": _rounded(found.by_look(rule))} for truth, rule, found in kept
    ]
    for truth, found in (("equal", equal), ("worse", worse)):
        passed = [float((failed <= FAILURES).mean()) for failed in found.failures]
        rows.append({"truth": truth, "rule": "argo", "by_look": _rounded(passed)})
    return rows


def cost(runs: int) -> Rows:
    """Labels in an arm until superiority is shown, beside a test that is planned, and read once."""
    rows = []
    for gain in (0.01, 0.015, 0.02, 0.03, 0.05, 0.08):
        what = Scenario(users=80_000 if gain < 0.02 else 40_000, gain=gain)
        found = judged(what, runs=max(runs // 5, 200), seed=17)
        treated = found.treated["superiority"]
        said = needed(gain, sd=0.4, alpha=0.05, rho=rho(0.4, 6_000, 0.5, 0.05))
        rows.append(
            {
                "gain": gain,
                "fixed": fixed_sample(gain, sd=0.4, alpha=0.05),
                "median": float(np.quantile(treated, 0.5, method="higher")),
                "p80": float(np.quantile(treated, 0.8, method="higher")),
                "said": said.candidate if said else None,
            }
        )
    return rows


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]
