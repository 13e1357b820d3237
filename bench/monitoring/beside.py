"""The same rows under ours and the rules in common use: false episodes without drift, delay with it.

    python -m bench.monitoring.beside --save

Twenty normals. Without drift: hourly windows, episodes scaled to 90 days. With drift: one column shifted from window 64
on. NannyML's default for numbers is re-computed here, because its package does not install on our Python: the
Jensen-Shannon distance to the reference, binned by Doane's rule, above mean + 3 standard deviations of the
reference's own chunks of the window's size. Evidently's default is that of `usual_rules`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.monitoring import streams, usual_rules
from bench.monitoring.judged import judge_stream
from bench.monitoring.keep import keep
from bench.monitoring.streams import Stream
from monitoring.settings import MonitoringSettings

Floats = npt.NDArray[np.float64]
Rule = Callable[[Floats], bool]
SETTINGS = MonitoringSettings()
FEATURES, CHANGE, LATE = 20, 64, 12
HOURS_90_DAYS = 2160
OURS = "Perene"


def nannyml(reference: Floats, n: int) -> Rule:
    """NannyML 0.13's default rule for one numeric column in chunks of n rows."""
    edges = np.histogram_bin_edges(reference, bins="doane")
    old = np.histogram(reference, bins=edges)[0] / len(reference)

    def distance(values: Floats) -> float:
        new = np.histogram(values, bins=edges)[0] / len(values)
        left = max(1.0 - float(new.sum()), 0.0)
        p, q = np.append(old, 0.0), np.append(new, left)
        middle = (p + q) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [np.where(side > 0, side * np.log2(side / middle), 0.0).sum() / 2 for side in (p, q)]
        return float(np.sqrt(max(sum(parts), 0.0)))

    own = [distance(reference[i : i + n]) for i in range(0, len(reference) - n + 1, n)]
    limit = float(np.mean(own) + 3 * np.std(own))
    return lambda values: distance(values) > limit


def alarms(reference: Floats, rows: Floats, n: int) -> dict[str, npt.NDArray[np.bool_]]:
    """Windows in which each rule alarms; of ours, windows in which drift becomes confirmed.

    Args:
        reference: [features, m].
        rows: [features, windows * n].
    """
    specs = streams.reference_of({f"x{i}": values for i, values in enumerate(reference)})["columns"]
    counts = {name: streams.count_windows(spec, rows[i], n) for i, (name, spec) in enumerate(specs.items())}
    stream, windows = Stream(specs, counts, n), rows.shape[1] // n
    ours = np.zeros(windows, bool)
    ours[judge_stream(stream, SETTINGS).episodes] = True
    theirs = [nannyml(values, n) for values in reference]
    parts = rows.reshape(len(rows), windows, n)
    by_nannyml, by_evidently = np.zeros(windows, bool), np.zeros(windows, bool)
    for t in range(windows):
        by_nannyml[t] = any(rule(parts[i, t]) for i, rule in enumerate(theirs))
        by_evidently[t] = any(usual_rules.evidently_rule(old, parts[i, t]) for i, old in enumerate(reference))
    return {
        OURS: ours,
        "Evidently, default": by_evidently,
        "NannyML, default": by_nannyml,
        "PSI > 0.1": usual_rules.psi_alarms(stream, 0.1),
        "PSI > 0.2": usual_rules.psi_alarms(stream, 0.2),
    }


def quiet(*, n: int, m: int, windows: int, replicates: int) -> list[dict[str, Any]]:
    """Episodes in 90 days, and share of windows with an alarm, without drift."""
    episodes: dict[str, list[int]] = {}
    share: dict[str, list[float]] = {}
    for seed in range(replicates):
        rng = np.random.default_rng(seed)
        reference, rows = (rng.standard_normal((FEATURES, size)) for size in (m, windows * n))
        for rule, found in alarms(reference, rows, n).items():
            begun = int(found.sum()) if rule == OURS else usual_rules.episodes(found)
            episodes.setdefault(rule, []).append(begun)
            share.setdefault(rule, []).append(float(found.mean()))
    scale = HOURS_90_DAYS / windows
    known = {"kind": "quiet", "n": n, "m": m, "windows": windows, "replicates": replicates}
    return [
        {**known, "rule": r, "episodes": scale * float(np.mean(e)), "windows_alarmed": float(np.mean(share[r]))}
        for r, e in episodes.items()
    ]


def moved(*, shift: float, n: int, m: int, replicates: int) -> list[dict[str, Any]]:
    """Windows from the change to the first alarm after it; a rule that was on before has found nothing."""
    late: dict[str, list[float]] = {}
    on: dict[str, list[bool]] = {}
    for seed in range(replicates):
        rng = np.random.default_rng(1_000 + seed)
        reference, rows = (rng.standard_normal((FEATURES, size)) for size in (m, (CHANGE + LATE) * n))
        rows[0, CHANGE * n :] += shift
        for rule, found in alarms(reference, rows, n).items():
            after = np.flatnonzero(found[CHANGE:])
            late.setdefault(rule, []).append(float(after[0] + 1) if len(after) else float("inf"))
            on.setdefault(rule, []).append(bool(found[CHANGE - 1]))
    known = {"kind": "moved", "shift": shift, "n": n, "m": m, "replicates": replicates}
    return [
        {
            **known,
            "rule": rule,
            "median": float(np.quantile(found, 0.5, method="higher")),
            "found": float(np.isfinite(found).mean()),
            "on_before": float(np.mean(on[rule])),
        }
        for rule, found in late.items()
    ]


def main() -> None:
    """Print the rows, save them if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=480, help="of each stream without drift")
    parser.add_argument("--replicates", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for n, m in ((100, 2_000), (500, 5_000)):
        rows += quiet(n=n, m=m, windows=arguments.windows, replicates=arguments.replicates)
    for shift, n, m in ((0.5, 100, 2_000), (0.2, 500, 5_000)):
        rows += moved(shift=shift, n=n, m=m, replicates=10 * arguments.replicates)
    for row in rows:
        print(json.dumps(row))
    if arguments.save:
        keep("beside", rows)


if __name__ == "__main__":
    main()
