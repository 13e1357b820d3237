"""Data quality: is the data *broken*, as opposed to different? Judged in every window, by exact tests.

Broken means that somebody upstream has work to do: values that used to be there are null or infinite, or
categories appear that the model has never seen. Values beyond the reference's range are not that: July is
warmer than any March, so an out-of-range share is drift, which the ladder sees too; here it is `watch` at most.

A significant share is not enough: ordinary nulls come in clumps (a weather station is down for an afternoon),
which no test of independent rows allows for. So a share must also exceed the reference's by a floor, and do so
in `confirm` of the last `of` windows; only a jump past the hard limits is called broken in one window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc, gammaln

from registry.reference import ABOVE, BELOW, FIRST_CATEGORY, INFINITE, NULL, OTHER, UNSEEN

Fault = Literal["null", "infinite", "unseen", "out_of_range"]

NULL_FLOOR: Final = 0.02
UNSEEN_FLOOR: Final = 0.01
RANGE_FLOOR: Final = 0.05
HARD_LIMIT: Final = 0.20
"""A rise by this share is broken at once."""


@dataclass(frozen=True, slots=True)
class Check:
    """One share of one column in one window, beside the reference's; `p` is exact, one-sided."""

    column: str
    fault: Fault
    share: float
    expected: float
    p: float
    large: bool
    """The share passes its floor."""
    hard: bool = False
    """The share passes the hard limit."""

    @property
    def breaks(self) -> bool:
        """Whether this kind of fault can make the data broken, rather than worth watching."""
        return self.fault != "out_of_range"


def check_column(name: str, spec: dict[str, Any], counts: npt.ArrayLike) -> list[Check]:
    """All checks of one column's window counts against the reference's, `spec["counts"]`."""
    w, q = np.asarray(counts, np.int64), np.asarray(spec["counts"], np.int64)
    n, m = int(w.sum()), int(q.sum())
    if n == 0 or m == 0:
        return []
    peak = float(spec.get("null_peak", 0.0))
    found = [_excess(name, "null", (int(w[NULL]), n), (int(q[NULL]), m), peak)]
    if spec["kind"] == "category":
        if not spec.get("open"):
            found.append(_unseen(name, w, q))
        return found
    found.append(_excess(name, "infinite", (int(w[INFINITE]), n), (int(q[INFINITE]), m)))
    present = int(w[BELOW:].sum())
    beyond = int(w[BELOW] + w[ABOVE])
    if present and q[BELOW:].sum():
        p = min(1.0, 2 * min(record_p(int(w[end]), present, int(q[BELOW:].sum())) for end in (BELOW, ABOVE)))
        share = beyond / present
        found.append(Check(name, "out_of_range", share, 0.0, p, share >= RANGE_FLOOR))
    return found


def fisher_p(k: int, n: int, q: int, m: int) -> float:
    """P(at least k of the window's n | k + q of all n + m rows), Fisher's exact one-sided test.

    >>> round(fisher_p(3, 10, 1, 10), 4), fisher_p(0, 10, 4, 10)
    (0.291, 1.0)
    """
    if k <= 0:
        return 1.0
    total = k + q
    j = np.arange(k, min(total, n) + 1, dtype=np.float64)
    logs = _choose(n, j) + _choose(m, total - j) - _choose(n + m, np.float64(total))
    return float(min(1.0, np.exp(logs).sum()))


def record_p(k: int, n: int, m: int) -> float:
    """P(at least k of n new values lie above the largest of m) for any continuous distribution.

    It is the chance that the k largest of all n + m are all new.

    >>> round(record_p(1, 10, 90), 3), round(record_p(2, 10, 90), 4)
    (0.1, 0.0091)
    """
    if k <= 0:
        return 1.0
    logs = gammaln(n + 1) - gammaln(n - k + 1) - gammaln(n + m + 1) + gammaln(n + m - k + 1)
    return float(np.exp(logs))


def _excess(name: str, fault: Fault, new: tuple[int, int], old: tuple[int, int], peak: float = 0.0) -> Check:
    """Nulls or infinities: Fisher's test, and a floor of 2 points or half the rarer side of the reference.

    A column that is null in 78 % of rows moves by points every day; one that is never null does not. Nor does a
    share count that a block of the reference's own rows reached (`peak`): wind gusts are null on every calm day.
    Where whole blocks of the reference were null, another is no fault; that it lasts is for the drift decision to say.
    """
    share, expected = new[0] / new[1], old[0] / old[1]
    rise = max(NULL_FLOOR, 0.5 * min(expected, 1.0 - expected))
    floor = max(min(expected + rise, 1.0), peak + NULL_FLOOR)
    return Check(
        name,
        fault,
        share,
        expected,
        fisher_p(new[0], new[1], old[0], old[1]),
        share >= floor and share > expected,
        share >= max(expected, peak) + HARD_LIMIT,
    )


def _unseen(name: str, w: npt.NDArray[np.int64], q: npt.NDArray[np.int64]) -> Check:
    """Unseen categories: exact binomial against the rate at which new ones are due anyway.

    That rate is Good and Turing's: (levels seen once + 1) of all rows. Levels in "other" count as seen once.
    """
    n, m = int(w.sum()), int(q.sum())
    due = int((q[FIRST_CATEGORY:] == 1).sum() + q[OTHER]) + 1
    rate = min(due / (m + 1), 1.0)
    k = int(w[UNSEEN])
    p = 1.0 if k == 0 or rate >= 1.0 else float(bdtrc(k - 1, n, rate))
    share = k / n
    large = share >= max(UNSEEN_FLOOR, 2 * rate)
    return Check(name, "unseen", share, rate, p, large, share >= rate + HARD_LIMIT)


def _choose(n: int, k: Any) -> Any:
    with np.errstate(invalid="ignore"):
        logs = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return np.where((k >= 0) & (k <= n), logs, -np.inf)
