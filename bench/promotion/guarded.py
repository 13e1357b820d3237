"""Guardrails beside the trial: how often each sends an equal candidate back, and how soon a bad one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.promotion.traffic import CAP, TAIL, Floats
from retrain.trials.guards import ALPHA, Outcome, log_factors
from retrain.trials.sequential import log_mixture, rho, score_many

BAR = -math.log(ALPHA)
STEPS = ((0.1, 0.01), (0.3, 0.05), (0.6, 0.25), (1.0, 0.5))  # until this share of the users: weight
USERS, LOOK = 24_000, 200


@dataclass(frozen=True, slots=True)
class Truth:
    """Rates of an event in both arms; from 30 to 45 % of the way `incident` is added to both."""

    champion: float
    candidate: float
    incident: float = 0.0


def rates(
    truth: Truth, *, runs: int, seed: int, tolerance: float, both_ways: bool = False, centre: float = 0.0
) -> dict[str, float]:
    """The rate test that errors, slow answers, classes and labels share; beside it a pooled z-test at 1 %, peeking."""
    generator = np.random.default_rng(seed)
    wealth = {(sign, w): 0.0 for sign in ((1, -1) if both_ways else (1,)) for _, w in STEPS}
    factors = {key: log_factors(key[1], tolerance=tolerance, centre=centre, sign=key[0]) for key in wealth}
    totals = {sign: np.zeros((30, runs)) for sign, _ in wealth}
    seen = np.zeros((4, runs))
    first = np.full(runs, np.inf)
    peeked = np.zeros(runs, dtype=bool)
    for look in range(USERS // LOOK):
        done = look * LOOK / USERS
        w = next(weight for until, weight in STEPS if done < until)
        extra = truth.incident if 0.3 <= done < 0.45 else 0.0
        n_t = generator.binomial(LOOK, w, runs)
        hits_t = generator.binomial(n_t, truth.candidate + extra)
        hits_c = generator.binomial(LOOK - n_t, truth.champion + extra)
        fresh = np.stack([hits_t, n_t - hits_t, hits_c, LOOK - n_t - hits_c]).astype(np.float64)
        seen += fresh
        totals = {sign: total + factors[sign, w] @ fresh for sign, total in totals.items()}
        fired = _log_mean(np.stack([_log_mean(total) for total in totals.values()])) >= BAR
        first = np.where(fired & np.isinf(first), seen[0] + seen[1], first)
        peeked |= _z(seen, tolerance) > 2.326
    return {
        "fired": float(np.isfinite(first).mean()),
        "median_treated": float(np.median(first)),
        "z_peeking": float(peeked.mean()),
    }


def business(*, runs: int, seed: int, loss: float, tolerance: float = 0.02, sold: float = 0.05) -> dict[str, float]:
    """Revenue: one user in twenty buys, for a Pareto amount clipped at 10; the candidate's mean is lower by `loss`."""
    generator = np.random.default_rng(seed)
    what = Outcome("revenue", bounds=(0.0, CAP), higher_is_better=True, tolerance=tolerance, sd=0.0)
    amount = CAP * (1.0 - (1.0 + CAP) ** (1.0 - TAIL)) / ((TAIL - 1.0) * CAP)  # mean of a clipped sale
    rate = sold - loss / amount
    r = rho(math.sqrt(sold * _square()), 6_000, 0.5, ALPHA)
    known = np.zeros((6, USERS // 1_000, runs))
    first = np.full(runs, np.inf)
    for look in range(USERS // LOOK):
        n_t = generator.binomial(LOOK, 0.5, runs)
        for at, n, p in ((0, n_t, rate), (3, LOOK - n_t, sold)):
            sales = generator.binomial(n, p)
            total, squares = _sales(sales, generator)
            known[at : at + 3, look * LOOK // 1_000] += np.stack([n, total, squares])
        s, w, v, n_known, _ = score_many(known[:, : look * LOOK // 1_000 + 1], [0] * (look * LOOK // 1_000 + 1))
        fired = log_mixture(s - what.tolerance * w, v, r) >= BAR  # score > 0: the candidate's mean is lower
        first = np.where(fired & np.isinf(first), n_known, first)
    return {"fired": float(np.isfinite(first).mean()), "median_treated": float(np.median(first))}


def _sales(count: NDArray[np.int64], generator: np.random.Generator) -> tuple[Floats, Floats]:
    most = int(count.max())
    x = np.minimum((1.0 - generator.random((count.size, most))) ** (-1.0 / TAIL) - 1.0, CAP)
    x = np.where(np.arange(most) < count[:, None], x, 0.0)
    return x.sum(axis=1), (x * x).sum(axis=1)


def _square() -> float:
    """Mean square of a clipped sale, by its distribution."""
    u = (np.arange(200_000) + 0.5) / 200_000
    return float((np.minimum((1.0 - u) ** (-1.0 / TAIL) - 1.0, CAP) ** 2).mean())


def _z(seen: Floats, tolerance: float) -> Floats:
    hits_t, rest_t, hits_c, rest_c = seen
    n_t, n_c = hits_t + rest_t, hits_c + rest_c
    with np.errstate(divide="ignore", invalid="ignore"):
        p_t, p_c = hits_t / n_t, hits_c / n_c
        found: Floats = (p_t - p_c - tolerance) / np.sqrt(p_t * (1 - p_t) / n_t + p_c * (1 - p_c) / n_c)
    return np.where(n_t >= 30, np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0), 0.0)


def _log_mean(logs: Floats) -> Floats:
    most = logs.max(axis=0)
    found: Floats = most + np.log(np.exp(logs - most).mean(axis=0))
    return found
