"""What goes wrong easily: entities that come back, and a bandit that moves the traffic."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bench.promotion.rules import ALPHA
from bench.promotion.traffic import Floats
from retrain.trials.bandit import Arm, contrast, propensities
from retrain.trials.sequential import log_e, log_mixture, rho, score, score_many


def returning(*, runs: int, seed: int, entities: int = 1_000, days: int = 14) -> dict[str, float]:
    """Equal models; each entity keeps its arm and its own error rate and comes every day.

    `every_day` counts it anew in each day's stratum, `once` with the mean of what is known in that of its first day.
    """
    r = rho(0.4, 3_000, 0.5, ALPHA)
    fired = {"every_day": 0, "once": 0}
    chunk = 250
    for at in range(0, runs, chunk):
        generator = np.random.default_rng([seed, at])
        size = min(chunk, runs - at)
        level = generator.beta(0.4, 1.6, (size, entities))
        treated = generator.random((size, entities)) < 0.5
        total = np.zeros((size, entities))
        daily = np.zeros((6, days, size))
        hit = {name: np.zeros(size, dtype=bool) for name in fired}
        for day in range(days):
            loss = (generator.random((size, entities)) < level).astype(np.float64)
            total += loss
            daily[:, day] = _cells(loss, treated)
            s, _, v, *_ = score_many(daily[:, : day + 1], range(day + 1))
            hit["every_day"] |= log_mixture(s, v, r) >= -math.log(ALPHA)
            s, _, v, *_ = score_many(_cells(total / (day + 1), treated)[:, None], [0])
            hit["once"] |= log_mixture(s, v, r) >= -math.log(ALPHA)
        for name, found in hit.items():
            fired[name] += int(found.sum())
    return {name: count / runs for name, count in fired.items()}


def returning_in_a_ramp(*, runs: int, seed: int, come: float, entities: int = 2_000, days: int = 15) -> float:
    """Equal models, 5 days each at 5, 25 and 50 %; entities come back with chance `come` a day, also on the other arm.

    As in production a unit counts in the last step that saw it, in the stratum of its first day there: what is known
    of the earlier steps gets less while the ramp goes on. The share of trials ever promoted.
    """
    r = rho(0.4, 3_000, 0.5, ALPHA)
    weights, length, chunk, fired = (0.05, 0.25, 0.5), days // 3, 100, 0
    for at in range(0, runs, chunk):
        generator = np.random.default_rng([seed, at])
        shape = (min(chunk, runs - at), entities)
        level, drawn = generator.beta(0.4, 1.6, shape), generator.random(shape)
        total, n, place = np.zeros(shape), np.zeros(shape), np.full(shape, -1)
        hit = np.zeros(shape[0], dtype=bool)
        for day in range(days):
            here = generator.random(shape) < come
            anew = here & (place < day - day % length)  # the first time in this step
            place[anew], total[anew], n[anew] = day, 0.0, 0.0
            total += here & (generator.random(shape) < level)
            n += here
            treated = drawn < np.array(weights)[np.maximum(place, 0) // length]
            value = total / np.maximum(n, 1.0)
            strata = [_cells(value, treated, seen=place == d) for d in range(day + 1)]
            s, _, v, n_t, _ = score_many(np.stack(strata, axis=1), [d // length for d in range(day + 1)])
            hit |= (n_t >= 100) & (log_mixture(s, v, r) >= -math.log(ALPHA))
        fired += int(hit.sum())
    return fired / runs


def bandit(*, runs: int, seed: int, gains: tuple[float, ...], epochs: int = 20, users: int = 1_200) -> dict[str, float]:
    """Champion and candidates under Thompson sampling while the base rate rises from .20 to .30.

    `promoted` is the share of trials in which any candidate was ever shown better, each at alpha / candidates;
    `best_share` the traffic that the best arm got.
    """
    arms = list(range(len(gains) + 1))
    true = np.array([0.0, *gains])
    r = rho(0.4, 6_000, 0.5, ALPHA)
    bar = math.log(len(gains) / ALPHA)
    promoted, best, right = 0, 0.0, 0
    for run in range(runs):
        generator = np.random.default_rng([seed, run])
        seen: list[dict[int, Arm]] = []
        traffic = np.zeros(len(arms))
        winner = -1
        for epoch in range(epochs):
            chances = propensities(seen, arms)
            n = generator.multinomial(users, [chances[a] for a in arms])
            bad = generator.binomial(n, 0.20 + 0.10 * epoch / epochs - true)
            seen.append({a: Arm(int(n[a]), float(bad[a]), float(bad[a])) for a in arms})
            traffic += n
            shown = [log_e(score(contrast(seen, champion=0, candidate=a)), 0.0, r) for a in arms[1:]]
            if winner < 0 and max(shown) >= bar:
                winner = 1 + int(np.argmax(shown))
        promoted += winner >= 0
        right += winner >= 0 and true[winner] == true.max()
        best += traffic[int(true.argmax())] / traffic.sum()
    return {"promoted": promoted / runs, "best_promoted": right / runs, "best_share": best / runs}


def _cells(value: Floats, treated: NDArray[np.bool_], seen: NDArray[np.bool_] | None = None) -> Floats:
    found = []
    for arm in (treated, ~treated):
        mine = arm if seen is None else arm & seen
        found += [mine.sum(axis=1), (value * mine).sum(axis=1), (value * value * mine).sum(axis=1)]
    return np.stack(found).astype(np.float64)
