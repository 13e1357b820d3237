"""The parent of workers: what it does about one that hangs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from registry.supervisor import Program
from serving.fleet.workers import Fleet


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    """Its event loop is stuck: it is killed after a while, what it had counted stays, and the next one is believed."""
    flag = tmp_path / "flag"
    seen: list[tuple[float, float]] = []

    async def scenario() -> int:
        asked: list[int] = []
        fleet = Fleet(["one"], Program("", "tests.integration.hanging_worker", (str(flag),)), tmp_path, hung_s=0.5)
        running = asyncio.create_task(fleet.run(asked))
        async with asyncio.timeout(30):
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
