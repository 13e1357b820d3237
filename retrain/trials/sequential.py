"""Anytime-valid tests: they may be read after every label without inflating the error rate.

Effects are in units of bounded loss, positive when the candidate is *better* (champion loss - candidate loss).

Sources: Howard, Ramdas, McAuliffe, Sekhon 2021 (normal mixture boundaries); Waudby-Smith, Arbour, Sinha, Kennedy,
Ramdas 2021 (asymptotic confidence sequences); Waudby-Smith, Ramdas 2024 (betting); Lindon, Malek 2022 (SRM).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, log_ndtr

__all__ = [
    "Interval",
    "Score",
    "Stratum",
    "interval",
    "log_e",
    "log_harm_e",
    "log_paired_e",
    "log_srm_e",
    "paired_path",
    "rho",
    "score",
]

#: A stratum counts once both arms hold this many units: below it the estimated variance is too optimistic.
MIN_STRATUM = 10


@dataclass(frozen=True, slots=True)
class Stratum:
    """Sufficient statistics of one time/stage stratum: count, sum and sum of squares of the loss in each arm."""

    key: str
    n_t: int
    sum_t: float
    sq_t: float
    n_c: int
    sum_c: float
    sq_c: float

    def to_list(self) -> list[Any]:
        """The JSON form kept as evidence."""
        return [self.key, self.n_t, self.sum_t, self.sq_t, self.n_c, self.sum_c, self.sq_c]

    @classmethod
    def from_list(cls, row: Sequence[Any]) -> Stratum:
        """Read the JSON form."""
        key, n_t, sum_t, sq_t, n_c, sum_c, sq_c = row
        return cls(str(key), int(n_t), float(sum_t), float(sq_t), int(n_c), float(sum_c), float(sq_c))


@dataclass(frozen=True, slots=True)
class Score:
    """Stratified score: S = sum w d, W = sum w, V = sum w^2 v. `d` > 0 when the candidate's loss is lower."""

    s: float
    w: float
    v: float
    n_t: int
    n_c: int

    @property
    def effect(self) -> float:
        """Weighted mean difference of the strata."""
        return self.s / self.w if self.w > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds of an effect."""

    lower: float
    upper: float


def _variance(n: int, total: float, squares: float) -> float:
    return max(squares - total * total / n, 0.0) / (n - 1)


def score(strata: Iterable[Stratum]) -> Score:
    """Sum the strata in which both arms are big enough; a time trend inside none of them can bias the sum."""
    s = w_sum = v_sum = 0.0
    n_t = n_c = 0
    for x in strata:
        if x.n_t < MIN_STRATUM or x.n_c < MIN_STRATUM:
            continue
        w = x.n_t * x.n_c / (x.n_t + x.n_c)
        d = x.sum_c / x.n_c - x.sum_t / x.n_t
        v = _variance(x.n_t, x.sum_t, x.sq_t) / x.n_t + _variance(x.n_c, x.sum_c, x.sq_c) / x.n_c
        s, w_sum, v_sum = s + w * d, w_sum + w, v_sum + w * w * v
        n_t, n_c = n_t + x.n_t, n_c + x.n_c
    return Score(s, w_sum, v_sum, n_t, n_c)


def rho(loss_sd: float, planned_per_arm: int, weight: float, alpha: float) -> float:
    """Mixture parameter that makes the boundary tightest at the planned sample (V* there), Howard et al. eq. 23.

    `planned_per_arm` counts the units of the smaller arm.
    """
    share = min(weight, 1.0 - weight)
    total = planned_per_arm / share
    v_star = loss_sd**2 * total * weight * (1.0 - weight)
    a = -2.0 * math.log(alpha)
    return max(v_star, 1e-12) / (a + math.log(a + 1.0))


def log_e(found: Score, m0: float, rho_: float) -> float:
    """Log e-value against H0: effect <= m0 (one-sided normal mixture).

    >>> round(log_e(Score(s=30.0, w=500.0, v=100.0, n_t=1000, n_c=1000), 0.0, 10.0), 3)
    3.583
    """
    s = found.s - m0 * found.w
    scale = found.v + rho_
    return float(math.log(2.0) + 0.5 * math.log(rho_ / scale) + s * s / (2.0 * scale) + log_ndtr(s / math.sqrt(scale)))


def log_harm_e(found: Score, rho_: float) -> float:
    """Log e-value against H0: effect >= 0; large means that the candidate does harm."""
    return log_e(Score(-found.s, found.w, found.v, found.n_t, found.n_c), 0.0, rho_)


def interval(found: Score, alpha: float, rho_: float) -> Interval:
    """Two-sided 1 - alpha confidence sequence of the effect."""
    if found.w <= 0:
        return Interval(-1.0, 1.0)
    scale = found.v + rho_
    half = math.sqrt(scale * (2.0 * math.log(1.0 / alpha) + math.log(scale / rho_))) / found.w
    return Interval(max(found.effect - half, -1.0), min(found.effect + half, 1.0))


def paired_path(d: NDArray[np.float64], m0: float) -> NDArray[np.float64]:
    """Log wealth after each difference, betting against H0: E[d] <= m0 for d in [-1, 1], in the order given.

    Each bet uses the past only: lambda = clip((mean - m0) / (var + (mean - m0)^2), 0, 0.5 / (1 + m0)).
    """
    x = np.asarray(d, dtype=np.float64) - m0
    n = np.arange(x.size, dtype=np.float64)  # how many are past
    past = np.cumsum(x) - x
    past_sq = np.cumsum(x * x) - x * x
    mean = past / (n + 1.0)  # shrunk to the null by one observation
    var = np.maximum((past_sq + 0.25) / (n + 1.0) - mean * mean, 1e-12)
    bet = np.clip(mean / (var + mean * mean), 0.0, 0.5 / (1.0 + m0))
    path: NDArray[np.float64] = np.cumsum(np.log1p(bet * x))
    return path


def log_paired_e(d: NDArray[np.float64], m0: float) -> float:
    """Log e-value of paired differences: the last value of `paired_path`."""
    path = paired_path(d, m0)
    return float(path[-1]) if path.size else 0.0


def log_srm_e(counts: Sequence[int], shares: Sequence[float], concentration: float = 100.0) -> float:
    """Log e-value against H0: units fall on the arms in `shares` (Dirichlet mixture around them)."""
    n = np.asarray(counts, dtype=np.float64)
    theta = np.asarray(shares, dtype=np.float64)
    a = concentration * theta
    return float(
        gammaln(a.sum()) - gammaln(a.sum() + n.sum()) + (gammaln(a + n) - gammaln(a)).sum() - (n * np.log(theta)).sum()
    )
