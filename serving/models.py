"""Loaded versions: built and warmed beside the serving ones, published by one pointer swap, then the old dropped."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from monitoring.metrics import ServeMetrics
from monitoring.spool import Spool
from registry.bundle import Bundle, read_bundle
from registry.contract import Contract
from registry.errors import BundleCorrupt, ModelUnknown, PereneError, VersionUnknown
from serving.batching import Batcher
from serving.decode import Decoder
from serving.engine import Engine
from serving.errors import NotReady
from serving.native import NativeEngine
from serving.routing import Route
from serving.settings import ServingSettings
from serving.state import Failure, State, Stored

LIGHT_S: Final = 1e-3
"""A model whose single row takes longer is not asked in the fast lane: others would wait for it."""


@dataclass(frozen=True)
class Version:
    """One version, loaded and warm."""

    model: str
    version: int
    digest: str
    contract: Contract
    certificate: Mapping[str, Any]
    card: str
    decoder: Decoder
    engine: Engine | NativeEngine
    batcher: Batcher | None = None
    """Of a model that is light enough for the event loop."""


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
    def inline(self) -> bool:
        """Whether every version answers in this process, in microseconds, so that the event loop may wait for it."""
        return not any(isinstance(version.engine, NativeEngine) for version in self.versions.values())


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
        """
        found = self.models.get(name)
        if found is not None:
            return found
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
            raise NotReady("no model is deployed yet", hint="perene log deploys a first version")
        raise ModelUnknown(
            "several models are deployed", where="model", hint="use /models/{name}/predict or set serving.default_model"
        )


class Loader:
    """Turns a handed-over state into the next table, reusing what is loaded already."""

    def __init__(self, cache: Path, settings: ServingSettings, spool: Spool, metrics: ServeMetrics) -> None:
        self._cache = cache
        self._settings = settings
        self._spool = spool
        self._metrics = metrics

    def build(self, state: State, old: Table) -> Table:
        """The table of `state`. A version that cannot be loaded leaves the old deployment of its model serving."""
        models: dict[str, Model] = {}
        failures = list(state.failures)
        for name, deployed in state.deployments.items():
            route = deployed.route()
            versions, failed = self._versions(name, route, state, old)
            failures += failed
            if route.champion not in versions:
                if name in old.models:
                    models[name] = old.models[name]
                continue
            if route.candidate is not None and route.candidate not in versions:
                route = Route(route.champion)
            models[name] = Model(name, deployed.revision, route, versions)
        self._publish(models, old)
        return Table(models, tuple(failures), state.revision)

    def _versions(self, name: str, route: Route, state: State, old: Table) -> tuple[dict[int, Version], list[Failure]]:
        loaded: dict[int, Version] = {}
        failures: list[Failure] = []
        before = old.models[name].versions if name in old.models else {}
        for number in filter(None, (route.champion, route.candidate)):
            stored = state.bundles.get(name, {}).get(str(number))
            if stored is None:
                failures.append(Failure(name, number, "no bundle was handed over"))
                continue
            present = before.get(number)
            if present is not None and present.digest == stored.digest:
                loaded[number] = present
                continue
            try:
                loaded[number] = self._load(name, number, stored)
            except (PereneError, OSError, ValueError, LookupError, TypeError) as error:
                self._metrics.model_load_failures_total.labels(reason=getattr(error, "code", "unreadable")).inc()
                failures.append(Failure(name, number, getattr(error, "message", "its bundle cannot be read")))
        return loaded, failures

    def _load(self, name: str, number: int, stored: Stored) -> Version:
        began = time.perf_counter()
        folder = (self._cache / stored.dir).resolve()
        if not folder.is_relative_to(self._cache.resolve()):
            raise BundleCorrupt("the bundle lies outside of the cache", where="state.json")
        bundle = read_bundle(folder)
        if bundle.digest != stored.digest:
            raise BundleCorrupt("the bundle is another one than was handed over", where=bundle.path.name)
        if bundle.contract.model != name:
            raise BundleCorrupt("the bundle is of another model", where="contract.json")
        engine = self._engine(bundle)
        decoder = Decoder(bundle.contract, max_rows=self._settings.max_rows)
        single = _warm(engine, decoder, folder.with_name(f"{folder.name}.golden.json"))
        self._spool.register(name, number, bundle.contract.to_dict())
        self._metrics.model_load_duration_seconds.labels(model=name).observe(time.perf_counter() - began)
        card = (folder / "card.md").read_text()
        batcher = Batcher(engine, decoder) if isinstance(engine, Engine) and single <= LIGHT_S else None
        return Version(name, number, bundle.digest, bundle.contract, bundle.certificate, card, decoder, engine, batcher)

    def _engine(self, bundle: Bundle) -> Engine | NativeEngine:
        settings = self._settings
        if bundle.native:
            return NativeEngine(bundle, allow_pickle=settings.allow_pickle, seconds=settings.native_seconds)
        return Engine(bundle.model_bytes(), bundle.contract, device=settings.device)

    def _publish(self, models: Mapping[str, Model], old: Table) -> None:
        info = self._metrics.model_loaded_info
        for labels in {tuple(x.items()) for x in _labels(old.models)} - {tuple(x.items()) for x in _labels(models)}:
            info.remove_by_labels(dict(labels))
        for labels_now in _labels(models):
            info.labels(**labels_now).set(1)


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
    ]


def _warm(engine: Engine | NativeEngine, decoder: Decoder, golden: Path) -> float:
    """Run golden rows one by one and together: the first request must not pay for lazy allocation.

    Returns:
        The shortest time in seconds that one row took.
    """
    names = decoder.contract.names
    rows = json.loads(golden.read_text()) if golden.is_file() else [decoder.contract.example_row()]
    values = [tuple(row[name] for name in names) for row in rows]
    single = math.inf
    for row in values[:8]:
        began = time.perf_counter()
        engine.run(decoder.pack([row]))
        single = min(single, time.perf_counter() - began)
    engine.run(decoder.pack(values))
    return single
