"""The puller: a child of the server that follows the ledger and makes verified bundles ready in the cache.

It alone imports MLflow. A bundle is handed over only after its digests hold and its golden rows gave the promised
answers in a process with limits; a champion that fails leaves the deployment before it in place.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from collections.abc import Callable
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
        revision = ledger.revision()
        valid = (key for key in ledger.keys() if not key.revoked)  # noqa: SIM118
        keys = [Key(k.id, k.sha256, sorted(k.scopes), sorted(k.models), k.limits) for k in valid]
        deployments: dict[str, Deployed] = {}
        bundles: dict[str, dict[str, Stored]] = {}
        failures: list[Failure] = []
        for name, row in ledger.deployments().items():
            ready, failed = self._bundles(row, now)
            failures += failed
            if str(row.champion) in ready:
                deployments[name] = _deployed(row)
                bundles[name] = ready
            elif name in before.deployments:
                deployments[name] = before.deployments[name]
                bundles[name] = before.bundles[name]
        return State(revision, now, deployments, bundles, keys, failures)

    def _bundles(self, row: Deployment, now: float) -> tuple[dict[str, Stored], list[Failure]]:
        ready: dict[str, Stored] = {}
        failures: list[Failure] = []
        for version in _deployed(row).route().versions:
            standing = self.refusals.standing(row.model, version, row.revision, now)
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

    def _prepare(self, model: str, version: int) -> Stored:
        folder = self.cache / "bundles" / check_name(model) / str(version)
        checked = folder.with_name(f"{version}.golden.json")
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


def follow(puller: Puller, ledger_url: str) -> None:
    """Hand over at every change of the ledger, for ever; wait and try again while a store is away."""
    seen: int | None = None
    retry = 0.0
    while True:
        try:
            with closing(Ledger.open(ledger_url)) as ledger:
                while True:
                    now = time.time()
                    if ledger.revision() != seen or (retry and now >= retry):
                        before = read_state(puller.cache) or State()
                        state = puller.state(ledger, before, now)
                        seen = state.revision
                        retry = now + RETRY_S if state.failures else 0.0
                        if before.deployments and not state.deployments:
                            # a ledger that was lost or mistyped must not stop what serves
                            _log.error("puller.empty_ledger", extra={"hint": "what was handed over keeps serving"})
                            continue
                        write_state(puller.cache, state)
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
