"""A million rows of the subject by `perene predict --batch`, beside bare `session.run` on the same rows.

`python -m bench.serving.batch` writes bench/results/batch.json. Both have one thread for the engine; bare `session.run`
gets tensors that are ready in memory, in the batch size that suits it best. The two take turns, since a machine is
never quite quiet, and the medians are compared. Seconds of the CPU are there too: they do not see the work of others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.serving.machine import facts, save
from bench.serving.subject import FOLDER, ROOT, STRINGS, Subject, prepare

ROWS = 1_000_000
TIMES = 5
SIZES = (1_024, 8_192, 65_536)


def write(subject: Subject, file: Path) -> None:
    """The rows again and again, in a seeded order, as pandas would write them: Parquet or CSV."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    chosen = pa.array(np.random.default_rng(1).integers(0, len(subject.rows), ROWS))
    columns = {name: pa.array([row[name] for row in subject.rows]).take(chosen) for name in subject.rows[0]}
    table = pa.table({n: c if n in STRINGS else c.cast(pa.float32()) for n, c in columns.items()})
    (csv.write_csv if file.suffix == ".csv" else pq.write_table)(table, file)


def bare(file: Path) -> dict[str, float]:
    """Seconds of wall and CPU for all rows, their tensors ready; the best of some batch sizes."""
    import pyarrow.parquet as pq

    from registry.onnx_session import open_session

    table = pq.read_table(file)
    names = [name for name in table.column_names if name not in STRINGS]
    numbers = np.column_stack([table[name].to_numpy() for name in names])
    texts = [table[name].dictionary_encode().combine_chunks() for name in STRINGS]
    strings = np.column_stack([np.array(t.dictionary.to_pylist(), dtype=object)[t.indices.to_numpy()] for t in texts])
    session = open_session((FOLDER / "model.onnx").read_bytes())
    found = []
    for size in SIZES:
        began, worked = time.perf_counter(), time.process_time()
        for start in range(0, ROWS, size):
            end = start + size
            session.run(["prediction"], {"numbers": numbers[start:end], "strings": strings[start:end]})
        found.append((time.perf_counter() - began, time.process_time() - worked, size))
    wall, cpu, size = min(found)
    return {"wall_s": wall, "cpu_s": cpu, "batch_rows": size}


def ours(subject: Subject, file: Path, out: Path) -> dict[str, float]:
    """The same by the job, the model loaded; and what the process held at most."""
    from registry.bundle import read_bundle
    from serving.batch.job import Asked, score
    from serving.batch.journal import Model
    from serving.batch.rows import Scorer
    from serving.settings import ServingSettings

    out.unlink(missing_ok=True)
    bundle = read_bundle(next((subject.home / "artifacts").rglob("manifest.json")).parent)
    with Scorer(bundle, ServingSettings(device="cpu")) as scorer:
        worked = time.process_time()
        done = score(Asked(file, out), scorer, Model(subject.name, 1, bundle.digest))
    cpu = time.process_time() - worked
    # not of getrusage, which begins with what the parent held
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    return {"wall_s": done.seconds, "cpu_s": cpu, "rows": done.written, "peak_mib": peak}


def _apart(*arguments: str) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "bench.serving.batch", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def run() -> dict[str, Any]:
    """Both formats beside the engine alone, in turns."""
    subject = prepare()
    files = {ending: ROOT / f"million.{ending}" for ending in ("parquet", "csv")}
    for file in files.values():
        if not file.is_file():
            write(subject, file)
    rounds: dict[str, list[dict[str, float]]] = {"bare": [], "parquet": [], "csv": []}
    for _ in range(TIMES):
        rounds["bare"].append(_apart("bare", str(files["parquet"])))
        for ending, file in files.items():
            rounds[ending].append(_apart("ours", str(file)))
    middle = {kind: {name: median(one[name] for one in found) for name in found[0]} for kind, found in rounds.items()}
    lines = [f"bare session.run {ROWS / middle['bare']['wall_s']:,.0f} rows/s"]
    for ending in files:
        turns = [b["wall_s"] / one["wall_s"] for b, one in zip(rounds["bare"], rounds[ending], strict=True)]
        best = _best(rounds["bare"]) / _best(rounds[ending])
        middle[ending] |= {"of_bare": median(turns), "best_of_bare": best, "best_wall_s": _best(rounds[ending])}
        lines.append(
            f"{ending} {ROWS / middle[ending]['wall_s']:,.0f} rows/s, {median(turns):.2f} × bare "
            f"({best:.2f} of the best rounds), {middle[ending]['peak_mib']:.0f} MiB"
        )
    return {"rows": ROWS, "rounds": TIMES, **middle, "summary": "; ".join(lines)}


def _best(rounds: list[dict[str, float]]) -> float:
    return min(one["wall_s"] for one in rounds)


def main() -> None:
    """Run it and keep the figures, or measure one thing for `run`."""
    if sys.argv[1:2] == ["bare"]:
        print(json.dumps(bare(Path(sys.argv[2]))))
        return
    if sys.argv[1:2] == ["ours"]:
        print(json.dumps(ours(Subject(FOLDER), Path(sys.argv[2]), ROOT / "answers.parquet")))
        return
    found = {"command": "python -m bench.serving.batch", "machine": facts(), **run()}
    print(found["summary"])
    print(save("batch", found))


if __name__ == "__main__":
    main()
