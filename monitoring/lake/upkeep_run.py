"""`python -m monitoring.lake.upkeep_run SPEC RESULT`: one round of upkeep, in a process of its own and at low priority.

May be killed at any moment. Two rounds of one home never overlap; rounds of two machines on one store may, and then
do the same work twice, which readers cannot tell.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import msgspec

from monitoring.lake import upkeep
from monitoring.lake.consumed import Consumed
from monitoring.lake.lake import Key, Lake
from monitoring.lake.lake_tables import Kind
from registry import process_log
from registry.child import die_with_parent

__all__ = ["Job", "Result", "Spec", "main", "round_of"]

_DRAFT_AGE_S = 3600.0
"""A draft as old as this belongs to a writer that died."""


class Job(msgspec.Struct, frozen=True):
    """One model. `names` and `marks` say what its monitor has folded; of a model that nobody watches there is none."""

    model: str
    today: date
    keep_days: int | None = None
    watched: bool = False
    names: list[str] = []
    marks: dict[str, int] = {}


class Spec(msgspec.Struct, frozen=True):
    """What to do: no merge begins after `seconds`."""

    lake: str
    lock: str
    jobs: list[Job]
    seconds: float = 120.0
    parent: int = 0


class Result(msgspec.Struct):
    """What was done, by model: files merged, and events gone by kind. `left`: there was no time for all of it."""

    merged: dict[str, int] = {}
    expired: dict[str, dict[str, int]] = {}
    left: bool = False


def round_of(lake: Lake, jobs: Sequence[Job], *, seconds: float) -> Result:
    """Remove what is over its time or lies twice, then merge until the time is up."""
    deadline = time.monotonic() + seconds
    result = Result()
    for job in jobs:
        consumed = Consumed(frozenset(job.names), job.marks)
        for kind in upkeep.KINDS:
            files = lake.files(job.model, kind)
            if job.watched and kind in ("prediction", "label"):  # nobody folds the others
                files = [file for file in files if "/".join(file.parts[-3:]) in consumed]
            files = _expire(lake, job, kind, files, result)
            for file in upkeep.left_over(files, lake.ranges):
                lake.storage.remove(file)
                files.remove(file)
            for merge in upkeep.merges(job.model, kind, files, before=job.today, rows=lake.rows):
                if time.monotonic() > deadline:
                    result.left = True
                    break
                upkeep.carry_out(lake, merge)
                result.merged[job.model] = result.merged.get(job.model, 0) + len(merge.files)
    return result


def _expire(lake: Lake, job: Job, kind: Kind, files: list[Key], result: Result) -> list[Key]:
    """The files that are left."""
    if job.keep_days is None:
        return files
    gone = upkeep.expired(files, keep=timedelta(days=job.keep_days), today=job.today)
    for file in gone:
        rows = lake.rows(file)
        lake.storage.remove(file)
        counts = result.expired.setdefault(job.model, {})
        counts[kind] = counts.get(kind, 0) + rows
    return [file for file in files if file not in set(gone)]


def main(arguments: Sequence[str]) -> int:
    """Do what the file SPEC says and leave RESULT; exit 75 while another round is at work here."""
    spec = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=Spec)
    if spec.parent:
        die_with_parent(spec.parent, signal.SIGKILL)
    os.nice(10)
    process_log.configure()
    with Path(spec.lock).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 75
        lake = Lake(spec.lake)
        result = round_of(lake, spec.jobs, seconds=spec.seconds)
        lake.storage.sweep(before=time.time() - _DRAFT_AGE_S)
    scratch = Path(f"{arguments[1]}.new")
    scratch.write_bytes(msgspec.json.encode(result))
    scratch.replace(arguments[1])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
