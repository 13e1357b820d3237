"""Recorded traffic read again: a replay, an export and a bill; seconds, rows a second and the most memory of each.

`python -m bench.events.traffic [--replayed 1000000] [--billed 10000000]` writes bench/results/events_traffic.json.
Each reading is a process of its own, so that its memory is its own. The replayed model is linear: what is measured is
reading, comparing and writing. Bills read our columns only, so the billed lake has no others.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.events.lake import BOOT, COLUMNS, FILE_ROWS, START, features, fill
from bench.serving.machine import facts, save
from monitoring.lake.lake import Key, Lake
from monitoring.lake.lake_tables import TIME
from monitoring.reading.export import export
from monitoring.reading.usage import usage
from registry.bundle import read_bundle
from serving.batch.journal import Model
from serving.batch.rows import Scorer
from serving.replay.job import Replay, replay
from serving.settings import ServingSettings

FOLDER = Path("build/bench/traffic")
END = 4_102_444_800_000_000
KEYS = 20
DAYS = 30


def make(replayed: int, billed: int) -> None:
    """The lakes and the version that answers again; the libraries that it is made with are no reader's."""
    import pandas as pd
    from sklearn.linear_model import LinearRegression

    from registry.log import build_bundle

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    fill(Lake(FOLDER / "replayed"), "measured", replayed)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"x{n}": values for n, values in enumerate(features("measured", 2_000, rng))})
    frame = frame.astype(np.float32)
    target = frame.to_numpy(np.float64) @ rng.normal(size=COLUMNS)
    build_bundle(LinearRegression().fit(frame, target), frame, target, name="bench", to=FOLDER / "bundle")
    _bill(Lake(FOLDER / "billed"), billed)


def _bill(lake: Lake, events: int) -> None:
    """Requests of one row each by some keys, evenly over a month, in files as the shipper makes them."""
    rng = np.random.default_rng(1)
    for first in range(0, events, FILE_ROWS):
        rows = min(FILE_ROWS, events - first)
        at = ((START.timestamp() + (first + np.arange(rows)) * (DAYS * 86_400 / events)) * 1e6).astype(np.int64)
        table = pa.table(
            {
                "_at": pa.array(at).cast(TIME),
                "_received": pa.array(at).cast(TIME),
                "_latency_ms": np.round(rng.gamma(4, 0.2, rows), 3),
                "_key": pa.array([f"k_{n:08}" for n in range(KEYS)]).take(pa.array(rng.integers(0, KEYS, rows))),
                "_boot": pa.repeat(BOOT, rows),
                "_seq": np.arange(first + 1, first + rows + 1),
            }
        )
        day = datetime.fromtimestamp(at[0] / 1e6, UTC).date()
        name = f"{BOOT}-{first + 1}-{first + rows}-v1.parquet"
        key = Key("model=bench", "kind=prediction", f"date={day}", name)
        lake.storage.write(key, lake.encoded(key, table))


def measure(what: str) -> dict[str, Any]:
    """One reading, in this process."""
    began = time.perf_counter()
    if what == "replay":
        bundle = read_bundle(FOLDER / "bundle")
        asked = Replay(FOLDER / "diff.parquet", None, END)
        with Scorer(bundle, ServingSettings(device="cpu")) as scorer:
            found = replay(
                asked,
                Lake(FOLDER / "replayed"),
                scorer,
                Model("bench", 2, bundle.digest),
                {1: bundle.contract},
                where="bench",
            )
        rows, more = found["rows"], {"labelled": found["labelled"]}
    elif what == "usage":
        used = usage(Lake(FOLDER / "billed"), low=None, high=None)
        rows, more = sum(one.rows for one in used.values()), {"lines": len(used)}
    else:
        out = FOLDER / f"events.{what.partition(' ')[2]}"
        rows = export(Lake(FOLDER / "replayed"), "bench", out, low=None, high=None, labelled=True)
        more = {"bytes": out.stat().st_size}
    seconds = time.perf_counter() - began
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = {"rows": rows, "seconds": round(seconds, 2), "rows_per_s": round(rows / seconds), "most_mib": round(most)}
    return told | more


def main() -> None:
    """All of it, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replayed", type=int, default=1_000_000)
    parser.add_argument("--billed", type=int, default=10_000_000)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only)))
        return
    make(options.replayed, options.billed)
    found: dict[str, Any] = {"machine": facts()}
    for what in ("replay", "export parquet", "export csv", "usage"):
        command = [sys.executable, "-m", "bench.events.traffic", "--only", what]
        found[what] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        print(what, found[what], flush=True)
    save("events_traffic", found)
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
