"""The rules in common use, on the same kind of streams: fixed PSI thresholds and Evidently's default.

Evidently's default for numbers, re-computed here because a report takes seconds: with up to 1,000 rows of reference a
Kolmogorov-Smirnov test at p < 0.05; with more, Wasserstein's distance over the reference's standard deviation >= 0.1.
`checked` runs Evidently itself on some windows and counts columns on which both say the same.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from bench.monitoring.streams import Stream
from monitoring.drift.drift import cells, psi

Floats = npt.NDArray[np.float64]
KS_ROWS = 1000
KS_P = 0.05
WASSERSTEIN = 0.1


def psi_alarms(stream: Stream, threshold: float) -> npt.NDArray[np.bool_]:
    """Windows in which some column's PSI, noise and all, passes a fixed threshold."""
    found = np.zeros(len(next(iter(stream.counts.values()))), bool)
    for name, spec in stream.specs.items():
        reference = cells(spec, spec["counts"]).astype(np.float64)
        found |= psi(cells(spec, stream.counts[name]).astype(np.float64), reference[None]) > threshold
    return found


def evidently_rule(reference: Floats, window: Floats) -> bool:
    """Whether Evidently 0.7 with its defaults calls a numeric column drifted."""
    if len(reference) <= KS_ROWS:
        return bool(stats.ks_2samp(reference, window).pvalue < KS_P)
    return bool(stats.wasserstein_distance(reference, window) / max(reference.std(), 1e-3) >= WASSERSTEIN)


def evidently_alarms(n: int, *, m: int, windows: int, features: int = 20, seed: int = 0) -> tuple[float, float, int]:
    """Shares of undrifted columns and of windows (any column) that are flagged, and episodes, on normals."""
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal((features, m))
    flagged = np.zeros((windows, features), bool)
    for index in range(windows):
        window = rng.standard_normal((features, n))
        flagged[index] = [evidently_rule(reference[i], window[i]) for i in range(features)]
    some = np.asarray(flagged.any(axis=1))
    return float(flagged.mean()), float(some.mean()), episodes(some)


def episodes(alarms: npt.NDArray[np.bool_]) -> int:
    """How often an alarm begins."""
    return int(alarms[:1].sum() + (alarms[1:] & ~alarms[:-1]).sum())


def checked(n: int, *, m: int, windows: int, features: int = 20) -> tuple[int, int]:
    """(columns on which Evidently itself and the rule here agree, columns looked at)."""
    import pandas as pd

    from monitoring.reports.evidently_report import write_report
    from registry.contract import Column, Contract, Output

    names = [f"x{i}" for i in range(features)]
    contract = Contract("sim", tuple(Column(name, "float") for name in names), Output("regression"))
    rng = np.random.default_rng(1)
    same = 0
    for _ in range(windows):
        old, new = rng.standard_normal((m, features)), rng.standard_normal((n, features))
        with tempfile.TemporaryDirectory() as folder:
            frames: list[Any] = [pd.DataFrame(values, columns=names) for values in (old, new)]
            said = write_report(frames[0], frames[1], contract, Path(folder)).drifted
        same += sum(evidently_rule(old[:, i], new[:, i]) == said[name] for i, name in enumerate(names))
    return same, windows * features
