"""The puller: a child of the server that follows the ledger and makes verified bundles ready in the cache.

It alone imports MLflow. A bundle is handed over only after its digests hold and its golden rows gave the promised
answers in a process with limits; a champion that fails leaves the deployment before it in place.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from registry import process_log
from registry.bundle import read_bundle
from registry.errors import BundleCorrupt, PereneError
from registry.ledger import Deployment, Ledger
from registry.names import check_name
from registry.native.process import check_pickle
from registry.private import LEDGER, TRACKING, taken
from registry.sandbox import BundleRefused, check_in_child
from registry.signing import Verifier, load_verifier, verify_bundle
from serving.refusals import Refusals
from serving.state import Deployed, Failure, Key, State, Stored, read_state, write_state

POLL_S = 0.2
RETRY_S = 5.0
WARM_ROWS = 32
_log = logging.getLogger("perene.serving.puller")

Fetch = Callable[[str, int, Path], object]
"""Copies the bundle of (model, version) into a new folder."""
_Tried = tuple[str, int, int]
"""Model, version and the revision that asks for it."""


@dataclass
class Puller:
    """Turns the ledger's deployments into the next hand-over."""

    cache: Path
    fetch: Fetch
    allow_pickle: bool = False
    trusted: tuple[Verifier, ...] = ()
    """Keys one of which must have signed a bundle; empty: nobody need have."""
    refusals: Refusals = field(default_factory=Refusals)

    def state(self, ledger: Ledger, before: State, now: float) -> State:
        """The hand-over for the ledger as it is; `before` is what stays where a new champion is not fit to serve."""
        return self.look(ledger, before, now, None)[0]

    def look(
        self, ledger: Ledger, before: State, now: float, tried: Mapping[_Tried, Failure] | None
    ) -> tuple[State, list[Deployment]]:
        """The same; with `tried`, what could not be made ready a moment ago, nothing is fetched and nothing run.

        A model that waits for a version then stays as it was `before`, and is in the second part of the result.
        """
        revision = ledger.revision()
        valid = (key for key in ledger.keys() if not key.revoked)  # noqa: SIM118
        keys = [Key(k.id, k.sha256, sorted(k.scopes), sorted(k.models), k.limits) for k in valid]
        deployments: dict[str, Deployed] = {}
        bundles: dict[str, dict[str, Stored]] = {}
        failures: list[Failure] = []
        waiting: list[Deployment] = []
        for name, row in ledger.deployments().items():
            if tried is not None and self._waits(row, now, tried):
                waiting.append(row)
            else:
                ready, failed = self.bundles(row, now, tried or {})
                failures += failed
                if str(row.champion) in ready:
                    deployments[name] = _deployed(row)
                    bundles[name] = ready
                    continue
            if name in before.deployments:
                deployments[name] = before.deployments[name]
                bundles[name] = before.bundles[name]
        return State(revision, now, deployments, bundles, keys, failures), waiting

    def _waits(self, row: Deployment, now: float, tried: Mapping[_Tried, Failure]) -> bool:
        """Whether a version of the deployment has still to be fetched or judged."""
        return any(
            not ((folder := self._folder(row.model, version)).is_dir() and _judged(folder).is_file())
            and (row.model, version, row.revision) not in tried
            and self.refusals.standing(row.model, version, row.revision, now) is None
            for version in _deployed(row).route().versions
        )

    def bundles(
        self, row: Deployment, now: float, tried: Mapping[_Tried, Failure]
    ) -> tuple[dict[str, Stored], list[Failure]]:
        """What is ready to serve of one deployment, and why the rest is not."""
        ready: dict[str, Stored] = {}
        failures: list[Failure] = []
        for version in _deployed(row).route().versions:
            standing = self.refusals.standing(row.model, version, row.revision, now)
            standing = standing or tried.get((row.model, version, row.revision))
            if standing is not None:
                failures.append(standing)
                continue
            try:
                ready[str(version)] = self._prepare(row.model, version)
                self.refusals.forget(row.model, version, row.revision)
            # OSError: a store may hold pipes and links that cannot be copied
            except (PereneError, OSError) as error:
                reason = error.message if isinstance(error, PereneError) else f"not copied ({type(error).__name__})"
                failures.append(Failure(row.model, version, reason))
                if isinstance(error, BundleCorrupt):
                    # what was downloaded may be at fault; what was judged is not worth a second try at once
                    self.refusals.note(failures[-1], row.revision, now, at_once=not isinstance(error, BundleRefused))
                extra = {"model": row.model, "version": version, "reason": reason}
                _log.error("puller.refused", extra=extra)
        return ready, failures

    def _folder(self, model: str, version: int) -> Path:
        return self.cache / "bundles" / check_name(model) / str(version)

    def _prepare(self, model: str, version: int) -> Stored:
        folder = self._folder(model, version)
        checked = _judged(folder)
        if not folder.is_dir():
            checked.unlink(missing_ok=True)
            self.fetch(model, version, folder)
        try:
            if self.trusted:
                verify_bundle(folder, self.trusted)
            bundle = read_bundle(folder)
            if bundle.contract.model != model:
                raise BundleCorrupt("the bundle is of another model", where="contract.json")
            if not checked.is_file():
                check_pickle(bundle.model_file, allow_pickle=self.allow_pickle)
                check_in_child(folder, allow_pickle=self.allow_pickle)
                _write_warm_up(folder, checked)
        except PereneError:
            # what was downloaded may be at fault: the next try fetches again
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Stored(str(folder.relative_to(self.cache)), bundle.digest)


def _judged(folder: Path) -> Path:
    """What is there once a version was found sound: the rows that warm it up."""
    return folder.with_name(f"{folder.name}.golden.json")


def _deployed(row: Deployment) -> Deployed:
    """Whole, whatever is ready of it: the server leaves out what it has not, and says so."""
    return Deployed(row.revision, row.champion, row.candidate, row.mode, row.weight, row.salt, row.routing)


def _write_warm_up(folder: Path, to: Path) -> None:
    import pandas as pd

    from registry.golden import EXPECTED

    golden = pd.read_parquet(folder / "golden.parquet").drop(columns=EXPECTED).head(WARM_ROWS)
    temporary = to.with_suffix(".new")
    temporary.write_text(json.dumps(json.loads(golden.to_json(orient="records"))))
    temporary.replace(to)


@dataclass
class Follower:
    """Hands over at every change of the ledger. What has to be fetched first does not hold up the rest.

    So a rollback, and the end of a key, need not wait until another model's new version is here and judged.
    """

    puller: Puller
    _seen: int | None = None
    _retry: float = 0.0
    _tried: dict[_Tried, Failure] = field(default_factory=dict)
    _aside: threading.Thread | None = None

    def step(self, ledger: Ledger, now: float) -> None:
        """Hand over what the ledger says, if that is news, or if what was waited for has come."""
        busy = self._aside is not None and self._aside.is_alive()
        ended, due = self._aside is not None and not busy, bool(self._retry) and now >= self._retry
        if ledger.revision() == self._seen and not ended and not due:
            return
        before = read_state(self.puller.cache) or State()
        # at the first start there is nothing to hold up: a server is ready once it has all of its models
        state, waiting = self.puller.look(ledger, before, now, self._tried if before.deployments else None)
        rows = ledger.deployments()
        if not before.deployments:
            self._tried = {(f.model, f.version, rows[f.model].revision): f for f in state.failures if f.model in rows}
        elif due:  # what failed is told until it does not any more: for how long counts from the first time
            waiting += [row for row in rows.values() if row not in waiting and self._failed(row)]
        if not busy:
            self._aside = threading.Thread(target=self._prepare, args=(waiting, now), daemon=True) if waiting else None
            if self._aside is not None:
                self._aside.start()
        self._seen = state.revision
        self._retry = now + RETRY_S if state.failures else 0.0
        if before.deployments and not state.deployments:
            # a ledger that was lost or mistyped must not stop what serves
            _log.error("puller.empty_ledger", extra={"hint": "what was handed over keeps serving"})
            return
        write_state(self.puller.cache, state)

    def _failed(self, row: Deployment) -> bool:
        return any((model, revision) == (row.model, row.revision) for model, _, revision in self._tried)

    def _prepare(self, waiting: Sequence[Deployment], now: float) -> None:
        for row in waiting:
            try:
                _, failures = self.puller.bundles(row, now, {})
            except Exception as error:  # whatever a stranger's bundle brings about, the next one is to be tried
                _log.exception("puller.broke")
                why = f"not judged ({type(error).__name__})"
                failures = [Failure(row.model, version, why) for version in _deployed(row).route().versions]
            others = {tried: failure for tried, failure in self._tried.items() if tried[0] != row.model}
            self._tried = others | {(row.model, f.version, row.revision): f for f in failures}


def follow(puller: Puller, ledger_url: str) -> None:
    """Hand over at every change of the ledger, for ever; wait and try again while a store is away."""
    follower = Follower(puller)
    while True:
        try:
            with closing(Ledger.open(ledger_url)) as ledger:
                while True:
                    follower.step(ledger, time.time())
                    time.sleep(POLL_S)
        except PereneError as error:
            _log.warning("puller.waiting", extra={"reason": error.message})
            time.sleep(RETRY_S)


def main() -> None:
    """`python -m serving.puller --artifact-root DIR --cache DIR`, with the stores' addresses in the environment."""
    parser = argparse.ArgumentParser(prog="serving.puller")
    for name in ("--artifact-root", "--cache"):
        parser.add_argument(name, required=True)
    parser.add_argument("--ledger-url", default=taken(LEDGER))
    parser.add_argument("--tracking-uri", default=taken(TRACKING))
    parser.add_argument("--allow-pickle", action="store_true")
    parser.add_argument("--trusted", action="append", default=[], help="a public key; repeatable")
    told = parser.parse_args()
    process_log.configure()

    def fetch(model: str, version: int, to: Path) -> object:
        from registry.mlflow_store import Store

        return Store(told.tracking_uri, Path(told.artifact_root)).download(model, version, to)

    trusted = tuple(load_verifier(key) for key in told.trusted)
    follow(Puller(Path(told.cache), fetch, told.allow_pickle, trusted), told.ledger_url)


if __name__ == "__main__":
    main()
