"""Ten million events in the lake: a day of twenty columns read, labels joined, bytes of an event; all of it cold.

`python -m bench.events.lake [--events 10000000]` writes bench/results/events_lake.json. Files are made as the shipper
makes them (blocks of answers through `Lake.write`, 20,000 rows each) and merged by a round of upkeep. Numbers are of
two kinds: `measured`, like those of sensors and forms (few digits, half of them small integers), and `random`, doubles
in which every bit is noise, which nothing can compress. Before each reading the files' pages leave the page cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bench.serving.machine import facts, save
from monitoring.intake.blocks import Block
from monitoring.lake.lake import Lake
from monitoring.lake.lake_tables import TIME
from monitoring.lake.storage import Key
from monitoring.lake.upkeep_run import Job, round_of
from registry.contract import Column, Contract, Output

FOLDER = Path("build/bench/lake")
START = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 10
COLUMNS = 20
FILE_ROWS = 20_000
TIMES = 3
BOOT = "019ca9f0-0000-7000-8000-000000000000"
CONTRACT = Contract("bench", tuple(Column(f"x{n}", "float") for n in range(COLUMNS)), Output("regression"))
Kind = Literal["measured", "random"]


def ids(at: NDArray[np.float64], rng: np.random.Generator) -> list[str]:
    """UUIDs of version 7 as single requests get them: the clock's millisecond, and 74 bits of noise."""
    numbers = np.frombuffer(rng.bytes(16 * len(at)), dtype=">u8").reshape(-1, 2).astype(np.uint64)
    millis = (at * 1e3).astype(np.uint64)
    numbers[:, 0] = millis << np.uint64(16) | np.uint64(0x7000) | numbers[:, 0] & np.uint64(0xFFF)
    numbers[:, 1] = numbers[:, 1] & np.uint64((1 << 62) - 1) | np.uint64(1 << 63)
    text = numbers.astype(">u8").tobytes().hex()
    whole = (text[start : start + 32] for start in range(0, len(text), 32))
    return [f"{u[:8]}-{u[8:12]}-{u[12:16]}-{u[16:20]}-{u[20:]}" for u in whole]


def features(kind: Kind, rows: int, rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """The twenty columns of some rows."""
    if kind == "random":
        return [rng.random(rows) for _ in range(COLUMNS)]
    small = [rng.integers(0, most, rows).astype(float) for most in (2, 3, 7, 12, 24, 31, 60, 100, 365, 1_000)]
    decimal = [np.round(rng.normal(50, 15, rows), 1) for _ in range(6)]
    money = [np.round(rng.gamma(2, 300, rows), 2) for _ in range(4)]
    return [*small, *decimal, *money]


def fill(lake: Lake, kind: Kind, events: int) -> None:
    """Predictions, evenly over the days, and a label of each within the hour."""
    rng = np.random.default_rng(0)
    step = DAYS * 86_400 / events
    for first in range(0, events, FILE_ROWS):
        rows = min(FILE_ROWS, events - first)
        at: NDArray[np.float64] = START.timestamp() + (first + np.arange(rows)) * np.float64(step)
        names = ids(at, rng)
        answers = rng.normal(150, 90, rows).astype(np.float32).astype(np.float64)
        shadow = False
        block = Block(
            "bench", 1, shadow, list(range(first + 1, first + rows + 1)), [1] * rows, at.tolist(),
            (at + rng.gamma(2, 0.002, rows)).tolist(), ["champion"] * rows, [""] * rows,
            np.round(rng.gamma(4, 0.2, rows), 3).tolist(), ["k_1234567890"] * rows, names, list(answers.tolist()), None,
            [column.astype("<f8").tobytes() for column in features(kind, rows, rng)],
        )  # fmt: skip
        written = lake.write(
            [(first + 1, block)], boot=BOOT, first=first + 1, last=first + rows, contracts={("bench", 1): CONTRACT}
        )
        _labels(lake, written[0], names, answers, at + rng.uniform(60, 3600, rows), first)


def _labels(lake: Lake, beside: Key, names: list[str], answers: Any, at: NDArray[np.float64], first: int) -> None:
    """A file of labels, in the day of its predictions."""
    times = pa.array((at * 1e6).astype(np.int64)).cast(TIME)
    noise = np.random.default_rng(first).normal(0, 9, len(names)).round()
    table = pa.table(
        {
            "_id": names, "_label": np.round(answers) + noise, "_at": times, "_received": times,
            "_boot": [f"{BOOT}l"] * len(names), "_seq": np.arange(first + 1, first + 1 + len(names)),
        }
    )  # fmt: skip
    name = f"{BOOT}l-{first + 1}-{first + len(names)}.parquet"
    key = Key("model=bench", "kind=label", beside.parent.name, name)
    lake.storage.write(key, lake.encoded(key, table))


def cold(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Seconds of a reading whose files are not in memory, by the clock and of the CPU, and what it gave.

    The median of some; seconds of the CPU, of all cores together, do not see the work of others.
    """
    took, worked, found = [], [], None
    for _ in range(TIMES):
        for path in FOLDER.rglob("*.parquet"):
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
        began, used = time.perf_counter(), time.process_time()
        found = work()
        took.append(time.perf_counter() - began)
        worked.append(time.process_time() - used)
    return {"wall_s": round(median(took), 2), "cpu_s": round(median(worked), 2)}, found


def _source(kind: str) -> str:
    return (
        f"read_parquet('{FOLDER}/model=bench/kind={kind}/*/*.parquet', hive_partitioning = true, union_by_name = true)"
    )


def readings(lake: Lake, events: int) -> dict[str, Any]:
    """A window of 24 hours that begins at six o'clock, and its labels."""
    since = START + timedelta(days=DAYS // 2, hours=6)
    until = since + timedelta(days=1)
    names = [column.name for column in CONTRACT.columns]
    days = f"date between '{since:%Y-%m-%d}' and '{until:%Y-%m-%d}'"
    hours = f"{days} and _at >= timestamptz '{since.isoformat()}' and _at < timestamptz '{until.isoformat()}'"
    once = "qualify row_number() over (partition by _boot, _seq) = 1"

    def duck(query: str) -> Callable[[], Any]:
        def ask() -> Any:
            with duckdb.connect() as connection:
                return connection.sql(query).to_arrow_table()

        return ask

    window = f"select {', '.join(names)} from {_source('prediction')} where {hours}"
    served = f"select _id, _prediction from {_source('prediction')}"
    labels = f"select _id, _label from {_source('label')}"
    error = "select count(*) as n, avg(abs(_prediction - _label)) as mae from"
    of_window = f"{error} ({served} where {hours}) join ({labels} where {days}) using (_id)"
    of_all = f"{error} ({served}) join ({labels}) using (_id)"
    made: dict[str, Callable[[], Any]] = {
        "window_duckdb": duck(window),
        "window_each_row_once_duckdb": duck(f"{window} {once}"),
        "window_lake_read": lambda: lake.read("bench", "prediction", since=since, until=until, columns=names),
        "labels_joined_duckdb": duck(of_window),
        "labels_joined_all_days_duckdb": duck(of_all),
        "window_lake_joined": lambda: lake.joined("bench", since=since, until=until),
    }
    found: dict[str, Any] = {}
    for name, work in made.items():
        found[name], table = cold(work)
        print(name, found[name], flush=True)
        rows = table.column("n")[0].as_py() if "n" in table.column_names else table.num_rows
        assert rows == (events if "all_days" in name else events // DAYS), (name, rows)
    return found


def sizes(lake: Lake, events: int) -> dict[str, Any]:
    """Bytes of an event, all its columns and ours; and of a label."""
    held = {
        kind: sum((FOLDER / key).stat().st_size for key in lake.files("bench", kind))
        for kind in ("prediction", "label")
    }
    own = {column.name for column in CONTRACT.columns}
    one = lake.read("bench", "prediction", files=lake.files("bench", "prediction")[:1])
    ours = one.drop_columns([name for name in one.column_names if name in own])
    return {
        "files": len(lake.files("bench", "prediction")),
        "of_them_ours": round(lake.encoded(Key("x"), ours).size / ours.num_rows, 1),
        "bytes_per_event": round(held["prediction"] / events, 1),
        "bytes_per_label": round(held["label"] / events, 1),
    }


def run(kind: Kind, events: int) -> dict[str, Any]:
    """One kind of numbers, from nothing to its figures."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    lake = Lake(FOLDER)
    began = time.perf_counter()
    fill(lake, kind, events)
    filled = time.perf_counter()
    shipped = sizes(lake, events)
    print(kind, "as shipped", shipped, f"in {filled - began:.0f} s", flush=True)
    after = (START + timedelta(days=30)).date()
    round_of(lake, [Job("bench", date(after.year, after.month, after.day))], seconds=3600)
    merged = time.perf_counter() - filled
    found = {
        "as_shipped": shipped,
        "merged": sizes(lake, events),
        "merged_rows_per_s": round(2 * events / merged),
        **readings(lake, events),
    }
    print(kind, found, flush=True)
    return found


def flights() -> dict[str, Any]:
    """Bytes of an event whose columns are the flights' of the examples: 13 numbers and 3 words, weather by the hour."""
    from examples.flights import source

    shutil.rmtree(FOLDER, ignore_errors=True)
    lake, rng = Lake(FOLDER), np.random.default_rng(0)
    table = source.flights().sort_values("_at", kind="stable")
    names = [*source.STRINGS, *source.INTEGERS, *source.WEATHER]
    dtypes: dict[str, Any] = {**dict.fromkeys(source.STRINGS, "string"), **dict.fromkeys(source.INTEGERS, "int")}
    contract = Contract("flights", tuple(Column(n, dtypes.get(n, "float")) for n in names), Output("regression"))
    for first in range(0, len(table), FILE_ROWS):
        part = table.iloc[first : first + FILE_ROWS]
        at = part["_at"].astype("int64").to_numpy() / 1e9 + rng.random(len(part))
        cells: list[Any] = [
            [value if known else None for value, known in zip(part[name], part[name].notna(), strict=True)]
            for name in names
        ]
        rows = len(part)
        shadow = False
        block = Block(
            "flights", 1, shadow, list(range(first + 1, first + rows + 1)), [1] * rows, at.tolist(),
            (at + rng.gamma(2, 0.002, rows)).tolist(), ["champion"] * rows, [""] * rows,
            np.round(rng.gamma(4, 0.2, rows), 3).tolist(), ["k_1234567890"] * rows, ids(at, rng),
            list(part["air_time"].astype(float)), None, cells,
        )  # fmt: skip
        lake.write(
            [(first + 1, block)], boot=BOOT, first=first + 1, last=first + rows, contracts={("flights", 1): contract}
        )
    table_of_all = lake.read("flights", "prediction")
    key = Key("model=flights/kind=prediction/date=2013-01-01/all.parquet")
    return {
        "events": len(table),
        "bytes_per_event": round(lake.encoded(key, table_of_all).size / len(table), 1),
        "of_them_ours": round(lake.encoded(key, table_of_all.drop_columns(names)).size / len(table), 1),
    }


def main() -> None:
    """All of it, one after the other; of what nothing can compress a tenth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    options = parser.parse_args()
    try:
        figures: dict[str, Any] = {"flights": flights()}
        print(figures, flush=True)
        plan: tuple[tuple[Kind, int], ...] = (("measured", options.events), ("random", options.events // 10))
        for kind, events in plan:
            figures[kind] = {"events": events, **run(kind, events)}
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    save("events_lake", {"machine": facts(), "columns": COLUMNS, **figures})


if __name__ == "__main__":
    main()
