"""The shipper: a child of the server that moves sealed ranges of every spool into the lake.

A range is chosen and remembered in the spool, written to the lake, and only then deleted from the spool. A crash
between any two of these steps writes the same files again. Spools whose writer is gone are drained and removed.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monitoring.events import Event, LabelEvent, decode
from monitoring.lake import Kind, Lake
from monitoring.ranges import Range, SpoolReader
from monitoring.spool import SUFFIX
from registry.contract import Contract

__all__ = ["ship_once"]

_log = logging.getLogger("perene.monitoring.shipper")


def ship_once(spool_dir: Path, lake: Lake, *, min_rows: int, max_age_s: float, now: float) -> int:
    """Ship every range that is due; returns the number of events moved.

    Args:
        spool_dir: folder of the spool files.
        lake: where the events go.
        min_rows: a range is due when this many rows wait,
        max_age_s: or when the oldest is older than this, in seconds.
        now: unix seconds.
    """
    moved = 0
    for path in sorted(spool_dir.glob(f"*{SUFFIX}")):
        with _if_abandoned(path) as abandoned:
            moved += _ship(path, lake, 1 if abandoned else min_rows, 0.0 if abandoned else max_age_s, now)
            if abandoned:
                _remove(path)
    return moved


def _ship(path: Path, lake: Lake, min_rows: int, max_age_s: float, now: float) -> int:
    reader = SpoolReader(path)
    moved = 0
    try:
        while (chosen := reader.seal(min_rows=min_rows, max_age_s=max_age_s, now=now)) is not None:
            moved += _move(reader, chosen, lake)
            reader.delete(chosen)
    finally:
        reader.close()
    return moved


def _move(reader: SpoolReader, chosen: Range, lake: Lake) -> int:
    contracts = reader.contracts()
    groups: dict[tuple[str, Kind, int], list[tuple[int, Event]]] = {}
    rows = reader.rows(chosen)
    for seq, body in rows:
        event = decode(body)
        groups.setdefault(_group(event), []).append((seq, event))
    for (model, kind, version), part in groups.items():
        contract = contracts.get((model, version)) if kind != "label" else _any_contract(contracts, model)
        lake.write(kind, contract, reader.boot, (chosen.first, chosen.last), part)
    return len(rows)


def _group(event: Event) -> tuple[str, Kind, int]:
    if isinstance(event, LabelEvent):
        return event.model, "label", 0
    return event.model, "shadow" if event.arm == "shadow" else "prediction", event.version


def _any_contract(contracts: dict[tuple[str, int], Contract], model: str) -> Contract | None:
    """A label is typed by the model's output, which all versions share."""
    return next((contract for (name, _), contract in contracts.items() if name == model), None)


@contextmanager
def _if_abandoned(path: Path) -> Iterator[bool]:
    """Whether the writer of a spool is gone: its lock is free, and ours while we look."""
    lock = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free
    finally:
        os.close(lock)


def _remove(path: Path) -> None:
    for name in (
        path,
        path.with_name(f"{path.name}-wal"),
        path.with_name(f"{path.name}-shm"),
        path.with_suffix(".lock"),
    ):
        name.unlink(missing_ok=True)


def main() -> None:
    """`python -m monitoring.shipper --spool-dir DIR --lake DIR`: ship until SIGTERM, then what is left."""
    parser = argparse.ArgumentParser(prog="monitoring.shipper")
    parser.add_argument("--spool-dir", type=Path, required=True)
    parser.add_argument("--lake", type=Path, required=True)
    parser.add_argument("--min-rows", type=int, default=5_000)
    parser.add_argument("--max-age", type=float, default=10.0, help="seconds")
    parser.add_argument("--interval", type=float, default=0.25, help="seconds between looks")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    lake = Lake(given.lake)
    while not stop.is_set():
        _try(given.spool_dir, lake, given.min_rows, given.max_age)
        stop.wait(given.interval)
    _try(given.spool_dir, lake, 1, 0.0)


def _try(spool_dir: Path, lake: Lake, min_rows: int, max_age_s: float) -> None:
    """A full disk or a locked spool passes; the events stay in the spool until it has."""
    try:
        ship_once(spool_dir, lake, min_rows=min_rows, max_age_s=max_age_s, now=time.time())
    except (OSError, sqlite3.Error) as error:
        _log.error("shipper.waiting", extra={"cause": type(error).__name__})


if __name__ == "__main__":
    main()
