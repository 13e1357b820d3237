"""Windows of a stream in which the ladder's detector may flag something: a necessary condition, made cheap.

Each p-value is bounded from below. The factors that statistics are divided by are never below one, nor is Williams'
correction; the older windows can only raise p; and merging sparse cells can only lower G. So G of the cells that stay,
with all sparse ones as one more, is at least the detector's. Benjamini and Hochberg's procedure rejects nothing for the
true p-values where it rejects nothing for smaller ones.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, chdtri, xlogy

from bench.monitoring.streams import Stream
from monitoring.drift.drift import APART, MIN_EXPECTED, cells, ordered
from monitoring.drift.season import matched
from monitoring.drift.windows import SCALES, scales_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def may_be_flagged(stream: Stream, rate: float, min_rows: int) -> npt.NDArray[np.bool_]:
    """Windows [T] in which the procedure, at false discovery rate `rate`, rejects something for the bounds."""
    windows = len(next(iter(stream.counts.values())))
    reached = np.array([len(scales_of(min(t + 1, SCALES[-1]))) for t in range(windows)])
    bounds = []
    for name, spec in stream.specs.items():
        total = cells(spec, stream.counts[name]).cumsum(axis=0)
        for level, scale in enumerate(SCALES):
            pools = total.copy()
            pools[scale:] -= total[:-scale]
            p = least_p(spec, pools, _reference(spec, scale, windows), rate)
            p[(reached <= level) | (pools.sum(-1) < min_rows)] = 1.0
            bounds.append(p)
    ranked = np.sort(np.array(bounds), axis=0)
    limits = rate * np.arange(1, len(ranked) + 1)[:, None] / (len(stream.specs) * reached)
    return np.asarray((ranked <= limits).any(axis=0))


def least_p(spec: dict[str, Any], pools: Ints, reference: Floats, rate: float) -> Floats:
    """What the p-values of pools [T, B] are at least, where that may be as low as `rate`; elsewhere 1."""
    in_order = ordered(spec)
    g, df = _merged(pools, reference)
    found = np.ones(len(pools))
    times = 2.0 if in_order else 1.0
    low = g >= _quantiles(rate / times)[df]
    found[low] = np.minimum(times * chdtrc(df[low], g[low]), 1.0)
    if in_order:
        z2 = _ranks(pools[:, APART:].astype(np.float64), reference[..., APART:])
        low = z2 >= chdtri(1, rate / times)
        found[low] = np.minimum(found[low], times * chdtrc(1, z2[low]))
    return found


def _merged(w: Ints, reference: Floats) -> tuple[Floats, Ints]:
    """At least G of each row [T], and at most so many degrees of freedom as leave p a bound."""
    total = w + reference
    n, m = w.sum(-1), np.broadcast_to(reference.sum(-1), len(w))
    with np.errstate(divide="ignore", invalid="ignore"):
        smaller = np.minimum(n, m) / (n + m)
    common = xlogy(n + m, n + m) - xlogy(n, n) - xlogy(m, m)
    used = reference > 0
    if len(reference) == 1 and not w[:, ~used[0]].any() and reference[used].min() * smaller.min() >= MIN_EXPECTED:
        g = 2.0 * ((_xlogx(w) - _xlogx(total)).sum(-1) + _xlogx(reference).sum() + common)
        return g, np.full(len(w), used.sum() - 1)
    q = np.broadcast_to(reference, w.shape)
    stays = total * smaller[:, None] >= MIN_EXPECTED
    parts = np.where(stays, _xlogx(w) + _xlogx(reference) - _xlogx(total), 0.0).sum(-1)
    rest_w, rest_q = n - np.where(stays, w, 0).sum(-1), m - np.where(stays, q, 0.0).sum(-1)
    rest = rest_w + rest_q
    parts += xlogy(rest_w, rest_w) + xlogy(rest_q, rest_q) - xlogy(rest, rest)
    g = 2.0 * (parts + common)
    held = stays.sum(-1) + (rest > 0.5)
    # a rest that is sparse itself takes one more cell with it
    df = held - 1 - ((rest > 0.5) & (rest * smaller < MIN_EXPECTED))
    return np.where((n > 0) & (m > 0), g, 0.0), np.maximum(df, 1)


def _xlogx(values: npt.NDArray[Any]) -> Floats:
    """x log x, from a table where the values are whole numbers."""
    whole = values.astype(np.int64)
    if values.dtype != np.int64 and not np.array_equal(whole, values):
        return np.asarray(xlogy(values, values))
    return _table(int(whole.max()).bit_length())[whole]


@cache
def _quantiles(p: float) -> Floats:
    """Upper quantiles of chi-square by degrees of freedom; a column has some hundred cells at most."""
    return np.concatenate(([np.inf], chdtri(np.arange(1.0, 1_000.0), p)))


@cache
def _table(bits: int) -> Floats:
    upto = np.arange(2.0**bits)
    return np.asarray(xlogy(upto, upto))


def _ranks(w: Floats, q: Floats) -> Floats:
    """z squared of the rank test: within a sample ranks add up to a constant, so only the other one's matter."""
    below = np.cumsum(q, axis=-1) - q / 2.0
    n, m = w.sum(-1), q.sum(-1)
    total = w + q
    size = n + m
    with np.errstate(divide="ignore", invalid="ignore"):
        ahead = (w @ below[0] if len(below) == 1 else (w * below).sum(-1)) - n * m / 2.0
        spread = (size**3 - (total * total * total).sum(-1)) / 12.0 / (size - 1.0)
        z2 = ahead**2 / (n * m / size * spread)
    return np.asarray(np.where((n > 0) & (m > 0) & (spread > 0), z2, 0.0))


def _reference(spec: dict[str, Any], scale: int, windows: int) -> Floats:
    """[1, B], or [T, B] where the column follows the clock: what each pool is compared with."""
    if spec.get("seasons") is None:
        return cells(spec, spec["counts"]).astype(np.float64)[None]
    hours = np.eye(24)[np.arange(windows) % 24].cumsum(axis=0)
    hours[scale:] -= hours[:-scale].copy()
    return matched(spec, hours)
