"""Anytime-valid tests of two arms: they may be read after every label without inflating the error rate.

Effects are in units of bounded loss, positive when the candidate is *better* (champion loss - candidate loss). Losses
may be 0 or 1, any number in 0..1, or heavy-tailed and clipped: with a loss of min(|error| / cap, 1) everything here is
about the mean of the *clipped* loss, so a candidate that is better on most rows and has a few errors beyond the cap
that are worse still counts as better. Watch those with a guardrail of their own.

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
    "log_mixture",
    "log_srm_e",
    "log_srm_many",
    "log_two_sided_e",
    "rho",
    "score",
    "score_many",
]

#: A stratum counts once both arms hold this many units: below it the estimated variance is too optimistic. Smaller
#: neighbours of the same epoch are put together until they do.
MIN_STRATUM = 10

#: The mixture is never tighter than this, in squares of the loss range: one loss moves the score by up to 1, and a
#: normal law of a few of them is too good. Without it, losses of 0.5 % at 5 % of the traffic, planned on a few hundred
#: labels, passed non-inferiority at the margin in 10 % of trials; with it in 3 %.
LEAST_RHO = 3.0


@dataclass(frozen=True, slots=True)
class Stratum:
    """Sufficient statistics of one time/stage stratum: count, sum and sum of squares of the loss in each arm.

    The key is `epoch/day` or just the day: within an epoch the weight of the candidate did not change. A unit is in
    one stratum only, that of its first exposure: one that returns every day would be counted as if it were many.
    """

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
    """Stratified score: S = sum w d, W = sum w, V = its variance. `d` > 0 when the candidate's loss is lower."""

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


def score(strata: Iterable[Stratum]) -> Score:
    """Sum the strata, which come in order of time; a trend over time between them cannot bias the sum."""
    rows = tuple(strata)
    if not rows:
        return Score(0.0, 0.0, 0.0, 0, 0)
    cells = np.array([r.to_list()[1:] for r in rows], dtype=np.float64).T[:, :, None]
    s, w, v, n_t, n_c = score_many(cells, [r.key.rpartition("/")[0] for r in rows])[:, 0].tolist()
    return Score(s, w, v, int(n_t), int(n_c))


def score_many(cells: NDArray[np.float64], epochs: Sequence[object]) -> NDArray[np.float64]:
    """The scores of many trials at once: cells [6, strata, trials], in the order of `Stratum`, to (s, w, v, n_t, n_c).

    Strata are put together with the next one of their epoch until both arms hold MIN_STRATUM units. That looks at
    counts only, which say nothing of the losses, and the weight of an epoch is constant: neither can bias the score.

    V is the larger of two estimates: with each arm's own variance, sum w^2 (s_t^2 / n_t + s_c^2 / n_c), and with the
    variance within both arms taken together. A small arm that has not met a rare loss yet has no variance of its own:
    with the first alone, equal models of 0.5 % errors at 5 % of the traffic were promoted in 24 % of trials.
    """
    total = np.zeros((6, cells.shape[2]))
    open_ = np.zeros((6, cells.shape[2]))
    for k, epoch in enumerate(epochs):
        if k and epoch != epochs[k - 1]:
            open_[:] = 0.0
        open_ += cells[:, k]
        full = (open_[0] >= MIN_STRATUM) & (open_[3] >= MIN_STRATUM)
        if not full.any():
            continue
        n_t, sum_t, sq_t, n_c, sum_c, sq_c = open_[:, full]
        w = n_t * n_c / (n_t + n_c)
        within_t = np.maximum(sq_t - sum_t * sum_t / n_t, 0.0)
        within_c = np.maximum(sq_c - sum_c * sum_c / n_c, 0.0)
        own = within_t / (n_t - 1.0) / n_t + within_c / (n_c - 1.0) / n_c
        shared = (within_t + within_c) / (n_t + n_c - 2.0) / w
        total[:, full] += np.stack([w * (sum_c / n_c - sum_t / n_t), w, w * w * own, w * w * shared, n_t, n_c])
        open_[:, full] = 0.0
    s, w, v_own, v_shared, n_t, n_c = total
    return np.stack([s, w, np.maximum(v_own, v_shared), n_t, n_c])


def rho(loss_sd: float, planned_per_arm: int, weight: float, alpha: float) -> float:
    """Mixture parameter that makes the boundary tightest at the planned sample (V* there), Howard et al. eq. 23.

    `planned_per_arm` counts the units of the smaller arm.
    """
    share = min(weight, 1.0 - weight)
    total = planned_per_arm / share
    v_star = loss_sd**2 * total * weight * (1.0 - weight)
    a = -2.0 * math.log(alpha)
    return max(v_star / (a + math.log(a + 1.0)), LEAST_RHO)


def log_e(found: Score, m0: float, rho_: float) -> float:
    """Log e-value against H0: effect <= m0 (one-sided normal mixture).

    >>> round(log_e(Score(s=30.0, w=500.0, v=100.0, n_t=1000, n_c=1000), 0.0, 10.0), 3)
    3.583
    """
    return float(log_mixture(found.s - m0 * found.w, found.v, rho_))


def log_mixture(s: Any, v: Any, rho_: float) -> Any:
    """The one-sided normal mixture for numbers or arrays: grows with the score `s`, whose variance is `v`."""
    scale = v + rho_
    return np.log(2.0) + 0.5 * np.log(rho_ / scale) + s * s / (2.0 * scale) + log_ndtr(s / np.sqrt(scale))


def log_two_sided_e(found: Score, m0: float, rho_: float) -> float:
    """Log e-value against H0: effect = m0 (normal mixture over both signs; `interval` is what it does not reject).

    >>> round(log_two_sided_e(Score(s=-30.0, w=500.0, v=100.0, n_t=1000, n_c=1000), 0.0, 10.0), 3)
    2.892
    """
    scale = found.v + rho_
    s = found.s - m0 * found.w
    return 0.5 * math.log(rho_ / scale) + s * s / (2.0 * scale)


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


def log_srm_e(counts: Sequence[int], shares: Sequence[float], concentration: float = 100.0) -> float:
    """Log e-value against H0: units fall on the arms, two or more, in `shares` (Dirichlet mixture around them).

    Arms without a share that got units prove the split wrong; the logs of epochs with other shares may be added.
    """
    n = np.asarray(counts, dtype=np.float64)
    theta = np.asarray(shares, dtype=np.float64)
    if (n[theta <= 0.0] > 0).any():
        return math.inf
    return float(log_srm_many(n[theta > 0.0], theta[theta > 0.0], concentration))


def log_srm_many(counts: NDArray[np.float64], shares: NDArray[np.float64], concentration: float = 100.0) -> Any:
    """`log_srm_e` of many trials at once: the last axis of `counts` are the arms, all of which have a share."""
    a = concentration * shares
    arms = gammaln(a + counts) - gammaln(a) - counts * np.log(shares)
    return gammaln(a.sum()) - gammaln(a.sum() + counts.sum(axis=-1)) + arms.sum(axis=-1)
