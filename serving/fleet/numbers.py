"""What `/metrics` says: the numbers of this process, or those of all workers, whichever of them is asked."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from registry.errors import StoreUnavailable
from serving.fleet.aggregate import Family, Sample, Snapshot
from serving.fleet.exchange import Peer

PARENT_S = 5.0
"""The parent asks all workers and waits half a second for one that does not answer."""


class Numbers:
    """The numbers of a process that answers; with a channel, its parent knows those of the others."""

    def __init__(
        self, registry: CollectorRegistry, settle: Callable[[], None], channel: socket.socket | None = None
    ) -> None:
        self._registry = registry
        self._settle = settle
        self._peer = Peer(channel, self._own, lambda _whole: None) if channel is not None else None

    async def page(self) -> bytes:
        """The text that Prometheus reads.

        Raises:
            StoreUnavailable: the parent does not answer; the numbers of one worker would be wrong ones.
        """
        if self._peer is None:
            self._settle()
            return generate_latest(self._registry)
        whole = await self._peer.ask(PARENT_S)
        if whole is None:
            raise StoreUnavailable("the process that adds up the numbers of all workers does not answer")
        return generate_latest(_Told(whole))

    @contextlib.asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Answer the parent while the block runs, and tell it at the end how this process stood."""
        if self._peer is None:
            yield
            return
        running = asyncio.create_task(self._peer.run())
        try:
            yield
        finally:
            await self._peer.farewell()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    async def _own(self) -> Snapshot:
        self._settle()
        return snapshot(self._registry)


def snapshot(registry: Collector) -> Snapshot:
    """What a registry holds now."""
    return tuple(
        Family(
            family.name,
            family.documentation,
            family.type,
            tuple(Sample(s.name, tuple(s.labels.items()), float(s.value)) for s in family.samples),
        )
        for family in registry.collect()
    )


class _Told(Collector):
    """A snapshot in the form that the client library prints."""

    def __init__(self, whole: Snapshot) -> None:
        self._whole = whole

    def collect(self) -> Iterator[Metric]:
        """The families."""
        for family in self._whole:
            metric = Metric(family.name, family.text, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, dict(sample.labels), sample.value)
            yield metric
