"""The public Python calls: log a model, move it, read its events."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any

from registry.errors import LedgerConflict, ModelUnknown
from registry.ledger import Deployment, Ledger
from registry.log import Facts, ModelVersion, Progress
from registry.log import log_model as register_model

if TYPE_CHECKING:
    import pandas as pd

    from perene.config import Settings


def log_model(
    estimator: Any,
    X: pd.DataFrame,
    y: Any,
    *,
    name: str,
    holdout: tuple[pd.DataFrame, Any] | None = None,
    facts: Facts | None = None,
    tags: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    progress: Progress = lambda step, found: None,
) -> ModelVersion:
    """Certify `estimator`, register it, and deploy it if `name` has no deployment yet.

    Args:
        estimator: a fitted scikit-learn estimator or pipeline.
        X: real rows, 1,000 or more; column names become the contract.
        y: their labels.
        name: the model's name.
        holdout: rows and labels the estimator was not fitted on; reference and quality come from them.
        facts: owner, purpose, training window, loss cap: see `Facts`.
        tags: further tags on the MLflow version.
        settings: where the stores are; by default from `perene.toml` and the environment.
        progress: called with each step's name and finding.

    Raises:
        ContractViolation, ConversionRefused, NameInvalid: the model cannot be served; nothing was registered.
        StoreUnavailable: a store does not answer; the call can be repeated.
    """
    settings = settings or _settings()
    store = open_store(settings)
    version = register_model(
        estimator, X, y, name=name, store=store, holdout=holdout, facts=facts, tags=tags, progress=progress
    )
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        deployment = ledger.deployment(name)
        if deployment is None:
            deployment = ledger.move(
                name, expected_revision=0, champion=version.version, actor=actor(), reason="first version"
            )
            progress("deployment", f"version {version.version} is champion")
        # set on every call: a crash between the row and the alias is mended by calling again
        store.set_alias(name, "champion", deployment.champion)
    return version


def promote(name: str, version: int, *, reason: str, settings: Settings | None = None) -> Deployment:
    """Make `version` the champion and end any trial.

    Raises:
        VersionUnknown: the version is not registered.
        LedgerConflict: it already is the champion, or somebody moved at the same time.
    """
    from registry.errors import VersionUnknown

    settings = settings or _settings()
    store = open_store(settings)
    if version not in {v["version"] for v in store.versions(name)}:
        raise VersionUnknown(f"model '{name}' has no version {version}", hint=f"perene models {name}")
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        current = ledger.deployment(name)
        if current is not None and current.champion == version and current.candidate is None:
            raise LedgerConflict(f"version {version} of '{name}' already is the champion")
        moved = ledger.move(
            name,
            expected_revision=current.revision if current else 0,
            champion=version,
            actor=actor(),
            reason=reason,
        )
    project_aliases(settings, moved)
    return moved


def rollback(name: str, *, reason: str = "by hand", settings: Settings | None = None) -> Deployment:
    """Put the earlier champion back and end any trial, as a new ledger row.

    Raises:
        ModelUnknown: the model was never deployed.
        LedgerConflict: there is no earlier champion.
    """
    settings = settings or _settings()
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        return ledger.rollback(name, actor=actor(), reason=reason)


def events(
    name: str, *, since: str | datetime | None = None, labelled: bool = False, settings: Settings | None = None
) -> pd.DataFrame:
    """Predictions of a model from the event lake, with their labels when `labelled`."""
    from monitoring.api import events as read

    settings = settings or _settings()
    if not (settings.places.lake / f"model={name}").is_dir():
        raise ModelUnknown(f"the event lake has nothing of '{name}'", where="name")
    return read(settings.places.lake, name, since=since, labelled=labelled)


def open_store(settings: Settings) -> Any:
    """MLflow's store as configured; imports MLflow, which takes seconds."""
    from registry.mlflow_store import Store

    return Store(settings.places.tracking_uri, settings.places.artifacts)


def project_aliases(settings: Settings, deployment: Deployment) -> None:
    """Set MLflow's aliases as the ledger says; the ledger's row is committed already."""
    store = open_store(settings)
    store.set_alias(deployment.model, "champion", deployment.champion)
    store.set_alias(deployment.model, "challenger", deployment.candidate)


def actor() -> str:
    """Who writes to the ledger: the login name."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _settings() -> Settings:
    from perene.config import load

    return load()
