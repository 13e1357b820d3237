"""What is counted for keys, beyond one process: damaged files, several processes, and those that are killed."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from registry.keys import KeyLimits
from serving.access.auth import ANYBODY, Keys
from serving.access.counts import Counts
from serving.access.limits import Limits
from serving.settings import LimitSettings
from tests.integration.test_serving_limits import DAY, limits_of, refusal


@pytest.mark.parametrize("damage", [b"", b"nonsense" * 100, b"prnuse01" + bytes(90)])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, damage: bytes) -> None:
    """And a process that has the old one goes on."""
    before = Counts(tmp_path)
    slot = before.slots(["a"])["a"]
    (tmp_path / "limits.bin").unlink()
    (tmp_path / "limits.bin").write_bytes(damage)
    after = Counts(tmp_path)
    after.count(after.slots(["b", "a"])["a"], 1)
    before.count(slot, 3)
    assert (before.busy(slot), after.busy(after.slots(["a"])["a"])) == (3, 1)
    for counts in (before, after):
        counts.close()


def test_who_cannot_be_counted_is_not_limited(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A full disk, or none, hinders no key from coming and none from going; the log and a count say so."""
    (tmp_path / "run").write_text("not a folder")
    away: list[None] = []
    limits = Limits(LimitSettings(rows_per_day=1), tmp_path / "run", largest=10, away=lambda: away.append(None))
    caller = Keys((), limits).anybody
    assert [refusal(limits, caller, 5) for _ in range(2)] == [None, None]
    assert "limits_not_kept" in caplog.text
    assert len(away) == 1
    full = Limits(LimitSettings(rows_per_day=1), tmp_path / "full", largest=10, away=lambda: away.append(None))
    old = full.allowances({"old": KeyLimits()})
    counts: Any = full._counts
    counts.slots = lambda _: (_ for _ in ()).throw(OSError("no space"))
    assert full.allowances({"old": KeyLimits(), "new": KeyLimits()}) == old
    asyncio.run(full.close())


def _hammer(folder: Path, seconds: float, together: Any, passed: Any, *, locked: bool) -> None:
    # the clock on the wall stands: midnight begins a new count
    settings = LimitSettings(requests_per_second=2_000, rows_per_day=1_000_000)
    limits = Limits(settings, folder, largest=10, wall=lambda: 20_000.0 * DAY)
    caller = Keys((), limits).anybody
    if not locked:
        counts: Any = limits._counts
        counts.lock = lambda: False
        read = counts.read

        def slowly(slot: int) -> Any:
            used = read(slot)
            time.sleep(1e-4)
            return used

        counts.read = slowly
    together.wait(120)
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        count += refusal(limits, caller, 1) is None
    passed.put(count)
    passed.close()


def _hold_and_stop(folder: Path, ready: Any) -> None:
    counts = Counts(folder)
    counts.count(counts.slots([ANYBODY.id])[ANYBODY.id], 5)
    assert counts.lock()
    ready.set()
    time.sleep(600)


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "control"])
def test_processes_share_one_rate_and_lose_no_row(tmp_path: Path, locked: bool) -> None:
    """Three ask as fast as they can for a second: together they get the rate, and every row is in the day's count.

    The control counts without the lock, and loses rows.
    """
    context = multiprocessing.get_context("spawn")
    together, passed = context.Barrier(3), context.Queue()
    # made before, so that all of them find their place
    first, caller = limits_of(tmp_path, [0.0], requests_per_second=2_000)
    processes = [
        context.Process(target=_hammer, args=(tmp_path, 1.0, together, passed), kwargs={"locked": locked})
        for _ in range(3)
    ]
    began = time.monotonic()
    for process in processes:
        process.start()
    counts = [passed.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    took = time.monotonic() - began
    assert first._counts is not None
    kept = first._counts.read(caller.limits.slot).rows_of_day
    asyncio.run(first.close())
    if locked:
        assert sum(counts) <= 2_000 * (took + 1)
        assert kept == sum(counts)
    else:
        assert kept < sum(counts)


def test_a_killed_process_takes_its_requests_with_it(tmp_path: Path) -> None:
    """What it was answering counts no more; a process that was stopped with the lock in its hand is not waited for."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold_and_stop, args=(tmp_path, ready))
    process.start()
    try:
        assert ready.wait(120)
        limits, caller = limits_of(tmp_path, [10.0], concurrent=5, requests_per_second=100)
        over = refusal(limits, caller)
        assert over is not None
        assert over.reason == "concurrency"
        limits.sweep()
        assert refusal(limits, caller) is not None
    finally:
        process.kill()
        process.join()
    limits._sweep_at = 0.0
    limits.sweep()
    assert refusal(limits, caller) is None
    asyncio.run(limits.close())
