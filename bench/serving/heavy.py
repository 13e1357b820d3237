"""P4: a heavy graph under 64 connections, beside bare `session.run` at the batch size that was reached.

`python -m bench.serving.heavy` writes bench/results/heavy.json. The batch size comes from the server's own histogram
`perene_batch_rows`; a server that does not batch has none, and is held against one row at a time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import asdict
from typing import Any

import numpy as np

from bench.serving.ask import first_answer, largest_difference, relative, running
from bench.serving.heavy_subject import FOLDER, prepare
from bench.serving.load import measure
from bench.serving.machine import facts, save
from bench.serving.ours import PYTHON, perene
from bench.serving.process import SERVER_CORE, be_the_load
from bench.serving.scrape import scrape, total
from bench.serving.subject import Subject

CONNECTIONS = (1, 8, 64)


def bare(subject: Subject, *sizes: int) -> dict[int, float]:
    """Seconds of `session.run` for each batch size."""
    file = FOLDER / "engine.npz"
    np.savez(file, numbers=np.array([list(row.values()) for row in subject.rows], dtype=np.float32))
    command = ["taskset", "-c", SERVER_CORE, str(PYTHON), "-m", "bench.peers.limits.session_run"]
    command += [str(FOLDER / "model.onnx"), str(file), *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {int(size): took for size, took in json.loads(done.stdout).items()}


def run(seconds: float) -> dict[str, Any]:
    """All figures."""
    subject = prepare()
    target = perene(subject)
    bodies = target.bodies(subject, 1)
    found: dict[str, Any] = {"command": "python -m bench.serving.heavy", "machine": facts(), "loads": {}}
    with running(target) as (server, port):
        first_answer(target, server, port, bodies[0])
        found["difference"] = largest_difference(target, port, subject)
        before = scrape(target, port)
        for connections in CONNECTIONS:
            load = measure(
                server, target.url(port), bodies, headers=target.headers, connections=connections, seconds=seconds
            )
            after = scrape(target, port)
            found["loads"][connections] = {**asdict(load), "batch": _mean_batch(before, after)}
            before = after
    reached = max(1, round(found["loads"][64]["batch"]))
    alone = bare(subject, *sorted({1, reached, 64}))
    rate = found["loads"][64]["rate"]
    found["session_run_s"] = alone
    found["to_bare"] = rate * alone[reached] / reached
    found["to_unbatched"] = rate * alone[1]
    each = [f"{size / took:,.0f} rows/s in batches of {size}" for size, took in alone.items()]
    found["summary"] = (
        f"{rate:,.0f} requests/s at 64 connections in batches of {reached} on average, "
        f"{found['loads'][1]['rate']:,.0f} at one connection; bare session.run {', '.join(each)}"
    )
    return found


def _mean_batch(before: str, after: str) -> float:
    names = ("perene_batch_rows_sum", "perene_batch_rows_count")
    rows, batches = ((total(after, name) or 0.0) - (total(before, name) or 0.0) for name in names)
    return rows / batches if batches else 1.0


def main() -> None:
    """Run it and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args()
    be_the_load()
    found = run(given.seconds)
    print(found["summary"])
    print(relative([str(save("heavy", found))]))


if __name__ == "__main__":
    main()
