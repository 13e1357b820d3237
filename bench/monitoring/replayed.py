"""M9: the same events delivered in another way must leave the monitor in the same state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from monitoring.settings import MonitoringSettings
from monitoring.watching.monitor import Monitor
from registry.contract import Column, Contract, Output
from registry.reference import build_reference

CONTRACT = Contract("m9", (Column("x", "float"),), Output("regression"))
SETTINGS = MonitoringSettings(window_rows=100, min_rows=50, window_max_age_s=1e6, label_lateness_s=1e5)
START, ROWS = 1_700_000_000.0, 1_200


def same_state(seed: int) -> bool:
    """Whether a run with shuffled, repeated and late labels and restarts ends in the state of a plain one.

    Predictions come in order; each label comes once in the plain run, after all predictions of its part, and in any
    order, some twice, a part late and through a restored monitor in the other.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(1_000)
    reference = build_reference(CONTRACT, {"x": x}, x, np.abs(x) / 10, 10.0, {"mae": 1.0})
    values = rng.standard_normal(ROWS)
    noise = rng.standard_normal(ROWS)
    plain = Monitor.start("m9", 1, CONTRACT, reference, SETTINGS)
    other = Monitor.start("m9", 1, CONTRACT, reference, SETTINGS)
    parts = np.array_split(np.arange(ROWS), 12)
    for number, part in enumerate(parts):
        made = _predictions(part, values)
        plain.observe(made, _labels(part, values + noise))
        own = rng.permutation(np.concatenate([part[::2], rng.choice(part[::2], 20)]))
        late = rng.permutation(parts[number - 1][1::2]) if number else part[:0]
        other.observe(made, _labels(np.concatenate([own, late]), values + noise))
        other = Monitor.restore(other.state(), CONTRACT, reference, SETTINGS)
    end = np.array([ROWS - 1])
    plain.observe(_predictions(end + 1, np.append(values, 0.0), ahead=1e6), _labels(end[:0], values))
    other.observe(_predictions(end + 1, np.append(values, 0.0), ahead=1e6), _labels(parts[-1][1::2], values + noise))
    return bool(_of(plain) == _of(other))


def _of(monitor: Monitor) -> Any:
    """All but how long labels took to arrive, which is what the two runs differ in."""
    found = monitor.snapshot()
    del found["maturity"]
    return found


def _predictions(rows: Any, values: Any, *, ahead: float = 0.0) -> pa.Table:
    at = pa.array(((START + rows * 100.0 + ahead) * 1e6).astype(np.int64), pa.timestamp("us", "UTC"))
    n = len(rows)
    return pa.table(
        {
            "_id": [f"p{i:06d}" for i in rows],
            "_at": at,
            "_received": at,
            "_seq": pa.array(rows.astype(np.int64)),
            "_version": pa.array([1] * n, pa.int64()),
            "_arm": ["champion"] * n,
            "_prediction": pa.array(values[rows], pa.float64()),
            "x": pa.array(values[rows], pa.float64()),
        }
    )


def _labels(rows: Any, truth: Any) -> pa.Table:
    at = pa.array(((START + rows * 100.0 + 50.0) * 1e6).astype(np.int64), pa.timestamp("us", "UTC"))
    return pa.table(
        {
            "_id": pa.array([f"p{i:06d}" for i in rows], pa.string()),
            "_at": at,
            "_received": at,
            "_seq": pa.array(rows.astype(np.int64)),
            "_label": pa.array(truth[rows], pa.float64()),
        }
    )
