"""The claims M1 to M6: each a function from its size to a row of figures, seeds fixed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.monitoring import streams, usual_rules
from bench.monitoring.judged import judge_stream
from bench.monitoring.streams import Make
from monitoring.drift.assess import assess
from monitoring.drift.verdict import Rule, Verdict, advance
from monitoring.drift.windows import Window, merge
from monitoring.settings import MonitoringSettings
from monitoring.watching.quality import ESR, null_level, update
from registry.reference import bin_counts

HOURS_90_DAYS = 2160
SETTINGS = MonitoringSettings()
LATE = 12
"""Windows after a change within which an alarm counts."""

Row = dict[str, Any]


def false_alarms(make: Make, *, n: int, replicates: int, windows: int = HOURS_90_DAYS, m: int = 1000) -> Row:
    """M1: episodes of confirmed drift in hourly windows without drift, and those of fixed PSI thresholds."""
    ours, flagged, usual = list[int](), list[float](), {0.1: [0, 0], 0.2: [0, 0]}
    for seed in range(replicates):
        stream = make(np.random.default_rng(seed), windows, n, m)
        judged = judge_stream(stream, SETTINGS)
        ours.append(len(judged.episodes))
        flagged.append(float(np.mean([bool(names) for names in judged.flagged])))
        if seed < 5:
            for threshold, count in usual.items():
                alarms = usual_rules.psi_alarms(stream, threshold)
                count[0] += usual_rules.episodes(alarms)
                count[1] += int(alarms.sum())
    scale = HOURS_90_DAYS / windows
    watched = min(replicates, 5)
    error = float(np.std(ours)) / max(replicates, 1) ** 0.5
    return {
        "episodes": scale * float(np.mean(ours)),
        "standard_error": scale * error,
        "flagged_windows": float(np.mean(flagged)),
        "replicates_without": float(np.mean(np.array(ours) == 0)),
        "psi_0.1_episodes": scale * usual[0.1][0] / watched,
        "psi_0.1_windows": usual[0.1][1] / (watched * windows),
        "psi_0.2_episodes": scale * usual[0.2][0] / watched,
    }


def delays(make: Make, *, n: int, replicates: int, change: int = 64, m: int = 1000) -> list[float]:
    """M2: windows from the change at window `change` to the confirmation; infinite if not within `LATE`."""
    found = []
    for seed in range(replicates):
        stream = make(np.random.default_rng(seed), change + LATE, n, m)
        late = [t - change + 1 for t in judge_stream(stream, SETTINGS, first_after=change).episodes if t >= change]
        found.append(float(late[0]) if late else float("inf"))
    return found


def broken_delays(make: Make, *, n: int, replicates: int, change: int = 4, m: int = 1000) -> list[float]:
    """M4: windows from the change to `broken`, by `assess` itself."""
    found = []
    for seed in range(replicates):
        stream = make(np.random.default_rng(seed), change + LATE, n, m)
        verdict, closed, late = Verdict(), list[Window](), float("inf")
        for t in range(change + LATE):
            counts = {name: rows[t].tolist() for name, rows in stream.counts.items()}
            closed.append(Window(3600.0 * t, 3600.0 * (t + 1), n, counts))
            verdict = advance(verdict, assess(stream.specs, closed, SETTINGS).data, Rule("broken", 2, 3, 3))
            if verdict.state == "broken":
                late = t - change + 1.0
                break
        found.append(late)
    return found


def cost(columns: int = 20, rows: int = 10_000) -> Row:
    """M5: milliseconds to count and judge one window, of a full ladder too; bytes of state; whether halves add up."""
    rng = np.random.default_rng(0)
    drawn = {f"x{i}": rng.standard_normal(rows) for i in range(columns)}
    for i in range(0, columns, 4):
        drawn[f"x{i}"] = np.array([f"c{k}" for k in rng.integers(0, 8, rows)], dtype=object)
    specs = streams.reference_of({name: values[:1000] for name, values in drawn.items()})["columns"]

    def count(first: int, last: int) -> dict[str, list[int]]:
        return {name: bin_counts(spec, drawn[name][first:last]).tolist() for name, spec in specs.items()}

    window = Window(0.0, 3600.0, rows, count(0, rows))
    closed = [Window(3600.0 * t, 3600.0 * (t + 1), rows, window.counts) for t in range(64)]
    counted = _least_ms(lambda: count(0, rows))
    judged = _least_ms(lambda: assess(specs, closed, SETTINGS))
    half = rows // 2
    halves = [Window(0.0, 3600.0, half, count(0, half)), Window(0.0, 3600.0, rows - half, count(half, rows))]
    return {
        "columns": columns,
        "rows": rows,
        "count_ms": counted,
        "judge_ms": judged,
        "state_bytes": state_bytes(closed),
        "merge_equal": merge(halves) == window,
    }


def _least_ms(what: Callable[[], object]) -> float:
    """Milliseconds of processor time, the least of five: other work on the machine is no part of it."""
    found = []
    for _ in range(5):
        began = time.process_time()
        what()
        found.append(1e3 * (time.process_time() - began))
    return min(found)


def state_bytes(closed: Sequence[Window]) -> int:
    """Bytes of a ladder as it is saved."""
    import msgspec

    return len(msgspec.msgpack.encode(list(closed)))


def esr_alarm(mean: float, *, seed: int, labels: int, base: float = 0.2, reference: int = 2000) -> int | None:
    """M6: label at which e-SR alarms on Bernoulli losses of mean `mean`; None when it does not."""
    rng = np.random.default_rng(seed)
    old = (rng.random(reference) < base).astype(float)
    quality = {"n": reference, "loss": old.mean(), "loss_sd": old.std(ddof=1)}
    level = null_level(quality, SETTINGS.tolerance, SETTINGS.tolerance_relative)
    assert level is not None
    detector = ESR(level)
    for index, loss in enumerate((rng.random(labels) < mean).astype(float).tolist()):
        update(detector, loss, float(index))
        if detector.evalue >= SETTINGS.esr_run_length:
            return index + 1
    return None


def spread(found: Sequence[float]) -> Row:
    """Median and 95th percentile of delays."""
    middle, late = np.quantile(found, [0.5, 0.95], method="higher")
    return {"median": float(middle), "p95": float(late), "found": float(np.isfinite(found).mean())}


__all__ = ["broken_delays", "cost", "delays", "esr_alarm", "false_alarms", "spread", "state_bytes"]
