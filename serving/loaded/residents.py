"""Which models are in memory, where there may be only so many: those that were asked for last."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Final

from registry.errors import PereneError
from serving.loaded.models import Loader, Model, Table, Version, not_loaded
from serving.state import Failure

if TYPE_CHECKING:
    from serving.service import Service

AGAIN_S: Final = 5.0
"""Time for which a model that did not load is not tried again: each try costs a load."""


def to_drop(used: Iterable[str], resident: Collection[str], busy: Collection[str], most: int) -> set[str]:
    """The models that must make room: those not asked for longest, and none that is being asked.

    >>> to_drop(["a", "b", "c"], {"a", "b", "c"}, {"a"}, 2)
    {'b'}
    """
    idle = [name for name in used if name in resident and name not in busy]
    return set(idle[: max(0, len(resident) - most)])


class Residents:
    """Loads a model when it is asked for, and drops others for it. Used from one event loop.

    Whoever replaces the service's table holds `swapping` for as long as the next one is made.
    """

    def __init__(self, service: Service, loader: Loader, most: int | None) -> None:
        self.most = most
        self.swapping = asyncio.Lock()
        self._service = service
        self._loader = loader
        self._used: OrderedDict[str, None] = OrderedDict()
        self._busy: Counter[str] = Counter()
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, tuple[float, Failure]] = {}

    def touch(self, name: str) -> None:
        """The model was asked for."""
        if self.most is not None:
            self._used[name] = None
            self._used.move_to_end(name)

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[None]:
        """The model is being asked: it is not dropped meanwhile."""
        self._busy[name] += 1
        try:
            yield
        finally:
            self._busy[name] -= 1
            if not self._busy[name]:
                del self._busy[name]

    async def ready(self, model: Model, pinned: Version | None) -> tuple[Model, Version | None]:
        """The model with its graphs in memory, loaded now if they are not; many wait for one load.

        Raises:
            NotReady: it does not load.
            ModelUnknown, VersionUnknown: it is deployed no more.
        """
        self.touch(model.name)
        if model.resident:
            return model, pinned
        with self.using(model.name):
            while True:  # a hand-over may have put it to sleep again before its turn came
                await self._loaded(model.name)
                model = self._service.table.get(model.name)
                if model.resident:
                    break
        return model, self._service.table.version(model.name, pinned.version) if pinned else None

    async def _loaded(self, name: str) -> None:
        task = self._loading.get(name)
        if task is None:
            until, _ = self._failed.get(name, (0.0, None))
            if until > monotonic():
                raise not_loaded()
            task = self._loading[name] = asyncio.create_task(self._load(name))
        # a caller that goes away takes only itself away
        await asyncio.shield(task)

    async def _load(self, name: str) -> None:
        try:
            await self._wake(name)
        finally:  # not a turn of the loop later: who asks in between would wait for what has ended
            del self._loading[name]

    async def _wake(self, name: str) -> None:
        service = self._service
        async with self.swapping:
            model = service.table.get(name)
            if model.resident:
                return
            _, told = self._failed.pop(name, (0.0, None))
            failures = tuple(failure for failure in service.table.failures if failure is not told)
            try:
                woken = await asyncio.to_thread(self._loader.wake, model)
            except (PereneError, OSError, ValueError, LookupError, TypeError) as error:
                failure = self._loader.failed(name, model.route.champion, error)
                self._failed[name] = (monotonic() + AGAIN_S, failure)
                service.table = replace(service.table, failures=(*failures, failure))
                raise not_loaded() from error
            service.metrics.cold_starts_total.labels(model=name).inc()
            models = self._trimmed({**service.table.models, name: woken})
            service.table = replace(service.table, models=models, failures=failures)
            self._loader.publish(models)

    def _trimmed(self, models: dict[str, Model]) -> dict[str, Model]:
        if self.most is None:
            return models
        resident = [name for name, model in models.items() if model.resident]
        never = [name for name in resident if name not in self._used]
        for name in to_drop([*never, *self._used], resident, self._busy, self.most):
            models[name] = self._loader.asleep(models[name])
        for name in self._used.keys() - models.keys():
            del self._used[name]
        return models


def resident_names(table: Table) -> list[str]:
    """Names of the models in memory."""
    return sorted(name for name, model in table.models.items() if model.resident)
