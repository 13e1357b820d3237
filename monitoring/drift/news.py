"""Drift must be news, or surely large: what the older windows of the ladder say about a pool of the newest.

A real column is never exactly where its reference was. With enough rows every test sees that, and each time chance
adds a little to a difference that is tolerated, the point estimate of a short pool passes the floor. The older windows
know better how far the column stands from its reference, because they are more. Where they are not surely beyond the
floor, a pool must differ from them as well, as significantly as from the reference (an intersection-union test:
Berger, 1982). Where there are too few of them, or they are surely beyond it, the pool itself must surely be.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from monitoring.drift.drift import Floats, judge, pool, psi

OLDER: Final = 3.0
"""Older windows are asked where they hold this many times the rows of the pool: fewer would only cost delay."""
SURELY: Final = 1.645
"""Standard normal quantile of 95 %."""


def weigh(
    pools: Floats, older: Floats, reference: Floats, factors: tuple[Any, Any], *, in_order: bool, floor: float
) -> tuple[Floats, Floats]:
    """What is to be held, beside the reference, against the rate and against the floor, of each row of cells.

    Args:
        pools: cells [..., B] of the newest windows.
        older: of the windows before these.
        reference: what both are compared with.
        factors: see `judge`.
        in_order: see `judge`.
        floor: corrected PSI that is tolerated.

    Returns:
        p-values against the older windows, 0 where they are not asked; and by how much the pool surely differs from
        the reference, infinite where the older windows are asked instead.
    """
    p, _ = judge(pools, older, factors, in_order=in_order)
    asked = (older.sum(-1) >= OLDER * pools.sum(-1)) & (least_psi(older, reference, factors[0]) < floor)
    return np.where(asked, p, 0.0), np.where(asked, np.inf, least_psi(pools, reference, factors[0]))


def least_psi(window: Floats, reference: Floats, factor: Any = 1.0) -> Floats:
    """Lower 95 % bound of corrected PSI; the reference is taken as given, its noise comes off as in `corrected_psi`.

    n PSI is nearly non-central chi-square, with mean df + t and variance 2 df + 4 t: the bound is the t at which what
    was seen lies 1.645 standard deviations above the mean.

    >>> old, new = np.array([[500.0, 500.0]]), np.array([[260.0, 140.0]])
    >>> [round(float(least_psi(times * new, old)[0]), 3) for times in (1, 10)]
    [0.038, 0.074]
    """
    w, q = pool(np.asarray(window, np.float64), np.asarray(reference, np.float64))
    n, m = w.sum(-1), q.sum(-1)
    df = np.maximum(((w + q) > 0).sum(-1) - 1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        beyond = n * psi(w, q) / factor - df
        spread = 4.0 * beyond + 4.0 * SURELY**2 + 2.0 * df
        least = np.where(
            spread > 0, beyond + 2.0 * SURELY**2 - SURELY * np.sqrt(np.maximum(spread, 0.0)), -df.astype(np.float64)
        )
        return np.where((n > 0) & (m > 0), factor * (least / n - df / m), 0.0)
