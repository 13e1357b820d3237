"""How many models one worker watches: processor time of a monitor for an hour of a model's events.

python -m bench.monitoring.worker --save
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import pyarrow as pa

from bench.monitoring.keep import keep
from monitoring.settings import MonitoringSettings
from monitoring.watching.monitor import Monitor
from registry.contract import Column, Contract, Output
from registry.reference import build_reference

COLUMNS, CATEGORIES, ROWS, HOURS = 20, 5, 500, 80
T0 = 1_700_000_000.0


def drawn(rows: int, rng: np.random.Generator) -> dict[str, Any]:
    """Fifteen numbers and five categories of eight levels."""
    columns: dict[str, Any] = {f"x{i}": rng.standard_normal(rows) for i in range(COLUMNS - CATEGORIES)}
    for i in range(CATEGORIES):
        columns[f"c{i}"] = np.array([f"c{k}" for k in rng.integers(0, 8, rows)], dtype=object)
    return columns


def cost() -> dict[str, Any]:
    """Seconds of processor time an hour of events, state saved and restored each hour, once the ladder is full."""
    rng = np.random.default_rng(0)
    known = drawn(5_000, rng)
    names = tuple(Column(n, "string" if v.dtype == object else "float") for n, v in known.items())
    contract = Contract("m", names, Output("regression"))
    losses = rng.exponential(0.1, 5_000)
    reference = build_reference(contract, known, known["x0"], losses, 10.0, {"mae": 1.0})
    settings = MonitoringSettings()
    monitor, spent = Monitor.start("m", 1, contract, reference, settings), []
    for hour in range(HOURS):
        rows = drawn(ROWS, rng)
        at = pa.array(((T0 + 3600 * hour + np.arange(ROWS) * 7.2) * 1e6).astype(np.int64), pa.timestamp("us", "UTC"))
        common = {"_id": [f"{hour}-{i}" for i in range(ROWS)], "_at": at, "_received": at, "_seq": list(range(ROWS))}
        answers = {"_version": [1] * ROWS, "_arm": ["champion"] * ROWS, "_prediction": rows["x0"]}
        made = pa.table({**common, **answers, **{name: pa.array(values) for name, values in rows.items()}})
        told = pa.table({**common, "_label": rows["x0"] + rng.exponential(1.0, ROWS)})
        began = time.process_time()
        monitor.observe(made, told)
        body = monitor.state()
        spent.append(time.process_time() - began)
    later = float(np.median(spent[64:]))
    return {
        "columns": COLUMNS,
        "rows_per_hour": ROWS,
        "cpu_s_per_model_hour": later,
        "models_per_core": 3600 / later,
        "state_bytes": len(body),
    }


def main() -> None:
    """Print the figures, save them if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true")
    row = cost()
    print(json.dumps(row))
    if parser.parse_args().save:
        keep("worker", [row])


if __name__ == "__main__":
    main()
