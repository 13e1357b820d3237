"""Loaded versions: built and warmed beside the serving ones, published by one pointer swap, then the old dropped."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from monitoring.alerting.metrics import ServeMetrics
from monitoring.intake.spool import Spool
from registry.bundle import Bundle, read_bundle
from registry.contract import Contract
from registry.errors import BundleCorrupt, ModelUnknown, PereneError, VersionUnknown
from serving.decode import Decoder
from serving.devices.gpus import Gpus
from serving.devices.heap import allocated_bytes
from serving.devices.providers import CUDA, TENSORRT
from serving.devices.threads import usable_threads
from serving.engine import Engine
from serving.errors import InferenceFailed, NotReady
from serving.loaded.absent import Absent
from serving.loaded.cache import AnswerCache
from serving.loaded.fallbacks import Fallbacks, Kind
from serving.native import NativeEngine
from serving.queues.admission import Cost
from serving.queues.batching import Batcher, Batchers
from serving.routing import Route
from serving.settings import ServingSettings
from serving.state import Failure, State, Stored

_log = logging.getLogger("perene.serving")
_NO_COST: Final = Cost(0.0, 0.0)
MEASURED_ROWS: Final = 64
MEASURING_S: Final = 0.2
"""Time that a version's load may take to see what many rows cost."""


@dataclass(frozen=True)
class Version:
    """One version: its contract, and its graph loaded and warm, or `Absent` while nobody asks for its model."""

    model: str
    version: int
    digest: str
    contract: Contract
    certificate: Mapping[str, Any]
    card: str
    decoder: Decoder
    engine: Engine | NativeEngine | Absent
    batcher: Batcher
    stored: Stored
    cache: AnswerCache | None = None
    memory: tuple[str, int] = ("cpu", 0)
    """Where its graph is, and the bytes that loading it took."""

    @property
    def resident(self) -> bool:
        """Whether it can answer without being loaded first."""
        return not isinstance(self.engine, Absent)


@dataclass(frozen=True)
class Model:
    """A deployed model: how requests are routed, and its loaded versions."""

    name: str
    revision: int
    route: Route
    versions: Mapping[int, Version]

    @property
    def champion(self) -> Version:
        """The version that answers unless a trial says otherwise."""
        return self.versions[self.route.champion]

    @property
    def resident(self) -> bool:
        """Whether its versions are in memory: all of them, or none."""
        return self.champion.resident


@dataclass(frozen=True)
class Table:
    """What is served now. Replaced as a whole; a request that holds an old one finishes on it."""

    models: Mapping[str, Model] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    revision: int = -1

    def get(self, name: str) -> Model:
        """The deployed model of this name.

        Raises:
            ModelUnknown: with a suggestion.
            NotReady: nothing is loaded yet, or this one does not load; whoever asks may ask again.
        """
        found = self.models.get(name)
        if found is not None:
            return found
        if not self.models:
            raise _none_deployed()
        if any(failure.model == name for failure in self.failures):
            raise not_loaded()
        import difflib

        near = difflib.get_close_matches(name, list(self.models), n=1)
        hint = f"did you mean '{near[0]}'?" if near else "GET /models lists what is deployed"
        raise ModelUnknown("no model of this name is deployed", where="model", hint=hint)

    def version(self, name: str, version: int) -> Version:
        """A pinned version.

        Raises:
            ModelUnknown, VersionUnknown: it is not loaded here.
        """
        found = self.get(name).versions.get(version)
        if found is None:
            served = ", ".join(str(v) for v in sorted(self.get(name).versions))
            raise VersionUnknown("this version is not served", where="version", expected=served)
        return found

    def default(self, wanted: str | None) -> Model:
        """The model of bare `/predict`.

        Raises:
            NotReady, ModelUnknown: none, or several without `default_model`.
        """
        if wanted is not None:
            return self.get(wanted)
        if len(self.models) == 1:
            return next(iter(self.models.values()))
        if not self.models:
            raise _none_deployed()
        raise ModelUnknown(
            "several models are deployed", where="model", hint="use /models/{name}/predict or set serving.default_model"
        )


def not_loaded() -> NotReady:
    """What callers of a deployed model are told that does not load."""
    return NotReady("the model could not be loaded", where="model", hint="GET /readyz?verbose says why")


def _none_deployed() -> NotReady:
    return NotReady("no model is deployed yet", hint="perene log deploys a first version")


class Loader:
    """Turns a handed-over state into the next table, reusing what is loaded already."""

    def __init__(
        self,
        cache: Path,
        settings: ServingSettings,
        spool: Spool,
        metrics: ServeMetrics,
        fallbacks: Fallbacks,
        gpus: Gpus,
    ) -> None:
        self._cache = cache
        self._settings = settings
        self._spool = spool
        self._metrics = metrics
        self._fallbacks = fallbacks
        self._gpus = gpus
        self._threads = usable_threads(settings.threads, workers=settings.workers)
        self._batchers = Batchers(settings, metrics)
        self._lock = threading.Lock()
        self._published: Mapping[str, Model] = {}
        self._shown: set[tuple[tuple[str, str], ...]] = set()
        self._devices: Collection[str] = ("cpu",)

    def build(self, state: State, old: Table) -> Table:
        """The table of `state`. A version that cannot be loaded leaves the old deployment of its model serving."""
        models: dict[str, Model] = {}
        failures = list(state.failures)
        resident = {name for name, model in old.models.items() if model.resident}
        most, default = self._settings.max_models, self._settings.default_model
        awake = awake_at_first(state.deployments, resident, most=most, default=default)
        for name, deployed in state.deployments.items():
            route = deployed.route()
            versions, failed = self._versions(name, route, state, old, awake=name in awake)
            failures += failed
            if route.champion not in versions:
                if name in old.models:
                    models[name] = old.models[name]
                continue
            models[name] = Model(name, deployed.revision, self._among(name, route, versions), versions)
        self._fallbacks.keep({(name, n) for name, d in state.deployments.items() for n in d.route().versions})
        self.publish(models)
        return Table(models, tuple(failures), state.revision)

    def wake(self, model: Model) -> Model:
        """The model with its graphs in memory; a candidate that does not load leaves the champion alone.

        Raises:
            PereneError, OSError, ValueError, LookupError, TypeError: the champion does not load.
        """
        versions = dict(model.versions)
        route = model.route
        versions[route.champion] = self._load(model.name, route.champion, model.champion.stored, awake=True)
        for number in versions.keys() - {route.champion}:
            try:
                versions[number] = self._load(model.name, number, versions[number].stored, awake=True)
            except (PereneError, OSError, ValueError, LookupError, TypeError) as error:
                self.failed(model.name, number, error)
        versions = {n: v for n, v in versions.items() if v.resident}
        return replace(model, route=self._among(model.name, route, versions), versions=versions)

    def _among(self, name: str, route: Route, versions: Collection[int]) -> Route:
        """The route as far as its versions are there; those that are missing are counted."""
        for number in route.versions:
            if number not in versions:
                kind: Kind = "candidate" if number in route.candidates else "segment"
                self._fallbacks.note(name, number, kind, "it is not loaded")
        return route.among(versions)

    def asleep(self, model: Model) -> Model:
        """The model without its graphs. Requests that hold it as it was still get their answers."""
        return replace(model, versions={number: self._sleeping(v) for number, v in model.versions.items()})

    def failed(self, name: str, number: int, error: Exception) -> Failure:
        """Count a version that did not load, and say why."""
        self._metrics.model_load_failures_total.labels(reason=getattr(error, "code", "unreadable")).inc()
        return Failure(name, number, getattr(error, "message", "its bundle cannot be read"))

    def publish(self, models: Mapping[str, Model]) -> None:
        """Say in the metrics what is loaded, where it runs and what memory it took."""
        with self._lock:
            self._published = models
            self._show()

    def _show(self) -> None:
        info, memory = self._metrics.model_loaded_info, dict.fromkeys(self._devices, 0)
        for version in (v for m in self._published.values() for v in m.versions.values() if v.resident):
            device, taken = version.memory
            memory[device] = memory.get(device, 0) + taken
        shown = {tuple(labels.items()) for labels in _labels(self._published)}
        for labels in self._shown - shown:
            info.remove_by_labels(dict(labels))
        for labels in shown:
            info.labels(**dict(labels)).set(1)
        for device, taken in memory.items():
            self._metrics.session_memory_bytes.labels(device=device).set(taken)
        self._shown, self._devices = shown, memory.keys()

    def _versions(
        self, name: str, route: Route, state: State, old: Table, *, awake: bool
    ) -> tuple[dict[int, Version], list[Failure]]:
        loaded: dict[int, Version] = {}
        failures: list[Failure] = []
        before = old.models[name].versions if name in old.models else {}
        told = {(failure.model, failure.version) for failure in state.failures}
        for number in route.versions:
            stored = state.bundles.get(name, {}).get(str(number))
            if stored is None:
                if (name, number) not in told:  # the puller knows better why
                    failures.append(Failure(name, number, "no bundle was handed over"))
                continue
            present = before.get(number)
            if present is not None and present.digest == stored.digest and present.resident == awake:
                loaded[number] = present
                continue
            try:
                loaded[number] = self._load(name, number, stored, awake=awake)
            except (PereneError, OSError, ValueError, LookupError, TypeError) as error:
                failures.append(self.failed(name, number, error))
        return loaded, failures

    def _load(self, name: str, number: int, stored: Stored, *, awake: bool) -> Version:
        began = time.perf_counter()
        folder = (self._cache / stored.dir).resolve()
        if not folder.is_relative_to(self._cache.resolve()):
            raise BundleCorrupt("the bundle lies outside of the cache", where="state.json")
        bundle = read_bundle(folder)
        if bundle.digest != stored.digest:
            raise BundleCorrupt("the bundle is another one than was handed over", where=bundle.path.name)
        if bundle.contract.model != name:
            raise BundleCorrupt("the bundle is of another model", where="contract.json")
        self._spool.register(name, number, bundle.contract.to_dict())
        settings, contract = self._settings, bundle.contract
        decoder = Decoder(contract, max_rows=settings.max_rows, mode=settings.decoding)
        card, certificate = (folder / "card.md").read_text(), bundle.certificate
        if not awake:
            engine: Engine | NativeEngine | Absent = Absent()
            batcher = self._batchers.of(engine, decoder, _NO_COST)
            return Version(name, number, bundle.digest, contract, certificate, card, decoder, engine, batcher, stored)
        before = allocated_bytes(), self._gpus.memory_bytes()
        engine = self._engine(bundle, number)
        cost = _warm(engine, decoder, folder.with_name(f"{folder.name}.golden.json"))
        taken = allocated_bytes() - before[0], self._gpus.memory_bytes() - before[1]
        on_gpu = engine.provider in (CUDA, TENSORRT)
        memory = ("cuda", max(0, taken[1])) if on_gpu else ("cpu", max(0, taken[0]))
        batcher = self._batchers.of(engine, decoder, cost)
        kept = self._settings.cache_rows
        cache = AnswerCache(kept, self._metrics.response_cache_total, name) if kept else None
        self._metrics.model_load_duration_seconds.labels(model=name).observe(time.perf_counter() - began)
        facts = {"model": name, "version": number, "provider": engine.provider, "placement": dict(engine.placement)}
        _log.info("serving.loaded", extra=facts)
        return Version(
            name, number, bundle.digest, contract, certificate, card, decoder, engine, batcher, stored, cache, memory
        )

    def _sleeping(self, version: Version) -> Version:
        engine = Absent()
        batcher = self._batchers.of(engine, version.decoder, _NO_COST)
        return replace(version, engine=engine, batcher=batcher, cache=None, memory=("cpu", 0))

    def _engine(self, bundle: Bundle, number: int) -> Engine | NativeEngine:
        settings = self._settings
        if bundle.native:
            return NativeEngine(bundle, allow_pickle=settings.allow_pickle, seconds=settings.native_seconds)

        def fell(reason: str) -> None:
            """Tell of it; what is published names the provider that runs now. Any thread may call this."""
            self._fallbacks.note(bundle.contract.model, number, "gpu", reason)
            with self._lock:
                self._show()

        return Engine(
            bundle.model_bytes(),
            bundle.contract,
            device=settings.device,
            threads=self._threads,
            gpu=settings.gpu,
            fell=fell,
        )


def awake_at_first(
    names: Iterable[str], resident: Collection[str], *, most: int | None, default: str | None
) -> set[str]:
    """The models that a new table has in memory: those that were, then the default one, then others by name.

    >>> sorted(awake_at_first(["a", "b", "c"], {"c"}, most=2, default="b"))
    ['b', 'c']
    """
    return set(sorted(names, key=lambda name: (name not in resident, name != default, name))[:most])


def _labels(models: Mapping[str, Model]) -> list[dict[str, str]]:
    return [
        {
            "model": v.model,
            "version": str(v.version),
            "alias": "champion" if v.version == m.route.champion else "challenger",
            "provider": v.engine.provider,
            "digest": v.digest[:12],
        }
        for m in models.values()
        for v in m.versions.values()
        if v.resident
    ]


def _warm(engine: Engine | NativeEngine, decoder: Decoder, golden: Path) -> Cost:
    """Run golden rows one by one and together: the first request must not pay for lazy allocation.

    Returns:
        What runs cost, from the shortest times of one row and of many.
    """
    names = decoder.contract.names
    rows = json.loads(golden.read_text()) if golden.is_file() else [decoder.contract.example_row()]
    values = [tuple(row[name] for name in names) for row in rows]
    if isinstance(engine, Engine):
        engine.warm(decoder.pack(values[:1]))
    single = many = math.inf
    for row in values[:8]:
        began = time.perf_counter()
        engine.run(decoder.pack([row]))
        single = min(single, time.perf_counter() - began)
    engine.run(decoder.pack(values))
    count = max(2, min(MEASURED_ROWS, int(MEASURING_S / single)))
    tensors = decoder.pack((values * count)[:count])
    try:
        for _ in range(3):
            began = time.perf_counter()
            engine.run(tensors)
            many = min(many, time.perf_counter() - began)
    except InferenceFailed:  # a graph that takes one row only
        return Cost.measured({1: single})
    return Cost.measured({1: single, count: many})
