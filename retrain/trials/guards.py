"""Guardrails of a trial: anytime-valid tests that may be read after every request, and roll back at e >= 100.

A unit is an entity (a request, where there is none), never several requests of one entity: those share their arm.
Every test is by what was *assigned*: a request that the candidate failed and the champion answered is the candidate's.

Sources: betting on inverse-probability-weighted differences, Waudby-Smith, Ramdas 2024 and Waudby-Smith, Wu, Ramdas,
Karampatziakis, Mineiro 2024; with no tolerance it is the test of Lindon, Sanden, Shirikian 2022 of which arm an error
falls on. Mixtures over the bet: Howard, Ramdas, McAuliffe, Sekhon 2021.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain.trials.sequential import Score, Stratum, log_e, rho, score

__all__ = [
    "ALPHA",
    "Counts",
    "Outcome",
    "Reading",
    "clipped",
    "error_rate",
    "label_rate",
    "latency",
    "log_factors",
    "log_rate_e",
    "log_share_e",
    "outcome",
    "prediction_mean",
    "prediction_rates",
]

#: Each guardrail errs in at most this share of trials, however often it is read.
ALPHA = 0.01

#: Bets are mixed evenly over these relative excesses: from 5 % more hits than allowed to a thousand times as many.
_EXCESS = np.geomspace(0.05, 1_000.0, 30)
_LARGEST = 0.95  # of the bet at which one unit could lose everything


@dataclass(frozen=True, slots=True)
class Counts:
    """Units of one stretch of time with one weight of the candidate, and how many had the event (failed, were slow)."""

    key: str
    weight: float
    n_t: int
    hits_t: int
    n_c: int
    hits_c: int

    def to_list(self) -> list[Any]:
        """The JSON form kept as evidence."""
        return [self.key, self.weight, self.n_t, self.hits_t, self.n_c, self.hits_c]

    @classmethod
    def from_list(cls, row: Sequence[Any]) -> Counts:
        """Read the JSON form."""
        key, weight, n_t, hits_t, n_c, hits_c = row
        return cls(str(key), float(weight), int(n_t), int(hits_t), int(n_c), int(hits_c))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A business metric fixed before the trial: values are clipped to `bounds`, `sd` is the champion's.

    What is tested is the mean of the *clipped* values: rare values beyond the bounds count as the bound.
    """

    name: str
    bounds: tuple[float, float]
    higher_is_better: bool
    tolerance: float
    sd: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What one guardrail says: `seen` is candidate minus champion, `allowed` how far it may go, in the same units."""

    name: str
    log_e: float
    seen: float
    allowed: float
    n_t: int
    n_c: int

    @property
    def fired(self) -> bool:
        """Whether the candidate has to go."""
        return self.log_e >= -math.log(ALPHA)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form kept as evidence."""
        return {**asdict(self), "fired": self.fired}


def error_rate(counts: Iterable[Counts], *, tolerance: float) -> Reading:
    """H0: the candidate's error rate is at most the champion's at the same time, plus `tolerance`. Exact for any n."""
    rows = tuple(counts)
    return _reading("error_rate", log_rate_e(rows, tolerance=tolerance), rows, tolerance)


def latency(counts: Iterable[Counts], *, share: float) -> Reading:
    """H0: at most `share` of the candidate's units are slower than the threshold, or no more than of the champion's.

    The threshold is a value of the champion's earlier requests (their p99, times what is tolerated); a hit is strictly
    slower, so that ties with it count as fast. The second half keeps a candidate from being blamed for a machine on
    which everything got slow: the smaller of two e-values is one for the union of both hypotheses.
    """
    rows = tuple(counts)
    alone = log_share_e(sum(x.n_t for x in rows), sum(x.hits_t for x in rows), share)
    beside = log_rate_e(rows, tolerance=0.0) if any(x.n_c for x in rows) else alone
    return _reading("latency", min(alone, beside), rows, share)


def prediction_rates(
    by_class: Mapping[str, Sequence[Counts]], *, tolerance: float, expected: Mapping[str, float] | None = None
) -> Reading:
    """H0: no class is predicted more or less often than by the champion at the same time, beyond `tolerance`.

    `expected` are the champion's shares from before the trial: any value is valid, a close one finds more. Each class
    is tested both ways and the e-values are averaged. A shift is no harm by itself: it says that somebody should look.
    """
    if not by_class:
        return Reading("prediction_rate", 0.0, 0.0, tolerance, 0, 0)
    centres = {name: (expected or {}).get(name, 0.0) for name in by_class}
    found = [_both_ways(rows, tolerance, centres[name]) for name, rows in by_class.items()]
    most = max(by_class.values(), key=lambda rows: abs(_difference(rows)))
    return _reading("prediction_rate", _log_mean(np.array(found)), most, tolerance)


def label_rate(counts: Iterable[Counts], *, tolerance: float, expected: float = 0.5) -> Reading:
    """H0: as large a share of the candidate's units got a label as of the champion's, within `tolerance`.

    Labels that are missing by chance do no harm to any test here, not even if more are missing in one arm; labels
    that are missing because of what the arm answered make every comparison wrong. This cannot tell the two apart, but
    where it fires nobody should promote before they know.
    """
    rows = tuple(counts)
    return _reading("label_rate", _both_ways(rows, tolerance, expected), rows, tolerance)


def prediction_mean(
    strata: Iterable[Stratum], *, sd: float, tolerance: float, planned: int, weight: float = 0.5
) -> Reading:
    """H0: the mean of clipped predictions, which the strata hold, is within `tolerance` of the champion's."""
    found = score(strata)
    r = rho(sd, planned, weight, ALPHA)
    both = np.array([log_e(found, tolerance, r), log_e(_mirrored(found), tolerance, r)])
    return Reading("prediction_rate", _log_mean(both), -found.effect, tolerance, found.n_t, found.n_c)


def outcome(strata: Iterable[Stratum], what: Outcome, *, planned: int, weight: float = 0.5) -> Reading:
    """H0: the mean of a clipped business metric is no worse than the champion's by more than its tolerance.

    Strata hold `clipped` values in the metric's own units; `planned` is the sample of the smaller arm.
    """
    found = score(strata)
    worse = found if what.higher_is_better else _mirrored(found)
    e = log_e(worse, what.tolerance, rho(what.sd, planned, weight, ALPHA))
    return Reading(what.name, e, -found.effect, what.tolerance, found.n_t, found.n_c)


def clipped(values: NDArray[np.float64], bounds: tuple[float, float]) -> NDArray[np.float64]:
    """Values within `bounds`; those that are not numbers stay so, and the caller leaves them out."""
    return np.clip(np.asarray(values, dtype=np.float64), *bounds)


def log_rate_e(counts: Iterable[Counts], *, tolerance: float, centre: float = 0.0, sign: int = 1) -> float:
    """Log e-value against H0: sign * (candidate's rate - champion's rate at the same time) <= tolerance.

    Each unit bets on x = sign * (hit - centre) * (T / weight - (1 - T) / (1 - weight)) - tolerance, whose mean given
    the past is at most zero whatever the rates do over time; a mixture over the bets needs the counts only, in any
    order. `centre` has to be fixed before the trial. Stretches in which nothing is drawn (0 or 1) do not count.

    >>> round(log_rate_e([Counts("a", 0.5, 1000, 40, 1000, 10)], tolerance=0.0), 2)
    7.51
    """
    total = np.zeros(_EXCESS.size)
    for row in counts:
        if 0.0 < row.weight < 1.0:
            n = np.array([row.hits_t, row.n_t - row.hits_t, row.hits_c, row.n_c - row.hits_c], dtype=np.float64)
            total += log_factors(row.weight, tolerance=tolerance, centre=centre, sign=sign) @ n
    return _log_mean(total)


def log_factors(weight: float, *, tolerance: float, centre: float = 0.0, sign: int = 1) -> NDArray[np.float64]:
    """What one unit does to the log wealth of each bet: of the candidate's hits and others, of the champion's."""
    hit, miss = 1.0 - centre, -centre
    cells = np.array([hit / weight, miss / weight, -hit / (1.0 - weight), -miss / (1.0 - weight)])
    cells = sign * cells - tolerance
    worst = -float(cells.min())
    bets = weight * (1.0 - weight) * _EXCESS / (1.0 + _EXCESS * weight)
    if worst > 0.0:
        bets = np.minimum(bets, _LARGEST / worst)
    return np.log1p(np.outer(bets, cells))


def log_share_e(n: int, hits: int, share: float) -> float:
    """Log e-value against H0: the chance of a hit is at most `share`, for `hits` of `n` units.

    >>> round(log_share_e(1000, 30, 0.01), 2)
    10.47
    """
    bets = np.minimum(_EXCESS / (1.0 - share), _LARGEST / share)
    return _log_mean(hits * np.log1p(bets * (1.0 - share)) + (n - hits) * np.log1p(-bets * share))


def _both_ways(rows: Sequence[Counts], tolerance: float, centre: float) -> float:
    found = [log_rate_e(rows, tolerance=tolerance, centre=centre, sign=sign) for sign in (1, -1)]
    return _log_mean(np.array(found))


def _reading(name: str, e: float, rows: Sequence[Counts], allowed: float) -> Reading:
    return Reading(name, e, _difference(rows), allowed, sum(x.n_t for x in rows), sum(x.n_c for x in rows))


def _difference(rows: Sequence[Counts]) -> float:
    """Candidate's rate less the champion's, weighted over stretches as the main test does."""
    known = [x for x in rows if x.n_t and x.n_c]
    weights = [x.n_t * x.n_c / (x.n_t + x.n_c) for x in known]
    d = [x.hits_t / x.n_t - x.hits_c / x.n_c for x in known]
    return sum(w * value for w, value in zip(weights, d, strict=True)) / sum(weights) if known else 0.0


def _mirrored(found: Score) -> Score:
    return Score(-found.s, found.w, found.v, found.n_t, found.n_c)


def _log_mean(logs: NDArray[np.float64]) -> float:
    most = float(logs.max())
    return most + math.log(float(np.exp(logs - most).mean()))
