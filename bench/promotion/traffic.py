"""Users who arrive, are drawn into an arm and have a loss: many trials at once, by sums that are exactly sufficient.

A look comes every 200 users. The base rate is constant in between, so that binary losses of an arm are one binomial
draw; heavy-tailed losses are drawn user by user and summed. Strata are blocks of users within a stage of the ramp,
as days are in production.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Heavy tails: the absolute error is Pareto with this index (no variance), clipped at CAP and divided by it.
TAIL, CAP = 1.5, 10.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is true. `gain` lowers the candidate's mean loss; `missing` are shares of labels lost (candidate, champion).

    `hidden` is the share of the candidate's *bad* losses whose label never comes: missing not at random.
    """

    users: int = 24_000
    look: int = 200
    block: int = 1_000
    gain: float = 0.0
    base: Literal["constant", "trend", "falling", "sine"] = "constant"
    weights: tuple[tuple[float, float], ...] = ((1.0, 0.5),)
    loss: Literal["binary", "heavy"] = "binary"
    level: float = 0.20
    delay: Literal["none", "exponential", "weekly"] = "none"
    missing: tuple[float, float] = (0.0, 0.0)
    hidden: float = 0.0

    @property
    def looks(self) -> int:
        """How often somebody looks."""
        return self.users // self.look

    def weight(self, look: int) -> float:
        """The candidate's weight: `weights` are (until this share of the users, weight)."""
        done = look / self.looks
        found: float = next(weight for until, weight in self.weights if done < until)
        return found

    def rate(self, look: int) -> float:
        """The champion's mean loss, for binary losses."""
        done = look / self.looks
        if self.base == "trend":
            return self.level + 0.10 * done
        if self.base == "falling":
            return self.level + 0.10 * (1.0 - done)
        if self.base == "sine":
            return self.level + 0.05 + 0.05 * math.sin(2.0 * math.pi * look * self.look / 2_400)
        return self.level

    def scale(self, look: int) -> float:
        """The champion's errors are multiplied by this, for heavy-tailed losses."""
        found: float = self.rate(look) / self.level
        return found


RAMP = ((0.2, 0.05), (0.5, 0.25), (1.0, 0.5))


def heavy_mean(scale: float) -> float:
    """Mean of the clipped loss min(scale * X, CAP) / CAP for Pareto X - 1: what clipping makes of a tail."""
    c = CAP / scale
    return float(scale * (1.0 - (1.0 + c) ** (1.0 - TAIL)) / ((TAIL - 1.0) * CAP))


def heavy_scale(mean: float) -> float:
    """The scale at which the mean clipped loss is this."""
    low, high = 1e-6, 1e3
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if heavy_mean(middle) < mean else (low, middle)
    return low


def watched(what: Scenario, runs: int, generator: np.random.Generator) -> Iterator[tuple[int, Floats, list[float]]]:
    """At each look: its number, what is known of the strata as `score_many` takes it, and their epochs."""
    keys = [(what.weight(i), i * what.look // what.block) for i in range(what.looks)]
    strata = list(dict.fromkeys(keys))
    known = np.zeros((6, len(strata), runs))
    pool = np.zeros((4, len(strata), runs), dtype=np.int64)  # binary: labels on their way, by arm and loss
    held: list[tuple[int, Floats]] = []  # weekly: sums on their way
    arrives = -math.expm1(-what.look / 2_000.0)  # the mean delay is 2,000 users
    for i in range(what.looks):
        k = strata.index(keys[i])
        if what.loss == "binary":
            fresh = _binary(what, i, runs, generator)
            if what.delay == "exponential":
                pool[:, k] += fresh
                here = generator.binomial(pool[:, : k + 1], arrives)
                pool[:, : k + 1] -= here
                known[:, : k + 1] += _sums(here)
            else:
                held.append((k, _sums(fresh)))
        else:
            held.append((k, _heavy(what, i, runs, generator)))
        if what.delay != "weekly" or (i + 1) * what.look % 5_000 == 0:
            for at, sums in held:
                known[:, at] += sums
            held.clear()
        yield i, known[:, : k + 1], [weight for weight, _ in strata[: k + 1]]


def _binary(what: Scenario, look: int, runs: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Labelled users of one look: candidate's bad and good, champion's bad and good."""
    p = what.rate(look)
    n_t = generator.binomial(what.look, what.weight(look), runs)
    bad_t, bad_c = generator.binomial(n_t, p - what.gain), generator.binomial(what.look - n_t, p)
    found = np.stack([bad_t, n_t - bad_t, bad_c, what.look - n_t - bad_c])
    lost_t, lost_c = what.missing
    if lost_t or lost_c or what.hidden:
        kept = [(1.0 - lost_t) * (1.0 - what.hidden), 1.0 - lost_t, 1.0 - lost_c, 1.0 - lost_c]
        found = generator.binomial(found, np.array(kept)[:, None])
    return found


def _sums(counts: NDArray[np.int64]) -> Floats:
    """Counts of bad and good, to n, sum and sum of squares of each arm."""
    bad_t, good_t, bad_c, good_c = counts
    return np.stack([bad_t + good_t, bad_t, bad_t, bad_c + good_c, bad_c, bad_c]).astype(np.float64)


def _heavy(what: Scenario, look: int, runs: int, generator: np.random.Generator) -> Floats:
    n_t = generator.binomial(what.look, what.weight(look), runs)
    lost_t, lost_c = what.missing
    kept_t = generator.binomial(n_t, 1.0 - lost_t) if lost_t else n_t
    kept_c = generator.binomial(what.look - n_t, 1.0 - lost_c) if lost_c else what.look - n_t
    x = (1.0 - generator.random((runs, what.look), dtype=np.float32)) ** np.float32(-1.0 / TAIL) - np.float32(1.0)
    scale = what.scale(look)
    shifted = heavy_scale(heavy_mean(scale) - what.gain)
    column = np.arange(what.look)
    found = []
    for factor, n, mine in (
        (shifted, kept_t, column < kept_t[:, None]),
        (scale, kept_c, column >= what.look - kept_c[:, None]),
    ):
        loss = np.where(mine, np.minimum(x * np.float32(factor / CAP), np.float32(1.0)), np.float32(0.0))
        found += [n, loss.sum(axis=1, dtype=np.float64), np.einsum("ij,ij->i", loss, loss, dtype=np.float64)]
    return np.stack(found).astype(np.float64)
