"""Several candidates at once: Thompson sampling says which arm deserves the traffic; only the e-test promotes.

The propensities hold for an epoch, and each epoch is a stratum of its own: within it every user has the same chances,
so the test of a candidate against the champion stays valid however the bandit moves between epochs. With k candidates
each is tested at alpha / k.

Source: Thompson 1933; probabilities of being best by quadrature instead of sampling, so that the same state gives the
same propensities in any order of the arms and without a seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from registry.errors import ConfigInvalid
from retrain.trials.sequential import Stratum

__all__ = ["Arm", "contrast", "propensities"]

#: No arm gets less than this: one that looked bad on a bad day can come back, and its test goes on.
FLOOR = 0.05
_GRID = 4_001


@dataclass(frozen=True, slots=True)
class Arm:
    """Labelled losses of one version in one epoch: how many units, their sum and sum of squares."""

    n: int
    total: float
    squares: float

    def to_list(self) -> list[Any]:
        """The JSON form kept as evidence."""
        return [self.n, self.total, self.squares]

    @classmethod
    def from_list(cls, row: Sequence[Any]) -> Arm:
        """Read the JSON form."""
        n, total, squares = row
        return cls(int(n), float(total), float(squares))


Epoch = Mapping[int, Arm]


def propensities(
    epochs: Sequence[Epoch], arms: Sequence[int], *, floor: float = FLOOR, prior_sd: float = 0.1
) -> dict[int, float]:
    """Each version's chance of being drawn in the next epoch: how likely it is the best, and never below `floor`.

    Arms are compared within epochs only, so that a base rate that moves does not favour the arm that had the traffic.
    `prior_sd` is how far apart mean losses are thought to be before the first label.

    >>> seen = {1: Arm(1000, 200.0, 200.0), 2: Arm(1000, 180.0, 180.0), 3: Arm(1000, 260.0, 260.0)}
    >>> {version: round(p, 3) for version, p in propensities([seen], [1, 2, 3]).items()}
    {1: 0.168, 2: 0.782, 3: 0.05}

    Raises:
        ConfigInvalid: fewer than two arms, one twice, or a floor that leaves nothing to share out.
    """
    if len(arms) < 2 or len(set(arms)) < len(arms) or not 0.0 <= floor * len(arms) <= 1.0:
        raise ConfigInvalid(
            "the arms cannot share the traffic",
            where="arms",
            expected=f"two or more different versions, at most {math.floor(1 / floor) if floor > 0 else 'any number'}",
            got=f"{len(arms)} arms with a floor of {floor}",
        )
    mean, sd = _posterior(epochs, arms, prior_sd)
    best = _chance_of_least(mean, sd)
    shared = floor + (1.0 - floor * len(arms)) * best
    return dict(zip(arms, (shared / shared.sum()).tolist(), strict=True))


def contrast(epochs: Sequence[Epoch], *, champion: int, candidate: int) -> tuple[Stratum, ...]:
    """What the e-test of one candidate against the champion takes: a stratum for each epoch of the bandit."""
    none = Arm(0, 0.0, 0.0)
    pairs = [(e.get(candidate, none), e.get(champion, none)) for e in epochs]
    return tuple(Stratum(f"{i}/", t.n, t.total, t.squares, c.n, c.total, c.squares) for i, (t, c) in enumerate(pairs))


def _posterior(epochs: Sequence[Epoch], arms: Sequence[int], prior_sd: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and deviation of each arm's loss beside the others': least squares with an effect of each epoch."""
    cells = np.array([[e.get(a, Arm(0, 0.0, 0.0)).to_list() for a in arms] for e in epochs], dtype=np.float64)
    cells = cells.reshape(len(epochs), len(arms), 3)
    n, total, squares = cells[:, :, 0], cells[:, :, 1], cells[:, :, 2]
    whole = np.maximum(n.sum(axis=1), 1.0)
    information = np.diag(n.sum(axis=0)) - (n.T / whole) @ n
    score = (total - n * (total.sum(axis=1) / whole)[:, None]).sum(axis=0)
    within = (squares - total**2 / np.maximum(n, 1.0)).sum()
    # a quarter is the most that losses in 0..1 can vary; two units of it until the rows say otherwise
    variance = (within + 0.5) / (max(float((np.maximum(n - 1.0, 0.0)).sum()), 0.0) + 2.0)
    precision = information / variance + np.eye(len(arms)) / prior_sd**2
    covariance = np.linalg.inv(precision)
    return covariance @ score / variance, _own_deviation(covariance)


def _own_deviation(covariance: NDArray[Any]) -> NDArray[Any]:
    """Deviations of independent normals whose differences vary as those of correlated ones do (least squares).

    The level that all arms share is uncertain too, and says nothing about which is best.
    """
    k = len(covariance)
    diagonal = np.diag(covariance)
    apart = diagonal[:, None] + diagonal[None, :] - 2.0 * covariance
    own = np.full(2, apart[0, 1] / 2.0)
    if k > 2:
        own = (apart.sum(axis=1) - apart.sum() / (2.0 * (k - 1))) / (k - 2)
    found: NDArray[Any] = np.sqrt(np.maximum(own, 1e-3 * apart.max()))
    return found


def _chance_of_least(mean: NDArray[Any], sd: NDArray[Any]) -> NDArray[Any]:
    """How likely each of independent normals is the smallest."""
    x = np.linspace(float((mean - 8.0 * sd).min()), float((mean + 8.0 * sd).max()), _GRID)
    z = (x[None, :] - mean[:, None]) / sd[:, None]
    above = log_ndtr(-z)
    density = -0.5 * z * z - np.log(sd)[:, None] + above.sum(axis=0) - above
    mass = np.exp(density - density.max()).sum(axis=1)
    found: NDArray[Any] = mass / mass.sum()
    return found
