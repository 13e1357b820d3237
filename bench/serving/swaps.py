"""P8: the champion changes 1,000 times under load; no request may notice.

`python -m bench.serving.swaps [--swaps 1000]` writes bench/results/swaps.json. A swap is a row of the ledger; the next
one follows when an answer of the new version has been seen. Every answer must be 2xx, and what one version answers to
one row must stay the same to the last bit.
"""

from __future__ import annotations

import argparse
import json
import shutil
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.serving.ask import first_answer, running
from bench.serving.load import raw
from bench.serving.machine import facts, save
from bench.serving.open_loop import open_loop, p99_ms
from bench.serving.ours import perene
from bench.serving.process import be_the_load
from bench.serving.subject import ROOT, ROWS, Subject, deploy, fit, flights, made
from bench.serving.subject import prepare as prepare_light

FOLDER = ROOT / "swaps"
NAME = "bench"
RATE = 250.0
SWAP_S = 20.0
WARM_SWAPS = 10
"""Swaps before memory is read first: both versions have been loaded and dropped."""
LIMIT_S = 1800.0


def prepare() -> Subject:
    """Two versions that answer differently, the first one deployed."""
    light = prepare_light()
    if not made(FOLDER):
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        frame, target = flights()
        for first in (0, ROWS // 2):
            part = slice(first, first + ROWS // 2)
            estimator = fit(frame.iloc[part], target[part])
            deploy(estimator, frame.iloc[part], target[part], name=NAME, home=FOLDER / "home")
        shutil.copy(light.folder / "rows.json", FOLDER / "rows.json")
    return Subject(FOLDER, NAME)


class Witness:
    """Sees every answer: which version is live, and whether it always says the same."""

    def __init__(self) -> None:
        self.version: int | None = None
        self.statuses: Counter[int] = Counter()
        self.inconsistent = 0
        self._known: dict[tuple[int, int], Any] = {}

    def __call__(self, turn: int, status: int, body: bytes) -> None:
        """Take one answer."""
        self.statuses[status] += 1
        if status != 200:
            return
        answer = json.loads(body)
        self.version = int(answer["version"])
        said = answer["predictions"]
        self.inconsistent += self._known.setdefault((self.version, turn), said) != said

    @property
    def distinct(self) -> int:
        """Rows to which the two versions answer differently: the control, without which nothing is shown."""
        return sum(self._known.get((1, turn)) != said for (version, turn), said in self._known.items() if version == 2)


class Swapper(threading.Thread):
    """Moves the ledger between versions 1 and 2."""

    def __init__(self, home: Path, witness: Witness, swaps: int) -> None:
        super().__init__(daemon=True)
        self.done = 0
        self.stuck = ""
        self.durations: list[float] = []
        self._home, self._witness, self._swaps = home, witness, swaps

    def run(self) -> None:
        """All swaps, or until one does not come through."""
        from perene.config import load
        from registry.ledger import Ledger

        with closing(Ledger.open(load(home=self._home).places.ledger_url)) as ledger:
            for _ in range(self._swaps):
                now = ledger.deployment(NAME)
                assert now is not None
                other = 3 - now.champion
                began = time.perf_counter()
                ledger.move(NAME, expected_revision=now.revision, champion=other, actor="bench", reason="swap")
                while self._witness.version != other:
                    if time.perf_counter() - began > SWAP_S:
                        self.stuck = f"version {other} was not served within {SWAP_S:.0f} s"
                        return
                    time.sleep(0.002)
                self.durations.append(time.perf_counter() - began)
                self.done += 1


def run(swaps: int) -> dict[str, Any]:
    """Load and swap until done."""
    subject = prepare()
    target = perene(subject)
    bodies = target.bodies(subject, 1)
    witness = Witness()
    with running(target) as (server, port):
        first_answer(target, server, port, bodies[0])
        requests = [raw(target.url(port), body, target.headers) for body in bodies]
        memory: list[float] = []
        swapper = Swapper(subject.home, witness, swaps)

        def ended() -> bool:
            if not memory and swapper.done >= min(WARM_SWAPS, swaps // 2):
                memory.append(server.rss_mib())
            return not swapper.is_alive()

        swapper.start()
        seen = open_loop(target.url(port), requests, rate=RATE, seconds=LIMIT_S, watch=witness, stop=ended)
        after = server.rss_mib()
        if swapper.stuck:
            print(server.last_words(20))
    failed = sum(number for status, number in witness.statuses.items() if not 200 <= status < 300) + seen.unanswered
    wait = sorted(swapper.durations)
    return {
        "asked": swaps,
        "swaps": swapper.done,
        "stuck": swapper.stuck,
        "requests": seen.planned,
        "rate": seen.offered,
        "failed": failed + (swaps - swapper.done),
        "inconsistent": witness.inconsistent,
        "rows_where_versions_differ": witness.distinct,
        "rss_mib": after,
        "rss_growth_mib": after - (memory or [after])[0],
        "swap_median_s": wait[len(wait) // 2] if wait else None,
        "p99_ms": p99_ms(seen.accepted),
    }


def main() -> None:
    """Run it and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=1_000)
    given = parser.parse_args()
    prepare()
    be_the_load()
    found = {"command": f"python -m bench.serving.swaps --swaps {given.swaps}", "machine": facts(), **run(given.swaps)}
    found["summary"] = (
        f"{found['swaps']:,} swaps under {found['rate']:,.0f} req/s ({found['requests']:,} requests): "
        f"{found['failed']} failed, {found['inconsistent']} answered otherwise than their version before, "
        f"p99 {found['p99_ms'] or 0:,.1f} ms, a swap is seen after {found['swap_median_s'] or 0:,.2f} s, "
        f"RSS {found['rss_growth_mib']:+,.1f} MiB{'; ' + found['stuck'] if found['stuck'] else ''}"
    )
    print(found["summary"])
    print(save("swaps", found))


if __name__ == "__main__":
    main()
