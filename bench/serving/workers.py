"""P9: n workers on n cores against one, and whether the counters add up.

`python -m bench.serving.workers [--most 4]` writes bench/results/workers.json. The load keeps a core of its own, so n
workers need n + 1 cores; where there are fewer, the counters are still checked with two workers on one core, and the
answers for each second of CPU time against those of one worker say what n cores could carry at most. Each worker has 64
connections: n of them are there to carry n times the load.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from bench.peers.target import Target
from bench.serving.ask import START_S, NotStarted, first_answer, running
from bench.serving.load import measure
from bench.serving.machine import facts, save
from bench.serving.ours import perene
from bench.serving.process import be_the_load
from bench.serving.scrape import scrape, total
from bench.serving.subject import Subject, prepare

SECONDS = 6.0
CONNECTIONS = 64


def run_one(subject: Subject, workers: int, cores: str) -> dict[str, Any]:
    """One number of workers.

    Raises:
        NotStarted: this server has no such number of workers.
    """
    target = perene(subject, workers=workers)
    bodies = target.bodies(subject, 1)
    with running(target, cores=cores) as (server, port):
        first_answer(target, server, port, bodies[0])
        _wait_for(target, port, workers)
        before = total(scrape(target, port), "perene_requests_total", model=subject.name, code="200") or 0.0
        load = measure(
            server, target.url(port), bodies, headers=target.headers, connections=CONNECTIONS * workers, seconds=SECONDS
        )
        counted = (total(scrape(target, port), "perene_requests_total", model=subject.name, code="200") or 0.0) - before
    # requests in flight when the load ends are answered and counted, but seen by nobody
    right = load.requests <= counted <= load.requests + CONNECTIONS * workers
    return {"cores": cores, "rate": load.rate, "cpu_us": load.cpu_us, "counted": counted, "counters_right": right}


def _wait_for(target: Target, port: int, workers: int) -> None:
    """The first answer comes from the first worker; the load is for all of them."""
    deadline = time.monotonic() + START_S
    while total(scrape(target, port), "perene_workers") != workers:
        if time.monotonic() > deadline:
            raise NotStarted(f"not all of {workers} workers started")
        time.sleep(0.1)


def run(most: int) -> dict[str, Any]:
    """One worker, then as many as cores allow."""
    subject = prepare()
    found: dict[str, Any] = {"1": run_one(subject, 1, "0")}
    cores = os.cpu_count() or 1
    free = [core for core in range(cores) if core != 1]
    tried = [number for number in (2, 4, 8, 16) if number <= min(most, len(free))]
    for number in tried or [2]:
        taken = ",".join(map(str, free[:number] if tried else free[:1]))
        try:
            found[str(number)] = run_one(subject, number, taken)
        except NotStarted as error:
            found[str(number)] = {"error": str(error).splitlines()[-1]}
            break
    seen = [found[str(number)] for number in tried or [2] if "rate" in found[str(number)]]
    if seen:
        found["work_per_cpu_second"] = min(found["1"]["cpu_us"] / one["cpu_us"] for one in seen)
    measured = [number for number in tried if "rate" in found[str(number)]]
    if measured:
        found["to_linear"] = min(found[str(number)]["rate"] / number / found["1"]["rate"] for number in measured)
    return found


def _sentence(number: str, seen: dict[str, Any]) -> str:
    if "error" in seen:
        return f"{number}: {seen['error']}"
    counters = "right" if seen["counters_right"] else "WRONG"
    return f"{number} on cores {seen['cores']}: {seen['rate']:,.0f} req/s, counters {counters}"


def main() -> None:
    """Run it and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=4)
    given = parser.parse_args()
    prepare()
    be_the_load()
    found = {"command": "python -m bench.serving.workers", "machine": facts(), **run(given.most)}
    said = [_sentence(number, seen) for number, seen in found.items() if number.isdigit()]
    if "to_linear" not in found:
        said.append(f"scaling not measured: {os.cpu_count()} cores, one of them for the load")
    if "work_per_cpu_second" in found:
        said.append(f"work per second of CPU time {found['work_per_cpu_second']:.2f} of one worker's")
    found["summary"] = "; ".join(said)
    print(found["summary"])
    print(save("workers", found))


if __name__ == "__main__":
    main()
