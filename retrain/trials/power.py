"""How many more labels a trial needs: a forecast, never a decision.

The log wealth of a test is close to a Brownian motion with drift; the chance that one crosses a line by some time has
a closed form (Siegmund 1985, eq. 3.13), and the boundary of the mixture is replaced by its tangent there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from retrain.trials.sequential import Score, log_mixture

__all__ = ["Needed", "fixed_sample", "needed", "needed_paired"]

_MOST = 1e9  # labels: beyond it the answer is "not at this effect"
#: Log wealth lost to learning the bet, per log of the information: fitted to simulation, good to 7 points of power.
_LEARNING = 0.75
_LEAST_SD = 1e-6  # a loss that does not vary says nothing about the next
_EMPTY = Score(0.0, 0.0, 0.0, 0, 0)


@dataclass(frozen=True, slots=True)
class Needed:
    """Labels still to come in each arm, at the effect that was assumed."""

    candidate: int
    champion: int

    @property
    def total(self) -> int:
        """Of both arms together."""
        return self.candidate + self.champion


def needed(
    effect: float,
    *,
    sd: float,
    alpha: float,
    rho: float,
    margin: float = 0.0,
    weight: float = 0.5,
    power: float = 0.8,
    seen: Score = _EMPTY,
) -> Needed | None:
    """Labels until H0 effect <= -margin is rejected with this power, from what is `seen` on; None if never so.

    >>> needed(0.02, sd=0.4, alpha=0.05, rho=60.0, power=0.8)
    Needed(candidate=8752, champion=8752)
    """
    drift = effect + margin
    share = weight * (1.0 - weight)
    if sd < _LEAST_SD or share * sd * sd < _LEAST_SD**2:
        return None
    start = seen.s + margin * seen.w

    def chance(labels: float) -> float:
        v = seen.v + sd * sd * share * labels
        line, slope = _tangent(v, alpha, rho)
        return _crosses(line + slope * seen.v - start, drift / sd**2 - slope, v - seen.v)

    labels = _solve(chance, power, already=log_mixture(start, seen.v, rho) >= -math.log(alpha))
    return None if labels is None else Needed(math.ceil(labels * weight), math.ceil(labels * (1.0 - weight)))


def needed_paired(
    effect: float, *, sd: float, alpha: float, margin: float = 0.0, power: float = 0.8, log_e: float = 0.0, n: int = 0
) -> int | None:
    """Paired labels until the bet against H0 effect <= -margin wins; `sd` is of the differences, `log_e` after `n`.

    >>> needed_paired(0.02, sd=0.31, alpha=0.05)
    3369
    """
    drift = effect + margin
    if sd < _LEAST_SD or drift <= 0.0:
        return None
    bet = min(drift / (sd * sd + drift * drift), 0.5 / (1.0 - margin))
    growth = bet * drift - 0.5 * bet * bet * (sd * sd + drift * drift)
    spread = (bet * sd) ** 2

    def chance(labels: float) -> float:
        # what is lost until the bets have found their size
        learning = _LEARNING * (math.log1p((n + labels) * spread) - math.log1p(n * spread))
        return _crosses(-math.log(alpha) - log_e + learning, growth / spread, labels * spread)

    labels = _solve(chance, power, already=log_e >= -math.log(alpha))
    return None if labels is None else math.ceil(labels)


def fixed_sample(effect: float, *, sd: float, alpha: float, margin: float = 0.0, power: float = 0.8) -> int:
    """Labels per arm of a z-test that is read once, at half the traffic each: what looking at any time is paid with."""
    z = -_quantile(alpha) - _quantile(1.0 - power)
    return math.ceil(2.0 * (z * sd / (effect + margin)) ** 2)


def _quantile(p: float) -> float:
    return float(brentq(lambda x: float(ndtr(x)) - p, -12.0, 12.0))


def _tangent(v: float, alpha: float, rho: float) -> tuple[float, float]:
    """Height at 0 and slope of the line that touches the one-sided mixture boundary at V = v."""

    def boundary(at: float) -> float:
        bar = -math.log(alpha)
        high = math.sqrt(2.0 * (at + rho) * (bar + 0.5 * math.log((at + rho) / rho))) + 1.0
        return float(brentq(lambda s: float(log_mixture(s, at, rho)) - bar, 0.0, high))

    step = 1e-4 * (v + rho)
    height = boundary(v)
    slope = (boundary(v + step) - height) / step
    return height - slope * v, slope


def _crosses(line: float, drift: float, v: float) -> float:
    """Chance that a Brownian motion with this drift has been at `line` by time v."""
    if v <= 0.0 or line <= 0.0:
        return 1.0 if line <= 0.0 else 0.0
    root = math.sqrt(v)
    back = 2.0 * line * drift + float(log_ndtr((-line - drift * v) / root))
    return min(float(ndtr((drift * v - line) / root)) + math.exp(min(back, 0.0)), 1.0)


def _solve(chance: Callable[[float], float], power: float, *, already: bool) -> float | None:
    if already:
        return 0.0
    if chance(1.0) >= power:
        return 1.0
    if chance(_MOST) < power:
        return None
    return float(math.exp(brentq(lambda x: chance(math.exp(x)) - power, 0.0, math.log(_MOST), xtol=1e-6)))
