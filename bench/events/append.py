"""What the event of one answered request costs, and how many events a second a spool takes on one core.

`python -m bench.events.append` writes bench/results/events_append.json. Rows are of 20 numbers, with two probabilities.

* Wall-clock time of one append on the caller's thread, 20 requests every 10 ms, so that the spool's thread runs beside
  them as it does in a server: median and 99th percentile.
* CPU of both threads together for one event, until all are on disk, at 2,000 requests of one row a second.
* Events a second with both threads on one core, appended as fast as they are stored.
* The same request of many rows that came by columns: time of one append.

The same without a journal says what the journal costs.
"""

from __future__ import annotations

import os
import sys
import time
from array import array
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

from bench.serving.machine import facts, save
from monitoring.intake.blocks import Answered
from monitoring.intake.ids import uuid7s
from monitoring.intake.journal import SEGMENT_BYTES
from monitoring.intake.spool import Spool
from registry.contract import Column, Contract, Output
from serving.queues.engine_queue import SWITCH_S

COLUMNS = 20
CONTRACT = Contract(
    "bench", tuple(Column(f"x{n}", "float") for n in range(COLUMNS)), Output("classification", ("no", "yes"))
)
ROUNDS = 5
BULK_ROWS = 1_000


class Table:
    """Rows that came by columns."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._column = array("d", [0.123456789] * rows).tobytes()

    def __len__(self) -> int:
        return self._rows

    def column(self, name: str) -> bytes:
        """The cells of a column."""
        return self._column


def answered(number: int, *, entity: str = "") -> Answered:
    """One request of one row."""
    row = tuple((number + n) / 7 for n in range(COLUMNS))
    ids, now = uuid7s(1), time.time()
    return Answered(CONTRACT, 1, "champion", now, now, entity, "key", 0.5, ids, [row], ["yes"], [[0.25, 0.75]])


def bulk() -> Answered:
    """One request of many rows."""
    ids, now = uuid7s(BULK_ROWS), time.time()
    rows: Any = Table(BULK_ROWS)
    predictions, values = ["yes"] * BULK_ROWS, [[0.25, 0.75]] * BULK_ROWS
    return Answered(CONTRACT, 1, "champion", now, now, "", "key", 0.5, ids, rows, predictions, values)


def paced(spool: Spool, requests: list[Answered], *, together: int = 20) -> list[float]:
    """Seconds of each append, so many every 10 ms."""
    taken = []
    for number, request in enumerate(requests):
        if number % together == 0:
            time.sleep(0.01)
        began = time.perf_counter()
        spool.append(request)
        taken.append(time.perf_counter() - began)
    return taken


def both_threads(folder: Path, journal_bytes: int, count: int) -> float:
    """CPU seconds of an event, on both threads, until it is on disk."""
    requests = [answered(number) for number in range(count)]
    spool = Spool.open(folder, journal_bytes=journal_bytes)
    began = time.process_time()
    for start in range(0, count, 200):
        for request in requests[start : start + 200]:
            spool.append(request)
        time.sleep(0.1)
    spool.append_durable([]).result(60)
    whole = time.process_time() - began
    spool.close()
    return whole / count


def sustained(folder: Path, journal_bytes: int, count: int) -> tuple[float, int]:
    """Events a second of wall-clock on one core, and how many of them had no room in the journal."""
    requests = [answered(number) for number in range(10_000)]
    spool = Spool.open(folder, journal_bytes=journal_bytes)
    began = time.perf_counter()
    for number in range(count):
        spool.append(requests[number % len(requests)])
        if number % 500 == 0:
            while spool.stats().pending > 15_000:
                time.sleep(0.001)
    spool.append_durable([]).result(60)
    taken = time.perf_counter() - began
    unjournaled = spool.stats().unjournaled
    spool.close()
    return count / taken, unjournaled


def measured(journal_bytes: int) -> dict[str, Any]:
    """All figures, with a journal of this size."""
    single, entity, many, cpu, rates, left_out = [], [], [], [], [], 0
    for _ in range(ROUNDS):
        with TemporaryDirectory() as folder:
            place = Path(folder)
            with Spool.open(place / "paced", journal_bytes=journal_bytes) as spool:
                single += paced(spool, [answered(number) for number in range(4_000)])
                entity += paced(spool, [answered(number, entity="someone") for number in range(2_000)])
                many += paced(spool, [bulk() for _ in range(100)], together=1)
            cpu.append(both_threads(place / "cpu", journal_bytes, 10_000))
            rate, unjournaled = sustained(place / "rate", journal_bytes, 100_000)
            rates.append(rate)
            left_out += unjournaled
    return {
        "append_us_p50": round(median(single) * 1e6, 2),
        "append_us_p99": round(quantiles(single, n=100)[98] * 1e6, 2),
        "append_with_entity_us_p50": round(median(entity) * 1e6, 2),
        f"append_{BULK_ROWS}_rows_by_columns_us_p50": round(median(many) * 1e6, 2),
        "cpu_us_both_threads": round(median(cpu) * 1e6, 2),
        "events_per_second_one_core": round(median(rates)),
        "unjournaled": left_out,
    }


def main() -> None:
    """Measure and keep."""
    sys.setswitchinterval(SWITCH_S)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with_journal, without = measured(SEGMENT_BYTES), measured(0)
    found = {
        "machine": facts(),
        "command": "python -m bench.events.append",
        "journal": with_journal,
        "no_journal": without,
        "summary": (
            f"{with_journal['append_us_p50']} µs on the event loop, {with_journal['cpu_us_both_threads']} µs of CPU in "
            f"all, {with_journal['events_per_second_one_core']:,} events/s on one core"
        ),
    }
    print(found)
    print(save("events_append", found))


if __name__ == "__main__":
    main()
