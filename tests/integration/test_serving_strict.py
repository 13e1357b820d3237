"""`serving.strict`: no answer leaves before its event is on disk, through whichever lane it was asked for."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from monitoring.intake.events import PredictionEvent
from monitoring.intake.spool import connect
from tests.integration.serving_toy import ROW, Cache, answer, serving, stored_events
from tests.integration.two_lanes import lanes, request, send


@pytest.fixture
def deployed(cache: Cache, offsets: dict[int, Path]) -> tuple[Cache, str]:
    for version, bundle in offsets.items():
        cache.add(version, bundle)
    key = cache.key({"predict", "feedback"})
    cache.deploy(1)
    return cache, key


def test_when_the_answer_is_there_so_is_its_event(deployed: tuple[Cache, str]) -> None:
    """Read from the file the moment that the answer has come, one row and many."""
    cache, key = deployed

    async def main() -> None:
        async with serving(cache, key, strict=True) as served:
            for rows in ([ROW], [ROW] * 300):
                body = await served.predict(rows)
                assert body["predictions"] == [answer(100, ROW)] * len(rows)
                stored = {event.id for event in stored_events(served.spool.path) if isinstance(event, PredictionEvent)}
                assert set(body["prediction_ids"]) <= stored

    asyncio.run(main())


def test_both_lanes_wait_for_the_disk(deployed: tuple[Cache, str]) -> None:
    """While the file cannot be written nobody is answered; then both are, in the same words."""
    cache, key = deployed

    async def main() -> None:
        async with lanes(cache, strict=True) as both:
            await send(both.fast, request(key=key))
            with closing(connect(both.spool.path)) as db:
                db.execute("BEGIN IMMEDIATE")
                waiting = [asyncio.create_task(send(port, request(key=key))) for port in (both.fast, both.slow)]
                await asyncio.sleep(0.3)
                assert [task.done() for task in waiting] == [False, False]
                db.execute("ROLLBACK")
            for reply in await asyncio.gather(*waiting):
                assert reply.startswith(b"HTTP/1.1 200 ")

    asyncio.run(main())


def test_a_disk_that_refuses_is_a_503_and_no_event(deployed: tuple[Cache, str]) -> None:
    """`store_unavailable` while the disk refuses or the spool is full; what was refused is in no file."""
    cache, key = deployed

    async def main() -> None:
        async with serving(cache, key, strict=True) as served:
            await served.predict()
            with closing(connect(served.spool.path)) as db:
                db.execute("ALTER TABLE events RENAME TO elsewhere")
                refused = await served.client.post("/predict", json={"rows": [ROW]})
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
                db.execute("ALTER TABLE elsewhere RENAME TO events")
            served.spool._max_bytes, kept = 0, served.spool._max_bytes
            refused = await served.client.post("/predict", json={"rows": [ROW]})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
            served.spool._max_bytes = kept
            await served.predict()
            assert len(stored_events(served.spool.path)) == 2
            assert (served.spool.stats().refused, served.spool.stats().lost) == (2, {})

    asyncio.run(main())


def test_without_it_a_disk_that_refuses_is_nobodys_trouble(deployed: tuple[Cache, str]) -> None:
    """The same disk, the same requests: answered, and stored when the disk is back."""
    cache, key = deployed

    async def main() -> None:
        async with serving(cache, key) as served:
            with closing(sqlite3.connect(served.spool.path, isolation_level=None)) as db:
                db.execute("ALTER TABLE events RENAME TO elsewhere")
                for _ in range(3):
                    await served.predict()
                db.execute("ALTER TABLE elsewhere RENAME TO events")
        assert len(stored_events(served.spool.path)) == 3

    asyncio.run(main())
