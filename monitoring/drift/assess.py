"""One closed window, judged: pure functions from counts to flags, with the facts a finding will show."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from monitoring.drift.data_quality import Check, check_column
from monitoring.drift.detectors import Reading, resolve
from monitoring.drift.dispersion import factors
from monitoring.drift.drift import Comparison, Floats, benjamini_hochberg, judge
from monitoring.drift.grouped import Group, groups
from monitoring.drift.news import weigh
from monitoring.drift.verdict import Flags
from monitoring.drift.windows import Window, ladder, scales_of
from monitoring.settings import MonitoringSettings
from registry.reference import NULL, UNSEEN

SCORE = "_score"
"""Key of the score's counts; the lake's own columns start with an underscore, so no input is called that."""
SHOWN = 10
HOURLY_RATE: Final = 0.0005
"""False discovery rate of hourly windows for 90 days between false alarms (`bench.monitoring` shows how many)."""
LEAST_RATE: Final = 1e-5
LARGEST_RATE: Final = 0.01
LOOKED_AT: Final = 3
REPEATED: Final = 2
LEANING: Final = 0.05
"""p of a single window that, beside a flagged pool, counts as saying the same."""
RESTLESS: Final = 0.01
"""p at which a column with a confirmed drift is not calm: what is let go too early comes back in an hour."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """Flags of one window, and per column: corrected PSI by scale, worst scale first in `ranked`."""

    features: Flags
    score: Flags | None
    data: Flags
    psi: dict[str, dict[str, float]]
    ranked: list[dict[str, Any]]
    checks: list[Check]
    null_ratio: dict[str, float]
    unseen_ratio: dict[str, float]


def assess(
    specs: Mapping[str, dict[str, Any]],
    closed: Sequence[Window],
    settings: MonitoringSettings,
    *,
    alarmed: Collection[str] = (),
) -> Assessment:
    """Judge the newest of `closed` windows, and the pools that end with it.

    Args:
        specs: the reference's columns, and the score under `SCORE`.
        closed: closed windows, newest last; at least one.
        settings: thresholds, and which detector decides.
        alarmed: columns whose drift is confirmed: they are calm only under half the floor, or far from significant.
    """
    readings = resolve(settings.detector)(specs, closed, settings, alarmed=alarmed)
    flagged = {r.column for r in readings if r.flagged}
    sure = {r.column for r in readings if r.flagged and r.sure}
    unsettled = {r.column for r in readings if r.unsettled}
    psi: dict[str, dict[str, float]] = {}
    for reading in readings:
        psi.setdefault(reading.column, {})[str(reading.scale)] = round(reading.psi, 6)
    checks = _check_all(specs, closed[-1])
    newest = closed[-1].counts
    return Assessment(
        Flags(flagged - {SCORE}, sure - {SCORE}, unsettled=bool(unsettled - {SCORE})),
        Flags(flagged & {SCORE}, sure & {SCORE}, unsettled=SCORE in unsettled) if SCORE in psi else None,
        _data_flags(checks, discovery_rate(closed, settings.expected_days_between_false_alarms)),
        psi,
        _ranked(readings),
        checks,
        {n: _share(newest[n], NULL) for n in specs if n != SCORE},
        {n: _share(newest[n], UNSEEN) for n, s in specs.items() if n != SCORE and s["kind"] == "category"},
    )


def by_ladder(
    specs: Mapping[str, dict[str, Any]],
    closed: Sequence[Window],
    settings: MonitoringSettings,
    *,
    alarmed: Collection[str] = (),
) -> list[Reading]:
    """The detector `ladder`: tests of pooled windows, corrected for the number of columns and scales."""
    fdr = discovery_rate(closed, settings.expected_days_between_false_alarms)
    results = _compare_all(specs, closed, settings, fdr)
    rejected = benjamini_hochberg([result.p for result in results], fdr)
    found = []
    for result, significant in zip(results, rejected, strict=True):
        name, scale, seen = result.name, result.scale, result.seen
        flagged = significant and result.least >= settings.psi_floor
        near = name in alarmed and seen.p <= RESTLESS and seen.psi >= settings.psi_floor / 2
        sure = flagged and scale > 1 and result.leaning
        found.append(Reading(name, scale, seen.psi, seen.p, seen.rows, flagged, sure, near and not flagged))
    return found


def discovery_rate(closed: Sequence[Window], days: float) -> float:
    """The false discovery rate at which false alarms are at least `days` apart: many windows a day ask for less.

    >>> hours = [Window(3600.0 * i, 3600.0 * (i + 1)) for i in range(4)]
    >>> round(discovery_rate(hours, 90.0), 6), round(discovery_rate(hours, 900.0), 6)
    (0.0005, 5e-05)
    """
    span = (max(window.end for window in closed) - min(window.start for window in closed)) / len(closed)
    return min(max(HOURLY_RATE * span / 3600.0 * 90.0 / days, LEAST_RATE), LARGEST_RATE)


@dataclass(frozen=True, slots=True)
class _Result:
    """A column at a scale, as it was seen, and what is decided on: p and effect, after older windows were asked."""

    name: str
    scale: int
    seen: Comparison
    p: float
    least: float
    leaning: bool


def _compare_all(
    specs: Mapping[str, dict[str, Any]], closed: Sequence[Window], settings: MonitoringSettings, fdr: float
) -> list[_Result]:
    """Every column at every scale, and whether two of its last three windows, each for itself, point to drift.

    A pool that is flagged beside such windows is no coincidence, and no single odd window.
    """
    made = groups(specs, closed)
    scales = scales_of(made[0].cells.shape[1]) if made else []
    found = {}
    for group, scaling in zip(made, factors(made), strict=True):
        pools = ladder(group.cells)
        by = (scaling.g[:, None], scaling.rank[:, None])
        p, psi = judge(pools, group.reference, by, in_order=group.in_order)
        single, _ = judge(group.cells[:, -LOOKED_AT:], group.reference[:, :1], by, in_order=group.in_order)
        leaning = (single < LEANING).sum(-1) >= REPEATED
        rows = pools.sum(-1)
        final, least = p.copy(), psi.copy()
        at = np.nonzero((p <= fdr) & (psi >= settings.psi_floor) & ~_seasonal(group, specs)[:, None])
        if len(at[0]):
            final[at], least[at] = _asked(group, pools, at, (scaling.g[at[0]], scaling.rank[at[0]]), settings.psi_floor)
            final[at], least[at] = np.maximum(final[at], p[at]), np.minimum(least[at], psi[at])
        for i, name in enumerate(group.names):
            found[name] = [
                _Result(
                    name,
                    scale,
                    Comparison(float(psi[i, k]), float(p[i, k]), int(rows[i, k])),
                    float(final[i, k]),
                    float(least[i, k]),
                    bool(leaning[i]),
                )
                for k, scale in enumerate(scales)
                # the score is counted for the champion's rows only: in a trial these are fewer than the window's
                if rows[i, k] >= settings.min_rows
            ]
    return [result for name in specs for result in found[name]]


def _seasonal(group: Group, specs: Mapping[str, dict[str, Any]]) -> npt.NDArray[np.bool_]:
    """Columns that follow the clock: what came before a pool came at other hours, and says nothing about it."""
    return np.array([specs[name].get("seasons") is not None for name in group.names], bool)


def _asked(
    group: Group, pools: Floats, at: tuple[Any, ...], factor: tuple[Floats, Floats], floor: float
) -> tuple[Floats, Floats]:
    older = group.cells.sum(axis=1)[at[0]] - pools[at]
    return weigh(pools[at], older, group.reference[at], factor, in_order=group.in_order, floor=floor)


def _check_all(specs: Mapping[str, dict[str, Any]], window: Window) -> list[Check]:
    checks = []
    for name, spec in specs.items():
        if name != SCORE:
            checks += check_column(name, spec, window.counts[name])
    return checks


def _data_flags(checks: Sequence[Check], alpha: float) -> Flags:
    rejected = benjamini_hochberg([check.p for check in checks], alpha)
    passed = [c for c, significant in zip(checks, rejected, strict=True) if significant and c.large]
    return Flags(
        {f"{c.column}:{c.fault}" for c in passed if c.breaks},
        {f"{c.column}:{c.fault}" for c in passed if c.breaks and c.hard},
        odd=any(not c.breaks for c in passed),
    )


def _ranked(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    worst: dict[str, Reading] = {}
    for reading in readings:
        if reading.column not in worst or reading.psi > worst[reading.column].psi:
            worst[reading.column] = reading
    return [
        {"column": name, "psi": round(found.psi, 6), "scale": found.scale, "p": found.p, "rows": found.rows}
        for name, found in sorted(worst.items(), key=lambda item: (-item[1].psi, item[0]))
    ]


def _share(counts: Sequence[int], index: int) -> float:
    total = sum(counts)
    return counts[index] / total if total else 0.0
