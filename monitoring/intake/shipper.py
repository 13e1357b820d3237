"""Moves events from the spools to the lake; may be killed at any moment and run beside living writers.

Order is what makes it safe: the range is written down, its files are synced in the lake, and only then are its rows
deleted. A crash in between repeats the same range, which gives the same files.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from pyarrow import ArrowException

from monitoring.intake.blocks import Block, decode
from monitoring.intake.journal import SUFFIXES
from monitoring.intake.ranges import Range, SpoolReader
from monitoring.intake.recovery import recover
from monitoring.intake.spool_file import SUFFIX, locked
from monitoring.lake.lake import Lake
from registry import process_log
from registry.child import die_with_parent
from registry.errors import PereneError

__all__ = ["main", "ship_once"]

_ORPHAN_AGE_S = 60.0
"""A lock without its spool is swept after this time: its writer died while starting, or was drained."""

_log = logging.getLogger("perene.monitoring.shipper")


def ship_once(spool_dir: Path, lake: Lake, *, min_rows: int, max_age_s: float, now: float) -> int:
    """Move every range that is due, of every spool under `spool_dir`, to the lake; returns the rows moved.

    A spool in trouble is logged and left as it is; the others go on. Nothing happens while another shipper works here.

    Args:
        spool_dir: folder of the spools.
        lake: where to.
        min_rows: a range with as many rows is due.
        max_age_s: a range whose oldest row has waited as long is due; of a dead writer all are.
        now: unix seconds.
    """
    if not spool_dir.is_dir():
        return 0
    moved = 0
    with locked(spool_dir / "shipper.lock", os.O_CREAT) as ours:
        if not ours:
            return 0
        for path in sorted(spool_dir.rglob(f"*{SUFFIX}")):
            try:
                moved += _ship_spool(path, lake, min_rows=min_rows, max_age_s=max_age_s, now=now)
            except (sqlite3.Error, OSError, ValueError, msgspec.MsgspecError, ArrowException, PereneError) as error:
                _log.exception("shipper.spool_failed", extra={"spool": path.name, "cause": type(error).__name__})
        _sweep(spool_dir, now)
    return moved


def _ship_spool(path: Path, lake: Lake, *, min_rows: int, max_age_s: float, now: float) -> int:
    with locked(path.with_suffix(".lock")) as dead:
        if dead:
            recover(path)
        reader = SpoolReader(path)
        try:
            moved = 0
            # No process adds to a dead spool: all of it is due, whatever its age.
            age = float("-inf") if dead else max_age_s
            while (chosen := reader.seal(min_rows=min_rows, max_age_s=age, now=now)) is not None:
                moved += _ship_range(reader, lake, chosen)
            drained = dead and reader.empty()
        finally:
            reader.close()
        if drained:
            _remove(path)
    return moved


def _ship_range(reader: SpoolReader, lake: Lake, chosen: Range) -> int:
    rows = [(seq, decode(body)) for seq, body in reader.rows(chosen)]
    lake.write(rows, boot=reader.boot, first=chosen.first, last=chosen.last, contracts=reader.contracts())
    reader.delete(chosen)
    return sum(len(event) if isinstance(event, Block) else 1 for _, event in rows)


def _remove(path: Path) -> None:
    """Remove an empty spool of a dead writer, its lock last: without a lock the writer counts as dead."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
    path.with_suffix(".lock").unlink(missing_ok=True)


def _sweep(spool_dir: Path, now: float) -> None:
    """Remove what a process that died while making or removing a spool left behind."""
    for lock in [p for p in spool_dir.rglob("*.lock") if p.name != "shipper.lock"]:
        with locked(lock) as dead:
            old = lock.exists() and now - lock.stat().st_mtime > _ORPHAN_AGE_S
            if dead and old and not lock.with_suffix(SUFFIX).exists():
                drafts = [lock.with_suffix(suffix) for suffix in SUFFIXES]
                for draft in (*spool_dir.rglob(f"{lock.stem}.new*"), *drafts):
                    draft.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.intake.shipper", description="Move spooled events to the lake"
    )
    parser.add_argument("--spool-dir", type=Path, required=True)
    parser.add_argument("--lake", required=True, help="a folder, or a URL without secrets")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between rounds")
    parser.add_argument("--min-rows", type=int, default=5000, help="rows that make a range due")
    parser.add_argument("--max-age", type=float, default=5.0, help="seconds after which a row is due")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Ship until SIGTERM or the parent's death, then once more with everything due."""
    options = _arguments(argv)
    # not an Event: a handler that takes its lock while the main thread holds it would wait for itself
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: asked.append(number))
    parent = os.getppid()
    die_with_parent(parent)
    lake = Lake(options.lake)
    due = time.monotonic()
    while not asked and os.getppid() == parent:
        if time.monotonic() >= due:
            _round(options, lake, options.max_age)
            due = time.monotonic() + options.interval
        time.sleep(min(0.1, options.interval))
    _round(options, lake, float("-inf"))


def _round(options: argparse.Namespace, lake: Lake, max_age_s: float) -> None:
    moved = ship_once(options.spool_dir, lake, min_rows=options.min_rows, max_age_s=max_age_s, now=time.time())
    if moved:
        _log.info("shipper.moved", extra={"rows": moved})


if __name__ == "__main__":
    process_log.configure()
    main()
