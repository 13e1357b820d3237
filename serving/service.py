"""State of one process that answers: the models, the keys, the spool, and what is counted."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from prometheus_client import Counter
from starlette.requests import Request

from monitoring.alerting.metrics import ServeMetrics
from monitoring.intake.spool import Spool
from monitoring.lake.lake_root import lake_root
from serving.access.auth import Caller, Keys, secret_of
from serving.access.guard import Guard
from serving.access.idempotency import Idempotency
from serving.access.limits import Limits
from serving.access.usage import Usages
from serving.dataplane import DataPlane
from serving.devices.gpus import Gpus
from serving.errors import Unauthenticated
from serving.explanations.desk import Explanations
from serving.fleet.numbers import Numbers
from serving.jobs.desk import Desk
from serving.ledger_desk import LedgerDesk
from serving.loaded.fallbacks import Fallbacks
from serving.loaded.models import Loader, Table, Version
from serving.loaded.residents import AGAIN_S, Residents
from serving.native import NativeEngine
from serving.observed.meters import Meters
from serving.observed.seen import Observer
from serving.settings import ServingSettings
from serving.state import parse_state, state_bytes

_log = logging.getLogger("perene.serving")

_AGAIN_AT_MOST_S: Final = 300.0
"""So long a pause doubles to, before what did not load is tried again."""


class Service:
    """State of one serving process: the table of models, the keys, the spool."""

    def __init__(
        self,
        settings: ServingSettings,
        cache: Path,
        spool: Spool,
        metrics: ServeMetrics,
        observer: Observer,
        lake_url: str = "",
        ledger_url: str = "",
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.observer = observer
        self.spool = spool
        self.fallbacks = Fallbacks(metrics)
        self.gpus = Gpus()
        self.plane = DataPlane(spool, metrics, self.fallbacks, strict=settings.strict)
        self.meters = Meters(metrics)
        self.table = Table()
        self._cache = cache
        self._loader = Loader(cache, settings, spool, metrics, self.fallbacks, self.gpus)
        self.residents = Residents(self, self._loader, settings.max_models)
        self.limits = Limits(
            settings.limits, cache.parent / "run", largest=settings.max_rows, away=partial(_count_away, metrics)
        )
        self.desk = Desk(cache.parent / "run", settings.jobs, metrics)
        self.explanations = Explanations(cache.parent.resolve(), lake_root(cache.parent.resolve(), lake_url), settings)
        self.ledger = LedgerDesk(ledger_url or f"sqlite:///{cache.parent.resolve() / 'ledger.db'}")
        self.idempotency = Idempotency(cache.parent / "run", settings.max_body_bytes)
        self.usage = Usages(metrics)
        self.numbers = Numbers(metrics.registry, self.settle)
        self.guard = Guard(settings.web, settings.host)
        self._keys = Keys(None, self.limits)
        self._taken = b""
        self._again, self._pause = math.inf, AGAIN_S
        self._behind: dict[str, float] = {}
        self.ends_at = math.inf
        """When what is in flight must be answered, on the clock of `time.monotonic`, once the process has to end."""

    async def follow(self) -> None:
        """Look for a new hand-over for ever; load it beside what serves, then swap the pointer."""
        while True:
            try:
                await self.refresh()
            except Exception:  # whatever one hand-over holds, the next one must still be looked at
                _log.exception("serving.refresh_failed")
            await asyncio.sleep(self.settings.poll_seconds)

    async def refresh(self) -> None:
        """Take in the newest hand-over, if there is one."""
        handed = state_bytes(self._cache)
        stats = self.spool.stats()
        self.metrics.spool_bytes.set(stats.bytes)
        self.usage.flush()
        self.limits.sweep()
        for name, model in self.table.models.items():
            waiting = sum(version.batcher.waiting for version in model.versions.values())
            self.metrics.queue_depth.labels(model=name).set(waiting)
        for name, since in self._behind.items():
            self.metrics.alias_lag_seconds.labels(model=name).set(max(0.0, time.time() - since))
        if handed == self._taken and time.monotonic() < self._again:
            return
        state = parse_state(handed)
        if state is None:
            return
        self._keys = Keys(state.keys, self.limits)
        async with self.residents.swapping:
            self.table = await asyncio.to_thread(self._loader.build, state, self.table)
        self._try_again(first=handed != self._taken, failed=len(self.table.failures) > len(state.failures))
        self._taken = handed
        # the puller tries again and hands over again: the lag counts from the first time
        self._behind = {f.model: self._behind.get(f.model, time.time()) for f in self.table.failures}
        for name in self.table.models.keys() - self._behind.keys():
            self.metrics.alias_lag_seconds.labels(model=name).set(0.0)
        _log.info("serving.table", extra={"revision": state.revision, "models": sorted(self.table.models)})

    def _try_again(self, *, first: bool, failed: bool) -> None:
        """When to load once more what did not load here: memory or descriptors may be free by then.

        What the puller could not make ready, it tries itself, and hands over again.
        """
        self._pause = AGAIN_S if first else min(2 * self._pause, _AGAIN_AT_MOST_S)
        self._again = time.monotonic() + self._pause if failed else math.inf

    def close(self) -> None:
        """End the threads of batchers and the processes of native models; nothing is asked any more."""
        for version in [v for m in self.table.models.values() for v in m.versions.values()]:
            version.batcher.close()
            if isinstance(version.engine, NativeEngine):
                version.engine.close()

    def settle(self) -> None:
        """Put what is counted elsewhere, because that is cheaper there, into the metrics: before anybody reads them."""
        self.usage.flush()
        self.meters.count()
        self.plane.count()
        self.gpus.observe(self.metrics)
        stats = self.spool.stats()
        for reason, lost in stats.lost.items():
            child = self.metrics.events_lost_total.labels(reason=reason)
            child.inc(max(0.0, lost - child._value.get()))
        unjournaled = self.metrics.events_unjournaled_total
        unjournaled.inc(max(0.0, stats.unjournaled - unjournaled._value.get()))

    def check(self, request: Request, scope: str) -> Caller:
        """The caller, if it may do `scope` on the model of the path."""
        return self.allow(secret_of(request.headers), scope, request.path_params.get("model"))

    def stored(self, version: Version) -> Path:
        """Where the files of a version lie, until it is deployed no more."""
        return self._cache / version.stored.dir

    def caller(self, identifier: str) -> Caller:
        """Who is behind the id of a key that a request came with some time ago.

        Raises:
            Unauthenticated: the key is valid no more.
        """
        found = self._keys.of(identifier) if self.settings.auth else self._keys.anybody
        if found is None:
            raise Unauthenticated("the key is valid no more", where="Authorization")
        return found

    def allow(self, secret: str, scope: str, model: str | None) -> Caller:
        """The caller behind `secret`, if it may do `scope` on `model`."""
        return self._keys.check(secret, scope, model) if self.settings.auth else self._keys.anybody

    def predicts(self, headers: Mapping[bytes, bytes], model: str) -> Caller:
        """The caller of a request with these raw headers, if it may predict with `model`: for the fast lane."""
        given = headers.get(b"authorization", b"")
        if self.settings.auth and given[:7].lower() == b"bearer ":
            return self._keys.bearer(given, "predict", model)
        return self.allow(headers.get(b"x-api-key", b"").decode("latin-1").strip(), "predict", model)

    def counter(self, model: str, code: int) -> Counter:
        """What refusals of the fast lane are counted in, with the labels that `count` would give them."""
        return self.metrics.requests_total.labels(model=model, version="", arm="", protocol="perene", code=str(code))

    def count(self, model: str, version: str, arm: str, code: int, protocol: str = "perene") -> None:
        """Count an answer. `model` is a deployed one or empty: labels stay bounded."""
        labels = {"model": model, "version": version, "arm": arm, "protocol": protocol, "code": str(code)}
        self.metrics.requests_total.labels(**labels).inc()


def _count_away(metrics: ServeMetrics) -> None:
    metrics.fallbacks_total.labels(model="", kind="limits").inc()
