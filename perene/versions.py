"""Looking at registered versions: `perene.inspect` and `perene.models`."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import ModelUnknown
from registry.ledger import Ledger
from registry.names import check_name

if TYPE_CHECKING:
    import pandas as pd

    from perene.config import Settings
    from registry.bundle import Bundle
    from registry.version import ModelVersion

COLUMNS = ("model", "version", "verdict", "algorithm", "owner", "role", "logged")


def inspect(name: str, version: int | None = None, *, settings: Settings | None = None) -> ModelVersion:
    """Contract, certificate and baseline metrics of a version; by default of the champion, else of the newest.

    Raises:
        ModelUnknown: nothing is registered under this name.
        VersionUnknown: the model has no such version.
        BundleCorrupt: it was not logged by Perene, or its files do not hold.
        StoreUnavailable: MLflow does not answer.
    """
    from perene.api import configured
    from registry.version import ModelVersion

    settings = settings or configured()
    number = version if version is not None else _usual(settings, name)
    with tempfile.TemporaryDirectory(prefix="perene-") as scratch:
        return ModelVersion.of(number, fetch(settings, name, number, Path(scratch)))


def models(name: str | None = None, *, settings: Settings | None = None) -> pd.DataFrame:
    """One row for each registered version, newest first within a model; `role` is its part in the deployment.

    Versions that were logged with plain MLflow have no verdict.
    """
    import pandas as pd

    from perene.api import configured

    return pd.DataFrame(version_rows(settings or configured(), name), columns=list(COLUMNS))


def version_rows(settings: Settings, name: str | None = None) -> list[dict[str, Any]]:
    """What `models` shows, as records."""
    from datetime import UTC, datetime

    from perene.api import open_store

    store = open_store(settings)
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        deployments = ledger.deployments()
    rows = []
    for model in [check_name(name)] if name else store.names():
        deployed = deployments.get(model)
        roles = {deployed.candidate: "candidate", deployed.champion: "champion"} if deployed else {}
        for found in store.versions(model):
            tags = found["tags"]
            rows.append(
                {
                    "model": model,
                    "version": found["version"],
                    "verdict": tags.get("perene.verdict"),
                    "algorithm": tags.get("perene.algorithm", ""),
                    "owner": tags.get("perene.owner", ""),
                    "role": roles.get(found["version"], ""),
                    "logged": datetime.fromtimestamp(found["created_ms"] / 1000, UTC),
                }
            )
    return rows


def fetch(settings: Settings, name: str, version: int, folder: Path) -> Bundle:
    """Download and verify the bundle of a version into a subfolder of `folder`."""
    from perene.api import open_store
    from registry.bundle import read_bundle

    return read_bundle(open_store(settings).download(check_name(name), version, folder / str(version)))


def _usual(settings: Settings, name: str) -> int:
    from perene.api import open_store

    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        deployment = ledger.deployment(check_name(name))
    if deployment is not None:
        return deployment.champion
    versions = open_store(settings).versions(name)
    if not versions:
        raise ModelUnknown(f"nothing is registered as '{name}'", where="name", hint="perene models lists what is")
    return int(versions[0]["version"])
