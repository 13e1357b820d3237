"""Perene beside everything else: P1, P2, P3, P5 and P6 on loopback, server on core 0, load on core 1.

`python -m bench.serving.peers [--rounds 3] [NAME...]` writes bench/results/peers.json and prints a line for each
server. Peers come from `bench/peers/setup all`; one that is not there, does not start or answers wrongly is named
with the reason, never left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from bench.peers.catalogue import peers
from bench.peers.target import Target
from bench.serving.ask import NotStarted, Wrong, first_answer, largest_difference, prepare, relative, running
from bench.serving.load import Refused, measure
from bench.serving.machine import facts, save, tool, versions
from bench.serving.ours import PYTHON, echo, nginx, perene
from bench.serving.process import SERVER_CORE, be_the_load
from bench.serving.subject import BULK_ROWS, FOLDER, ROOT, STRINGS, Subject
from bench.serving.subject import prepare as prepare_subject

WARM_UP_S = 1.0
SECONDS = 4.0
BULK_CONNECTIONS = 8
LIMIT_S = 25 * 60.0


def one_round(target: Target, subject: Subject) -> dict[str, Any]:
    """Start it once, check it, load it.

    Raises:
        NotStarted, Wrong, Refused: it cannot be compared.
    """
    single, bulk = target.bodies(subject, 1), target.bodies(subject, BULK_ROWS)
    with running(target) as (server, port):
        found: dict[str, Any] = {
            "load_average": round(os.getloadavg()[0], 2),
            "first_answer_s": first_answer(target, server, port, single[0]),
        }
        if not target.constant:
            found["difference"] = largest_difference(target, port, subject)

        def run(bodies: Sequence[bytes], connections: int, seconds: float = SECONDS) -> dict[str, Any]:
            done = measure(
                server, target.url(port), bodies, headers=target.headers, connections=connections, seconds=seconds
            )
            return asdict(done)

        run(single, 4, WARM_UP_S)
        found["one"] = run(single, 1)
        found["many"] = run(single, 64)
        if not target.constant:
            found["bulk"] = run(bulk, BULK_CONNECTIONS)
        found["memory_mib"], found["rss_mib"] = server.memory_mib(), server.rss_mib()
    return found


def compare(targets: Sequence[Target], subject: Subject, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Every target in turn, `rounds` times, so that what else the machine does falls on all of them."""
    rows: dict[str, dict[str, Any]] = {target.name: _row(target) for target in targets}
    until = time.monotonic() + LIMIT_S
    for turn in range(rounds):
        for target in targets:
            row = rows[target.name]
            if "error" in row or time.monotonic() > until:
                continue
            try:
                if turn == 0:
                    row["versions"] = versions(target.python, target.packages)
                    prepare(target)
                row["rounds"].append(one_round(target, subject))
            except Wrong as error:
                row["error"] = f"wrong: {error}"
            except (NotStarted, Refused, OSError, subprocess.CalledProcessError) as error:
                row["error"] = f"{type(error).__name__}: {relative([str(error)])}"
            say(_line(row, turn))
    for row in rows.values():
        if row["rounds"]:
            row["median"] = _medians(row["rounds"])
    return rows


def engine_alone(subject: Subject) -> dict[str, float]:
    """Seconds of `session.run` for one row, for 64 and for 100."""
    file = ROOT / "engine.npz"
    strings = np.array([[row[name] for name in STRINGS] for row in subject.rows], dtype=object)
    numbers = np.array([[row[name] for name in subject.numbers] for row in subject.rows], dtype=np.float32)
    np.savez(file, numbers=numbers, strings=strings)
    command = ["taskset", "-c", SERVER_CORE, str(PYTHON), "-m", "bench.peers.limits.session_run"]
    command += [str(FOLDER / "model.onnx"), str(file), "1", "64", str(BULK_ROWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _row(target: Target) -> dict[str, Any]:
    return {
        "name": target.name,
        "title": target.title,
        "peer": target.peer,
        "command": relative(_typed(target)),
        "rounds": [],
    }


def _typed(target: Target) -> list[str]:
    given = [f"{name}={value}" for name, value in target.env(8000).items() if name != "PATH"]
    return [*given, *target.command(8000)]


def _medians(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = rounds[0]
    found: dict[str, Any] = {}
    for name, value in first.items():
        if isinstance(value, dict):
            found[name] = _medians([one[name] for one in rounds])
        elif isinstance(value, (int, float)):
            found[name] = median(one[name] for one in rounds)
    return found


def _line(row: dict[str, Any], turn: int) -> str:
    if "error" in row:
        return f"{row['title']}: {row['error']}"
    last = row["rounds"][-1]
    many, one = last["many"], last["one"]
    return (
        f"round {turn + 1}, {row['title']}: {many['rate']:,.0f}/s at 64, {many['cpu_us']:.0f} µs CPU, "
        f"p50 {one['p50_ms']:.2f} ms at 1, first answer {last['first_answer_s']:.2f} s, load {last['load_average']}"
    )


def main() -> None:
    """Run it all and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("names", nargs="*", help="only these servers")
    given = parser.parse_args()
    subject = prepare_subject()
    be_the_load()
    targets = [perene(subject), echo(), nginx(), *peers()]
    if given.names:
        targets = [target for target in targets if target.name in given.names]
    found: dict[str, Any] = {
        "machine": facts(),
        "load": tool("wrk", "-v"),
        "nginx": tool("nginx", "-v"),
        "subject": {"strings": len(STRINGS), "floats": len(subject.numbers), "nodes": subject.nodes},
        "command": "python -m bench.serving.peers",
    }
    found["engine_s"] = engine_alone(subject)
    found["servers"] = compare(targets, subject, given.rounds, lambda line: print(line, flush=True))
    found["machine"]["load_average_after"] = round(os.getloadavg()[0], 2)
    print(save("peers", found))


if __name__ == "__main__":
    main()
