"""The monitor's decision on a whole stream at once: the same functions over arrays of windows.

`assess` judges the newest window; here every window of a stream is judged in a few array operations, by the kernels
that `assess` itself calls. `tests/unit/test_monitoring_simulation.py` holds both against each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri

from bench.monitoring.streams import Stream
from monitoring.drift.assess import HOURLY_RATE, LEANING, LOOKED_AT, REPEATED, RESTLESS
from monitoring.drift.dispersion import MIN_PAIRS, neighbours, shrink
from monitoring.drift.drift import APART, cells, judge, ordered, rank_statistic
from monitoring.drift.grouped import stack
from monitoring.drift.season import matched
from monitoring.drift.verdict import Flags, Rule, Verdict, advance
from monitoring.drift.windows import DEPTH, SCALES
from monitoring.settings import MonitoringSettings

Floats = npt.NDArray[np.float64]
SUSPECT_P = RESTLESS / 2
"""Only pools that may come near this p are tested exactly: by the rank test, or by half the chi-square's quantile."""


@dataclass
class Judged:
    """By window: flagged names, names that one window confirms, names that are not calm; then windows of episodes."""

    flagged: list[set[str]]
    sure: list[set[str]]
    near: list[set[str]]
    episodes: list[int] = field(default_factory=list)


def judge_stream(stream: Stream, settings: MonitoringSettings, *, rate: float = HOURLY_RATE) -> Judged:
    """Flags of every window at the false discovery rate `rate`, and where drift became confirmed."""
    names = list(stream.specs)
    windows = len(next(iter(stream.counts.values())))
    kinds = np.array([ordered(spec) for spec in stream.specs.values()])
    made = [cells(stream.specs[n], stream.counts[n]) for n in names]
    g, rank = _factors(made, kinds, windows)
    found = Judged(_empty(windows), _empty(windows), _empty(windows))
    candidates: list[tuple[Any, ...]] = []
    tests = np.zeros(windows)
    for level, scale in enumerate(SCALES):
        active = np.arange(windows) + 1 > (SCALES[level - 1] if level else 0)
        active &= np.minimum(np.arange(windows) + 1, scale) * stream.n >= settings.min_rows
        tests += active * len(names)
        for in_order in (False, True):
            group = np.flatnonzero(kinds == in_order)
            if not len(group):
                continue
            w, q = _stack(made, group), _references(stream, names, group, scale, windows)
            pools = np.cumsum(w, axis=1)
            pools[:, scale:] -= pools[:, :-scale].copy()
            f, t = np.nonzero(_suspect(pools, q, in_order=in_order) & active)
            if len(f):
                p, psi = judge(pools[f, t], q[f, t], (g[group[f], t], rank[group[f], t]), in_order=in_order)
                candidates.append((group[f], t, np.full(len(f), scale), p, psi))
    if candidates:
        column, at, scales, p, psi = (np.concatenate(part) for part in zip(*candidates, strict=True))
        _flag(found, stream, (column, at, scales, p, psi), tests, rate, settings, made, (g, rank))
    _fold(found, settings)
    return found


def _empty(windows: int) -> list[set[str]]:
    return [set() for _ in range(windows)]


def _flag(
    found: Judged,
    stream: Stream,
    results: tuple[Any, ...],
    tests: Floats,
    rate: float,
    settings: MonitoringSettings,
    made: list[Any],
    scaling: tuple[Floats, Floats],
) -> None:
    """Benjamini and Hochberg's procedure in every window over the p-values that can pass it."""
    names = list(stream.specs)
    restless = (results[3] <= RESTLESS) & (results[4] >= settings.psi_floor / 2)
    for c, t in zip(results[0][restless].tolist(), results[1][restless].tolist(), strict=True):
        found.near[t].add(names[c])
    kept = results[3] <= rate
    column, at, scales, p, psi = (part[kept] for part in results)
    order = np.lexsort((p, at))
    column, at, scales, p, psi = (part[order] for part in (column, at, scales, p, psi))
    starts = np.flatnonzero(np.r_[True, np.diff(at) > 0]) if len(at) else np.zeros(0, int)
    for first, last in pairwise([*starts.tolist(), len(at)]):
        t = int(at[first])
        passes = np.flatnonzero(p[first:last] <= rate * np.arange(1, last - first + 1) / tests[t])
        if not len(passes):
            continue
        limit = p[first + passes[-1]]
        for i in range(first, last):
            if p[i] > limit:
                break
            c = int(column[i])
            if psi[i] >= settings.psi_floor:
                found.flagged[t].add(names[c])
                if scales[i] > 1 and names[c] not in found.sure[t]:
                    scaled = (scaling[0][c, t], scaling[1][c, t])
                    if _leaning(stream.specs[names[c]], made[c][max(t + 1 - LOOKED_AT, 0) : t + 1], t, scaled):
                        found.sure[t].add(names[c])


def _leaning(spec: dict[str, Any], recent: Any, t: int, scaled: tuple[Any, Any]) -> bool:
    against = matched(spec, np.eye(24)[t % 24])[None]
    single, _ = judge(recent, against, scaled, in_order=ordered(spec))
    return int((single < LEANING).sum()) >= REPEATED


def _fold(found: Judged, settings: MonitoringSettings) -> None:
    rule = Rule("confirmed", settings.confirm, settings.of, settings.clear)
    verdict = Verdict()
    for t, (flagged, sure, near) in enumerate(zip(found.flagged, found.sure, found.near, strict=True)):
        if not flagged and not any(verdict.recent) and verdict.state == "ok":
            continue
        before = verdict.state
        verdict = advance(verdict, Flags(flagged, sure, unsettled=bool(near & {*verdict.held} - flagged)), rule)
        if verdict.state == "confirmed" != before:
            found.episodes.append(t)


def _factors(made: list[Any], kinds: Any, windows: int) -> tuple[Floats, Floats]:
    """Factors [F, T] of every column as they are known when window t closes."""
    means, df = np.zeros((2, len(made), windows)), np.zeros((2, len(made), windows))
    pairs = np.minimum(np.arange(windows), DEPTH - 1).astype(np.float64)
    for in_order in (False, True):
        group = np.flatnonzero(kinds == in_order)
        if not len(group):
            continue
        g, freedom, rank = neighbours(_stack(made, group), in_order=in_order)
        for k, series in ((0, g), (1, rank)):
            means[k, group, 1:] = _rolling(series)
        df[0, group, 1:] = _rolling(freedom)
        df[1, group] = float(in_order)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [shrink(means[k], df[k], pairs[None]) for k in (0, 1)]
    for factor in found:
        factor[:, pairs < MIN_PAIRS] = 1.0
    return found[0], found[1]


def _rolling(series: Floats) -> Floats:
    """Mean of the last DEPTH - 1 values up to each, of as many as there are."""
    width = DEPTH - 1
    total = np.cumsum(series, axis=1)
    total[:, width:] -= total[:, :-width].copy()
    return np.asarray(total / np.minimum(np.arange(series.shape[1]) + 1, width))


def _references(stream: Stream, names: list[str], group: Any, scale: int, windows: int) -> Floats:
    """[F, T, B]: what each pool is compared with; windows are hours of the day in turn."""
    hours = np.cumsum(np.eye(24)[np.arange(windows) % 24], axis=0)
    hours[scale:] -= hours[:-scale].copy()
    return stack([matched(stream.specs[names[i]], hours) for i in group])


def _stack(rows: list[Any], group: Any) -> Floats:
    return stack([rows[i] for i in group])


def _suspect(pools: Floats, q: Floats, *, in_order: bool) -> npt.NDArray[np.bool_]:
    reference = q
    n, m = pools.sum(-1), reference.sum(-1)
    total = pools + reference
    with np.errstate(divide="ignore", invalid="ignore"):
        x2 = (np.where(total > 0, (pools * m[..., None] - reference * n[..., None]) ** 2 / total, 0.0)).sum(-1) / (
            n * m
        )
    suspect = np.asarray(x2 > 0.5 * chdtri(np.maximum((q > 0).sum(-1) - 1, 1), SUSPECT_P))
    if in_order:
        suspect |= rank_statistic(pools[..., APART:], reference[..., APART:]) > chdtri(1, SUSPECT_P)
    return suspect
