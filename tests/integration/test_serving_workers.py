"""The parent of workers: what it does about one that hangs."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from pathlib import Path

import pytest

from registry.supervisor import Program, Supervisor
from serving.fleet.workers import Fleet


def test_a_worker_that_hangs_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its event loop is stuck: it is killed after a while, what it had counted stays, and the next one is believed."""
    flag = tmp_path / "flag"
    seen: list[tuple[float, float]] = []

    async def scenario() -> int:
        asked: list[int] = []
        fleet = Fleet(["one"], Program("", "tests.integration.hanging_worker", (str(flag),)), tmp_path, hung_s=5.0)
        running = asyncio.create_task(fleet.run(asked))
        async with asyncio.timeout(120):
            while not seen or seen[-1][0] < 8:
                await asyncio.sleep(0.05)
                told = {s.name: s.value for family in await fleet.whole() for s in family.samples}
                seen.append((told.get("asked_total", 0.0), told["perene_worker_restarts_total"]))
        asked.append(15)
        return await running

    assert asyncio.run(scenario()) == 0
    assert flag.exists()
    assert seen[-1][1] == 1
    assert seen == sorted(seen)
    assert {"serving.worker_hangs", "serving.worker_ended"} <= set(caplog.messages)
    assert caplog.messages.count("serving.worker_ended") == 1


def test_a_program_that_cannot_be_started_now_is_started_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No descriptor is left for a moment: the thread that all children live by goes on, and so does its start."""
    failures = [OSError(errno.EMFILE, "Too many open files")] * 2
    ends: list[socket.socket] = []

    def link(_name: str) -> socket.socket:
        if failures:
            raise failures.pop()
        ours, theirs = socket.socketpair()
        ends.append(ours)
        return theirs

    supervisor = Supervisor([Program("one", "tests.integration.hanging_worker", ("",))], tmp_path, link=link)
    supervisor.start()
    try:
        deadline = time.monotonic() + 60
        while supervisor.pid("one") is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        supervisor.stop(0.5)
        for end in ends:
            end.close()
    assert caplog.messages.count("supervisor.cannot_start") == 2
    assert supervisor.restarts == {"one": 0}
