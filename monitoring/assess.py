"""One closed window, judged: pure functions from counts to flags, with the facts a finding will show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monitoring.data_quality import Check, check_column
from monitoring.drift import Comparison, benjamini_hochberg, compare
from monitoring.settings import MonitoringSettings
from monitoring.verdict import Flags
from monitoring.windows import Window, ladder
from registry.reference import NULL, UNSEEN

SCORE = "_score"
"""Key of the score's counts; the lake's own columns start with an underscore, so no input is called that."""
SHOWN = 10


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
    alarmed: bool,
) -> Assessment:
    """Judge the newest of `closed` windows, and the pools that end with it.

    Args:
        specs: the reference's columns, and the score under `SCORE`.
        closed: closed windows, newest last; at least one.
        settings: thresholds.
        alarmed: whether drift is confirmed now: then a window is calm only under half the floor.
    """
    results = _compare_all(specs, closed, settings.min_rows)
    rejected = benjamini_hochberg([result.p for _, _, result in results], settings.fdr)
    flagged, unsettled = set(), set()
    for (name, _, result), significant in zip(results, rejected, strict=True):
        if significant and result.psi >= settings.psi_floor:
            flagged.add(name)
        elif significant and alarmed and result.psi >= settings.psi_floor / 2:
            unsettled.add(name)
    psi: dict[str, dict[str, float]] = {}
    for name, scale, result in results:
        psi.setdefault(name, {})[str(scale)] = round(result.psi, 6)
    checks = _check_all(specs, closed[-1])
    newest = closed[-1].counts
    return Assessment(
        Flags(flagged - {SCORE}, unsettled=bool(unsettled - {SCORE})),
        Flags(flagged & {SCORE}, unsettled=SCORE in unsettled) if SCORE in psi else None,
        _data_flags(checks, settings.fdr),
        psi,
        _ranked(results),
        checks,
        {n: _share(newest[n], NULL) for n in specs if n != SCORE},
        {n: _share(newest[n], UNSEEN) for n, s in specs.items() if n != SCORE and s["kind"] == "category"},
    )


def _compare_all(
    specs: Mapping[str, dict[str, Any]], closed: Sequence[Window], min_rows: int
) -> list[tuple[str, int, Comparison]]:
    found = []
    for name, spec in specs.items():
        for scale, counts in ladder(closed, name).items():
            # the score is counted for the champion's rows only: during a trial these are fewer than the window's
            if counts.sum() >= min_rows:
                found.append((name, scale, compare(spec, counts)))
    return found


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


def _ranked(results: Sequence[tuple[str, int, Comparison]]) -> list[dict[str, Any]]:
    worst: dict[str, tuple[int, Comparison]] = {}
    for name, scale, result in results:
        if name not in worst or result.psi > worst[name][1].psi:
            worst[name] = (scale, result)
    return [
        {"column": name, "psi": round(result.psi, 6), "scale": scale, "p": result.p, "rows": result.rows}
        for name, (scale, result) in sorted(worst.items(), key=lambda item: (-item[1][1].psi, item[0]))
    ]


def _share(counts: Sequence[int], index: int) -> float:
    total = sum(counts)
    return counts[index] / total if total else 0.0
