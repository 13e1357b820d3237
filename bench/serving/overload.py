"""P7: more requests than the server can answer, on a clock that does not wait for it.

`python -m bench.serving.overload [--seconds 60]` writes bench/results/overload.json: for the heavy and the light
model the closed-loop peak, then 2 and 5 times as much in open loop, then how long until a lone request is quick again.
"""

from __future__ import annotations

import argparse
import shutil
import time
from typing import Any

from bench.peers.target import Target
from bench.serving import heavy_subject, subject
from bench.serving.ask import first_answer, post, running
from bench.serving.load import Refused, closed_loop, raw
from bench.serving.machine import facts, save
from bench.serving.open_loop import Seen, open_loop, p99_ms
from bench.serving.open_loop_fast import fast_open_loop
from bench.serving.ours import perene
from bench.serving.process import Server, be_the_load
from bench.serving.subject import Subject

FACTORS = {"heavy": (2, 5), "light": (2,)}
PEAK_CONNECTIONS = (8, 32, 64)
PEAK_S = 4.0
REFUSALS = (429, 503)
KEPT_UP = 0.95
"""Less of the planned rate than this and the generator, not the server, was the limit."""
RECOVERY_S = 30.0
QUICK_IN_A_ROW = 10


def overload(target: Target, found: Subject, factors: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """One model through all factors, one server for all of them."""
    bodies = target.bodies(found, 1)
    with running(target) as (server, port):
        first_answer(target, server, port, bodies[0])
        url = target.url(port)
        peak = max(_rate(url, bodies, target, connections) for connections in PEAK_CONNECTIONS)
        usual = lone(target, port, bodies[0])
        result: dict[str, Any] = {"peak": peak, "lone_ms": usual * 1e3}
        requests = [raw(url, body, target.headers) for body in bodies]
        for factor in factors:
            load = fast_open_loop if shutil.which("cc") else open_loop
            seen = load(url, requests, rate=factor * peak, seconds=seconds)
            result[str(factor)] = {
                **figures(seen, factor * peak, peak),
                "recovery_s": recovery(target, server, port, bodies[0], usual),
            }
    return result


def _rate(url: str, bodies: list[bytes], target: Target, connections: int) -> float:
    """Answers a second to so many connections, 0 where some were refused: that is no peak any more."""
    try:
        return closed_loop(url, bodies, headers=target.headers, connections=connections, seconds=PEAK_S).rate
    except Refused:
        return 0.0


def figures(seen: Seen, wanted: float, peak: float) -> dict[str, Any]:
    """What came back, as the bars ask for it; no goodput where the generator could not keep up."""
    refused = sum(seen.statuses[status] for status in REFUSALS)
    accepted = sum(number for status, number in seen.statuses.items() if 200 <= status < 300)
    kept_up = seen.offered >= KEPT_UP * wanted
    return {
        "offered": seen.offered,
        "generator_kept_up": kept_up,
        "goodput": seen.goodput / peak if kept_up else None,
        "goodput_rate": seen.goodput,
        "accepted_p99_ms": p99_ms(seen.accepted),
        "rejected_p99_ms": p99_ms(seen.rejected),
        "statuses": {str(status): number for status, number in sorted(seen.statuses.items())},
        "lost": seen.planned - accepted - refused,
    }


def lone(target: Target, port: int, body: bytes, times: int = 30) -> float:
    """Seconds of a request with nothing else to do: the median."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        post(target, port, body)
        took.append(time.perf_counter() - began)
    return sorted(took)[times // 2]


def recovery(target: Target, server: Server, port: int, body: bytes, usual: float) -> float:
    """Seconds until ten requests in a row are answered, none slower than five times the usual (at least 20 ms).

    30, the longest that is waited, where it never is.
    """
    slow = max(5 * usual, 0.02)
    began = time.perf_counter()
    row = 0
    while time.perf_counter() - began < RECOVERY_S and not server.ended():
        if row == 0:
            since = time.perf_counter()
        asked = time.perf_counter()
        try:
            post(target, port, body)
        except OSError:  # a refusal is one, too
            row = 0
            time.sleep(0.02)
            continue
        row = row + 1 if time.perf_counter() - asked <= slow else 0
        if row == QUICK_IN_A_ROW:
            return since - began
    return RECOVERY_S


def _sentence(case: str, seen: dict[str, Any]) -> str:
    statuses = ", ".join(f"{number:,} × {status}" for status, number in seen["statuses"].items())
    kept_up = "" if seen["generator_kept_up"] else " (the generator reached only so much)"
    return (
        f"{case}: {seen['offered']:,.0f} offered{kept_up}, {seen['goodput_rate']:,.0f} accepted a second in time, p99 "
        f"{seen['accepted_p99_ms'] or 0:,.0f} ms, statuses {statuses}, {seen['lost']:,} neither accepted nor refused"
    )


def main() -> None:
    """Run it and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    subjects = {"heavy": heavy_subject.prepare(), "light": subject.prepare()}
    be_the_load()
    found: dict[str, Any] = {"command": f"python -m bench.serving.overload --seconds {given.seconds:g}"}
    found |= {"seconds": given.seconds, "machine": facts()}
    for name, model in subjects.items():
        found[name] = overload(perene(model), model, FACTORS[name], given.seconds)
    found["summary"] = "; ".join(
        _sentence(f"{name}, {factor} × {found[name]['peak']:,.0f} req/s", found[name][str(factor)])
        for name in subjects
        for factor in FACTORS[name]
    )
    print(found["summary"])
    print(save("overload", found))


if __name__ == "__main__":
    main()
