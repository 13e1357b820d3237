"""What decides: our tests, and the rules in common use, each told by the first look at which it would have promoted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.promotion.traffic import Floats, Scenario, watched
from retrain.trials.sequential import log_mixture, rho, score_many

ALPHA, MARGIN, HARM_ALPHA = 0.05, 0.01, 0.01
MIN_PER_ARM = 300  # labels in the smaller arm before anything may be promoted, as by default
NEVER = 1 << 30
CHUNK = 2_500  # trials at once: what fits the processor's cache

#: A threshold rule as of Argo Rollouts' examples: an interval fails when the candidate's loss of these 200 users is
#: more than 5 points above the champion's; more than three failures abort, otherwise the last look promotes.
SLACK, FAILURES = 0.05, 3


@dataclass(frozen=True, slots=True)
class Fired:
    """The first look (from 1) at which each rule fired, and what was known in the candidate's arm by then."""

    look: Mapping[str, NDArray[np.int64]]
    treated: Mapping[str, Floats]
    failures: NDArray[np.int64]  # [looks, runs]: intervals that failed so far

    def share(self, rule: str) -> float:
        """In how many of the trials it ever fired."""
        return float((self.look[rule] < NEVER).mean())

    def by_look(self, rule: str) -> list[float]:
        """In how many it had fired by each look."""
        looks = self.failures.shape[0]
        return [float((self.look[rule] <= k + 1).mean()) for k in range(looks)]


def judged(what: Scenario, *, runs: int, seed: int, sd: float = 0.4, planned: int = 6_000) -> Fired:
    """Look at `runs` trials of the same truth."""
    parts = [
        _chunk(what, min(CHUNK, runs - at), np.random.default_rng([seed, at]), rho(sd, planned, 0.5, ALPHA))
        for at in range(0, runs, CHUNK)
    ]
    return Fired(
        {name: np.concatenate([p.look[name] for p in parts]) for name in parts[0].look},
        {name: np.concatenate([p.treated[name] for p in parts]) for name in parts[0].treated},
        np.concatenate([p.failures for p in parts], axis=1),
    )


def _chunk(what: Scenario, runs: int, generator: np.random.Generator, r: float) -> Fired:
    look: dict[str, NDArray[np.int64]] = {}
    treated: dict[str, Floats] = {}
    failures = np.zeros((what.looks, runs), dtype=np.int64)
    failed = np.zeros(runs, dtype=np.int64)
    before = np.zeros((6, runs))
    with np.errstate(divide="ignore", invalid="ignore"):  # an arm may be empty at first
        for i, cells, epochs in watched(what, runs, generator):
            s, w, v, n_t, n_c = score_many(cells, epochs)
            pooled = cells.sum(axis=1)
            enough = np.minimum(n_t, n_c) >= MIN_PER_ARM
            fired = {
                "superiority": enough & (log_mixture(s, v, r) >= -math.log(ALPHA)),
                "non_inferiority": enough & (log_mixture(s + MARGIN * w, v, r) >= -math.log(ALPHA)),
                "harm": log_mixture(-s, v, r) >= -math.log(HARM_ALPHA),
            }
            enough = np.minimum(pooled[0], pooled[3]) >= MIN_PER_ARM
            fired["z"] = enough & (_z(pooled, 0.0) > 1.645)
            fired["z_margin"] = enough & (_z(pooled, MARGIN) > 1.645)
            fired["points"] = enough & (_difference(pooled) > 0.0)
            if i + 1 == what.looks:
                fired["z_once"] = _z(pooled, 0.0) > 1.645
                fired["z_margin_once"] = _z(pooled, MARGIN) > 1.645
            for name, now in fired.items():
                known = look.setdefault(name, np.full(runs, NEVER))
                first = now & (known == NEVER)
                known[first] = i + 1
                treated.setdefault(name, np.full(runs, np.inf))[first] = pooled[0][first]
            failed = failed + (_difference(pooled - before) < -SLACK)
            failures[i], before = failed, pooled
    return Fired(look, treated, failures)


def _difference(cells: Floats) -> Floats:
    n_t, sum_t, _, n_c, sum_c, _ = cells
    found: Floats = sum_c / n_c - sum_t / n_t
    return found


def _z(cells: Floats, margin: float) -> Floats:
    """What many dashboards do: one z-test over everything so far, with no strata."""
    n_t, sum_t, sq_t, n_c, sum_c, sq_c = cells
    v = (sq_t - sum_t * sum_t / n_t) / n_t**2 + (sq_c - sum_c * sum_c / n_c) / n_c**2
    found: Floats = (_difference(cells) + margin) / np.sqrt(v)
    return found
