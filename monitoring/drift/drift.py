"""Drift of a column: two-sample tests on histograms, corrected for how many are made.

Every function is pure, and takes rows of counts [..., B] at once. The reference is a sample too, so tests are
two-sample; windows are pooled in counts, never in p-values. PSI has a noise floor of about (B-1)(1/N+1/m) without
any drift, which is taken off. Both are scaled by how much neighbouring windows differ (`monitoring.drift.dispersion`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincc, xlogy

from monitoring.watching.findings import Severity
from registry.reference import ABOVE, BELOW, FIRST_CATEGORY, FIRST_NUMBER, INFINITE, NULL, OTHER, UNSEEN

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MIN_EXPECTED: Final = 5.0
"""Cells expected to hold fewer in the smaller sample are pooled (Cochran's rule for the chi-square limit)."""
APART: Final = 2
"""Cells before a number's ordered bins: null and infinite."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One histogram against the reference: corrected PSI, p-value, and rows compared."""

    psi: float
    p: float
    rows: int


def cells(spec: dict[str, Any], counts: npt.ArrayLike) -> Ints:
    """The bins a test may use, of one row of counts or of many.

    Below-minimum and above-maximum rows join the outermost quantile bins, and unseen categories join "other":
    the reference holds none of them *by construction*, so as cells of their own they would test positive
    without drift (about 1/m of new rows pass each end). Data quality looks at them separately.
    A constant column keeps its ends: there, another value is no quantile matter.
    """
    c = np.asarray(counts, np.int64)
    if spec["kind"] == "category":
        other = c[..., UNSEEN, None] + c[..., OTHER, None]
        return np.concatenate((c[..., NULL, None], other, c[..., FIRST_CATEGORY:]), axis=-1)
    body = c[..., FIRST_NUMBER:].copy()
    if body.shape[-1] == 1:
        order = [NULL, INFINITE, BELOW, ABOVE]
        return np.concatenate((c[..., order], body), axis=-1)
    body[..., 0] += c[..., BELOW]
    body[..., -1] += c[..., ABOVE]
    return np.concatenate((c[..., [NULL, INFINITE]], body), axis=-1)


def ordered(spec: dict[str, Any]) -> bool:
    """Whether the cells of a column, but the first two, have an order: numbers of more than two bins."""
    return bool(spec["kind"] == "number" and len(spec["counts"]) - FIRST_NUMBER > APART)


def compare(spec: dict[str, Any], counts: npt.ArrayLike) -> Comparison:
    """Compare a window's counts with the reference's, `spec["counts"]`.

    >>> spec = {"kind": "category", "values": ["a", "b"], "counts": [0, 0, 0, 500, 500]}
    >>> same, moved = compare(spec, [0, 0, 0, 240, 260]), compare(spec, [0, 0, 0, 350, 150])
    >>> round(same.p, 2), round(same.psi, 3), moved.p < 1e-9, round(moved.psi, 2)
    (0.47, -0.001, True, 0.17)
    """
    window = cells(spec, counts)
    p, psi_c = judge(window[None], cells(spec, spec["counts"])[None], in_order=ordered(spec))
    return Comparison(float(psi_c[0]), float(p[0]), int(window.sum()))


def judge(
    window: npt.ArrayLike, reference: npt.ArrayLike, factors: tuple[Any, Any] = (1.0, 1.0), *, in_order: bool
) -> tuple[Floats, Floats]:
    """p-value and corrected PSI of each row of cells against the reference's.

    p is Bonferroni's over a G-test of the cells and, for numbers, a rank test of location (a shift is spread
    over all ten bins: G spends nine degrees of freedom to see it, the rank test one).

    Args:
        window: cells [..., B].
        reference: the same, or [1, B].
        factors: by how much independent rows' G and rank statistic are exceeded without drift.
        in_order: the cells from the third on are the ordered bins of a number.
    """
    window, reference = np.broadcast_arrays(np.asarray(window, np.float64), np.asarray(reference, np.float64))
    w, q = pool(window, reference)
    g, df = g_statistic(w, q)
    if not in_order:
        return chi_square_p(g / factors[0], df), corrected_psi(w, q, factors[0])
    z2 = rank_statistic(window[..., APART:], reference[..., APART:])
    # location is one direction of G, and the one in which rows that depend on each other differ most
    p = chi_square_p(np.minimum(g, z2) / factors[1] + np.maximum(g - z2, 0.0) / factors[0], df)
    p = np.minimum(1.0, 2.0 * np.minimum(p, gammaincc(0.5, z2 / factors[1] / 2.0)))
    return p, corrected_psi(w, q, factors[0])


def chi_square_p(statistic: Floats, df: Floats) -> Floats:
    """Upper tail of chi-square; 1 where there are no degrees of freedom."""
    return np.where(df > 0, gammaincc(np.maximum(df, 1) / 2.0, statistic / 2.0), 1.0)


def g_statistic(w: Floats, q: Floats) -> tuple[Floats, Floats]:
    """G with Williams' correction for small samples, and its degrees of freedom, 0 with nothing to compare."""
    total = w + q
    kept = total > 0
    n, m, size = w.sum(-1), q.sum(-1), total.sum(-1)
    cells_kept = kept.sum(-1)
    df = np.where((n > 0) & (m > 0), np.maximum(cells_kept - 1, 0), 0).astype(np.float64)
    g = 2.0 * (
        (xlogy(w, w) + xlogy(q, q) - xlogy(total, total)).sum(-1) - xlogy(n, n) - xlogy(m, m) + xlogy(size, size)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(kept, size[..., None] / np.where(kept, total, 1.0), 0.0).sum(-1)
        williams = 1.0 + (size / n + size / m - 1.0) * (inverse - 1.0) / (6.0 * size * df)
    return np.where(df > 0, np.maximum(g, 0.0) / np.where(df > 0, williams, 1.0), 0.0), df


def psi(w: Floats, q: Floats) -> Floats:
    """Population stability index over the cells that hold anything, 0.5 added to each."""
    kept = (w + q) > 0
    k = kept.sum(-1)
    a = (w + 0.5) / (w.sum(-1) + 0.5 * k)[..., None]
    b = (q + 0.5) / (q.sum(-1) + 0.5 * k)[..., None]
    return np.asarray(np.where(kept, (a - b) * np.log(a / b), 0.0).sum(-1))


def corrected_psi(w: Floats, q: Floats, factor: Any = 1.0) -> Floats:
    """PSI less what it is on average when nothing drifts; 0 where a side is empty."""
    n, m = w.sum(-1), q.sum(-1)
    k = ((w + q) > 0).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        noise = np.maximum(k - 1, 0) * (1.0 / n + 1.0 / m) * factor
        return np.where((n > 0) & (m > 0), psi(w, q) - noise, 0.0)


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


def pool(window: Floats, reference: Floats) -> tuple[Floats, Floats]:
    """Merge each row's sparse cells into one and leave the others of them empty, which every test passes over.

    Sparse is decided on both samples' total, so the test stays valid. The order of cells is not kept.
    """
    total = window + reference
    size = total.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        smaller = np.minimum(window.sum(-1, keepdims=True), reference.sum(-1, keepdims=True)) / size
    sparse = total * smaller < MIN_EXPECTED
    rows = np.nonzero((sparse & (total > 0)).any(-1) & (smaller[..., 0] > 0))
    if not len(rows[0]):
        return window, reference
    w, q, expected = window[rows], reference[rows], (total * smaller)[rows]
    order = np.argsort(expected, axis=-1, kind="stable")
    w, q, expected = (np.take_along_axis(a, order, -1) for a in (w, q, expected))
    merged = (expected < MIN_EXPECTED).sum(-1)
    held = np.cumsum(expected, -1)
    short = np.take_along_axis(held, np.maximum(merged - 1, 0)[:, None], -1)[:, 0] < MIN_EXPECTED
    merged = np.minimum(merged + short, w.shape[-1])
    position = np.arange(w.shape[-1])
    inside = position < merged[:, None]
    last = position == merged[:, None] - 1
    for side in (w, q):
        lump = (side * inside).sum(-1, keepdims=True)
        side[:] = np.where(last, lump, np.where(inside, 0.0, side))
    pooled_w, pooled_q = window.copy(), reference.copy()
    pooled_w[rows], pooled_q[rows] = w, q
    return pooled_w, pooled_q


def rank_statistic(w: Floats, q: Floats) -> Floats:
    """z squared of Wilcoxon's rank-sum test on ordered bins (mid-ranks, variance corrected for ties)."""
    n, m = w.sum(-1), q.sum(-1)
    total = w + q
    size = n + m
    ranks = np.cumsum(total, -1) - total / 2.0
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (ranks * total).sum(-1) / size
        spread = (total * (ranks - mean[..., None]) ** 2).sum(-1) / (size - 1.0)
        z2 = ((ranks * w).sum(-1) - n * mean) ** 2 / (n * m / size * spread)
    return np.where((n > 0) & (m > 0) & (spread > 0), z2, 0.0)
