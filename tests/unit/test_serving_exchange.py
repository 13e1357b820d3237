"""Two sides of a channel that ask each other for their numbers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from serving.fleet.aggregate import Family, Sample, Snapshot
from serving.fleet.exchange import Peer


def numbers(value: float) -> Snapshot:
    return (Family("asked", "text", "counter", (Sample("asked_total", (("model", "m"),), value),)),)


async def between(scenario: Callable[[Peer, Peer, list[Snapshot], asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Two peers that run; the second one answers only while `free` is set."""
    ends = socket.socketpair()
    heard: list[Snapshot] = []
    free = asyncio.Event()
    free.set()

    async def one() -> Snapshot:
        return numbers(1)

    async def two() -> Snapshot:
        await free.wait()
        return numbers(2)

    left, right = Peer(ends[0], one, heard.append), Peer(ends[1], two, lambda _: None)
    running = [asyncio.create_task(peer.run()) for peer in (left, right)]
    await asyncio.sleep(0)
    try:
        while await left.ask(5) is None:
            await asyncio.sleep(0.001)
        await scenario(left, right, heard, free)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def run(scenario: Callable[[Peer, Peer, list[Snapshot], asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(between(scenario))


def test_each_side_tells_the_other() -> None:
    """At once in both directions, and many times over."""

    async def scenario(left: Peer, right: Peer, heard: list[Snapshot], _free: asyncio.Event) -> None:
        before = len(heard)
        told = await asyncio.gather(*(peer.ask(5) for _ in range(50) for peer in (left, right)))
        assert told == [numbers(2), numbers(1)] * 50
        assert heard[before:] == [numbers(2)] * 50

    run(scenario)


def test_who_is_late_is_not_waited_for_again() -> None:
    """None after the time is up, None at once from then on, and an answer again after the late one has come."""

    async def scenario(left: Peer, _right: Peer, heard: list[Snapshot], free: asyncio.Event) -> None:
        free.clear()
        assert await left.ask(0.01) is None
        async with asyncio.timeout(1):
            assert await left.ask(60) is None
        before = len(heard)
        free.set()
        while len(heard) == before:
            await asyncio.sleep(0.001)
        assert await left.ask(5) == numbers(2)

    run(scenario)


def test_a_side_that_ends_is_not_waited_for() -> None:
    """Whoever asks it hears None, also who is waiting; its farewell is heard first."""

    async def scenario(left: Peer, right: Peer, heard: list[Snapshot], free: asyncio.Event) -> None:
        before = len(heard)
        await right.farewell()
        free.clear()
        waiting = asyncio.create_task(left.ask(60))
        while len(heard) == before:
            await asyncio.sleep(0.001)
        assert len(heard) == before + 1
        assert right._writer is not None
        right._writer.close()
        async with asyncio.timeout(5):
            assert await waiting is None
        assert await left.ask(60) is None

    run(scenario)
