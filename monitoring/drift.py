"""Drift of a column: two-sample tests on histograms, corrected for how many are made.

Every function is pure. The reference is a sample too, so tests are two-sample; windows are pooled in counts,
never in p-values. PSI has a noise floor of about (B-1)(1/N+1/m) without any drift, which is taken off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincc

from monitoring.findings import Severity
from registry.reference import ABOVE, BELOW, FIRST_CATEGORY, FIRST_NUMBER, INFINITE, NULL, OTHER, UNSEEN

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MIN_EXPECTED: Final = 5.0
"""Cells expected to hold fewer in the smaller sample are pooled (Cochran's rule for the chi-square limit)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One histogram against the reference: corrected PSI, p-value, and rows compared."""

    psi: float
    p: float
    rows: int


def cells(spec: dict[str, Any], counts: npt.ArrayLike) -> Ints:
    """The bins a test may use.

    Below-minimum and above-maximum rows join the outermost quantile bins, and unseen categories join "other":
    the reference holds none of them *by construction*, so as cells of their own they would test positive
    without drift (about 1/m of new rows pass each end). Data quality looks at them separately.
    A constant column keeps its ends: there, another value is no quantile matter.
    """
    c = np.asarray(counts, np.int64)
    if spec["kind"] == "category":
        return np.concatenate(([c[NULL], c[UNSEEN] + c[OTHER]], c[FIRST_CATEGORY:]))
    body = c[FIRST_NUMBER:].copy()
    if len(body) == 1:
        return np.concatenate(([c[NULL], c[INFINITE], c[BELOW], c[ABOVE]], body))
    body[0] += c[BELOW]
    body[-1] += c[ABOVE]
    return np.concatenate(([c[NULL], c[INFINITE]], body))


def compare(spec: dict[str, Any], counts: npt.ArrayLike) -> Comparison:
    """Compare a window's counts with the reference's, `spec["counts"]`.

    p is Bonferroni's over a G-test of the cells and, for numbers, a rank test of location (a shift is spread
    over all ten bins: G spends nine degrees of freedom to see it, the rank test one).

    >>> spec = {"kind": "category", "values": ["a", "b"], "counts": [0, 0, 0, 500, 500]}
    >>> same, moved = compare(spec, [0, 0, 0, 240, 260]), compare(spec, [0, 0, 0, 350, 150])
    >>> round(same.p, 2), round(same.psi, 3), moved.p < 1e-9, round(moved.psi, 2)
    (0.47, -0.001, True, 0.17)
    """
    window, reference = cells(spec, counts), cells(spec, spec["counts"])
    rows, m = int(window.sum()), int(reference.sum())
    if rows == 0 or m == 0:
        return Comparison(0.0, 1.0, rows)
    w, q = _pool(window, reference)
    p = g_test(w, q)
    if spec["kind"] == "number" and len(window) > 4:
        p = min(1.0, 2.0 * min(p, _rank_test(window[2:], reference[2:])))
    return Comparison(corrected_psi(w, q), p, rows)


def g_test(w: Floats, q: Floats) -> float:
    """p-value of the G-test of two rows of counts, with Williams' correction for small samples."""
    kept = (w + q) > 0
    w, q = w[kept], q[kept]
    if len(w) < 2:
        return 1.0
    n, m = w.sum(), q.sum()
    pooled, total = w + q, n + m
    g = 2.0 * float(_xlogy(w, w * total / (pooled * n)).sum() + _xlogy(q, q * total / (pooled * m)).sum())
    williams = 1.0 + (total / n + total / m - 1.0) * (float((total / pooled).sum()) - 1.0) / (
        6.0 * total * (len(w) - 1)
    )
    return float(gammaincc((len(w) - 1) / 2.0, max(g, 0.0) / williams / 2.0))


def psi(w: Floats, q: Floats) -> float:
    """Population stability index, 0.5 added to every cell."""
    a = (w + 0.5) / (w.sum() + 0.5 * len(w))
    b = (q + 0.5) / (q.sum() + 0.5 * len(q))
    return float(((a - b) * np.log(a / b)).sum())


def corrected_psi(w: Floats, q: Floats) -> float:
    """PSI less what it is on average when nothing drifts."""
    return psi(w, q) - (len(w) - 1) * (1.0 / float(w.sum()) + 1.0 / float(q.sum()))


def benjamini_hochberg(p: Sequence[float], fdr: float) -> list[bool]:
    """Which hypotheses are rejected at false discovery rate `fdr`.

    >>> benjamini_hochberg([0.001, 0.2, 0.02, 0.9], 0.05)
    [True, False, True, False]
    """
    values = np.asarray(p, np.float64)
    if not len(values):
        return []
    order = np.argsort(values, kind="stable")
    passes = np.flatnonzero(values[order] <= fdr * np.arange(1, len(values) + 1) / len(values))
    limit = values[order[passes[-1]]] if len(passes) else -1.0
    return [bool(value <= limit) for value in values]


def severity(psi_corrected: float) -> Severity:
    """How large a drift is: low under 0.1, medium under 0.25, high above."""
    return "low" if psi_corrected < 0.1 else "medium" if psi_corrected < 0.25 else "high"


def _pool(window: Ints, reference: Ints) -> tuple[Floats, Floats]:
    """Merge sparse cells into one; sparse is decided on both samples' total, so the test stays valid."""
    w, q = window.astype(np.float64), reference.astype(np.float64)
    total = w + q
    smaller = min(w.sum(), q.sum()) / total.sum()
    order = np.argsort(total, kind="stable")
    sparse = int(np.searchsorted(total[order] * smaller, MIN_EXPECTED))
    if sparse and total[order[:sparse]].sum() * smaller < MIN_EXPECTED:
        sparse = min(sparse + 1, len(total))
    rest = order[sparse:]
    if not sparse:
        return w, q
    low = order[:sparse]
    if not total[low].any():
        return w[rest], q[rest]
    return np.append(w[rest], w[low].sum()), np.append(q[rest], q[low].sum())


def _rank_test(w: Ints, q: Ints) -> float:
    """Two-sided p of Wilcoxon's rank-sum test on ordered bins (mid-ranks, variance corrected for ties)."""
    n, m = float(w.sum()), float(q.sum())
    if n == 0 or m == 0:
        return 1.0
    total = (w + q).astype(np.float64)
    size = n + m
    ranks = np.cumsum(total) - total / 2.0
    mean = float((ranks * total).sum() / size)
    spread = float((total * (ranks - mean) ** 2).sum()) / (size - 1.0)
    if spread == 0.0:
        return 1.0
    z2 = (float((ranks * w).sum()) - n * mean) ** 2 / (n * m / size * spread)
    return float(gammaincc(0.5, z2 / 2.0))


def _xlogy(x: Floats, ratio: Floats) -> Floats:
    return np.where(x > 0, x * np.log(np.where(x > 0, ratio, 1.0)), 0.0)
