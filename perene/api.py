"""The public Python calls: log a model, move it, read its events."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from registry import approvals
from registry.aliases import project
from registry.errors import LedgerConflict, NotAllowed, PereneError
from registry.ledger import Deployment, Ledger
from registry.names import check_name
from registry.policy import refusal

if TYPE_CHECKING:
    import pandas as pd

    from perene.config import Settings
    from registry.contract import Policy
    from registry.convert import Progress, Runtime
    from registry.log import Facts, ModelVersion
    from registry.promotion import Examiner


def log_model(
    estimator: Any,
    X: pd.DataFrame,
    y: Any = None,
    *,
    name: str,
    holdout: tuple[pd.DataFrame, Any] | None = None,
    facts: Facts | None = None,
    policies: Mapping[str, Policy] | None = None,
    runtime: Runtime = "auto",
    allow_pickle: bool = False,
    tags: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    progress: Progress = lambda step, found: None,
) -> ModelVersion:
    """Certify `estimator`, register it, and deploy it if `name` has no deployment yet.

    Args:
        estimator: a fitted estimator or pipeline.
        X: real rows, 1,000 or more; column names become the contract.
        y: their labels; without any (clusters, outliers) there is no quality to compare with later.
        name: the model's name.
        holdout: rows and labels the estimator was not fitted on; reference and quality come from them.
        facts: owner, purpose, slices, metrics, training window, loss cap: see `Facts`.
        policies: columns whose values the event log keeps as a hash (`hash`) or not at all (`drop`).
        runtime: `auto` converts to ONNX and falls back to the original in a process of its own; `onnx` refuses
            instead of falling back, `native` does not convert.
        allow_pickle: whether that original may be a pickle.
        tags: further tags on the MLflow version.
        settings: where the stores are; by default from `perene.toml` and the environment.
        progress: called with each step's name and finding.

    Raises:
        ContractViolation, ConversionRefused, NameInvalid: the model cannot be served; nothing was registered.
        StoreUnavailable: a store does not answer; the call can be repeated.
    """
    from registry.log import log_model as register_model

    settings = settings or configured()
    store = open_store(settings)
    version = register_model(
        estimator,
        X,
        y,
        name=name,
        store=store,
        holdout=holdout,
        facts=facts,
        policies=policies,
        runtime=runtime,
        allow_pickle=allow_pickle,
        tags=tags,
        progress=progress,
    )
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        me = actor()
        tag = examiner(settings, ledger, store).tags(name, version.version)["perene.digest"]
        approvals.record(ledger, name, version.version, kind="registered", actor=me, digest=tag)
        deployment = ledger.deployment(name)
        if deployment is None:
            why = refusal(settings.policy, approvals.standing(ledger, name, version.version, tag), actor=me)
            if why is not None:
                progress("deployment", f"version {version.version} is not deployed: {why}")
                return version
            deployment = ledger.move(
                name, expected_revision=0, champion=version.version, actor=me, reason="first version"
            )
            progress("deployment", f"version {version.version} is champion")
        # set on every call: a crash between the row and the alias is mended by calling again
        project(ledger, store, name)
    return version


def promote(
    name: str,
    version: int,
    *,
    reason: str,
    breaking: bool = False,
    by: str | None = None,
    settings: Settings | None = None,
) -> Deployment:
    """Make `version` the champion and end any trial, once it is found certified, loadable and allowed.

    Args:
        name: the model.
        version: a registered version.
        reason: goes to the ledger.
        breaking: promote although callers of the champion would break; the ledger's reason then says how.
        by: whom it is done for, where a service acts for people; by default this account.
        settings: where the stores are; by default from `perene.toml` and the environment.

    Raises:
        VersionUnknown: the version is not registered.
        NotAllowed: no certificate, a refused one, approvals missing, who registered it may not, or callers would break.
        BundleCorrupt: its bundle does not load or does not answer as promised.
        LedgerConflict: it already is the champion, or somebody moved at the same time.
        StoreUnavailable: MLflow or the ledger does not answer; nothing was moved.
    """
    check_name(name)
    settings = settings or configured()
    by = by or actor()
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        current = ledger.deployment(name)
        if current is not None and current.champion == version and current.candidate is None:
            raise LedgerConflict(f"version {version} of '{name}' already is the champion", where="version")
        store = open_store(settings)
        broken = examiner(settings, ledger, store).examine(
            name, version, champion=current.champion if current else None, actor=by, breaking=breaking
        )
        moved = ledger.move(
            name,
            expected_revision=current.revision if current else 0,
            champion=version,
            actor=by,
            reason=f"{reason} (breaking: {'; '.join(broken)})" if broken else reason,
        )
        with suppress(PereneError):  # the row stands; the worker brings the aliases after it
            project(ledger, store, name)
    return moved


def approve(
    name: str, version: int, *, reason: str = "", by: str | None = None, settings: Settings | None = None
) -> dict[str, Any]:
    """Record an approval of the version's content as a row of evidence; twice by the same person is once.

    Raises:
        VersionUnknown: the version is not registered.
        NotAllowed: it has no certificate or a refused one, or who approves has registered it.
    """
    check_name(name)
    settings = settings or configured()
    by = by or actor()
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        digest = examiner(settings, ledger, open_store(settings)).tags(name, version)["perene.digest"]
        if by in approvals.standing(ledger, name, version).registrars:
            raise NotAllowed(
                f"{by} registered version {version} of '{name}', and may not approve it as well",
                where="policy",
                hint="let somebody else approve it",
            )
        row = approvals.record(ledger, name, version, kind="approval", actor=by, digest=digest, reason=reason)
        approvers = sorted(approvals.standing(ledger, name, version, digest).approvers)
    return {"model": name, "version": version, "digest": digest, "evidence": row, "approved_by": approvers}


def rollback(
    name: str, *, reason: str = "by hand", by: str | None = None, settings: Settings | None = None
) -> Deployment:
    """Put the earlier champion back and end any trial, as a new ledger row. Asks neither MLflow nor the policy.

    Raises:
        ModelUnknown: the model was never deployed.
        LedgerConflict: there is no earlier champion, or somebody moved at the same time.
    """
    check_name(name)
    settings = settings or configured()
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        return ledger.rollback(name, actor=by or actor(), reason=reason)


def events(
    name: str, *, since: str | datetime | None = None, labelled: bool = False, settings: Settings | None = None
) -> pd.DataFrame:
    """Predictions of a model from the event lake, with their labels when `labelled`."""
    from monitoring.reading.api import events as read

    settings = settings or configured()
    return read(settings.places.lake, name, since=since, labelled=labelled)


def labels(
    name: str, *, since: str | datetime | None = None, unmatched: bool = False, settings: Settings | None = None
) -> pd.DataFrame:
    """Every label of a model with its revision, or only those whose prediction the event lake does not have."""
    from monitoring.reading.api import labels as read

    settings = settings or configured()
    return read(settings.places.lake, name, since=since, unmatched=unmatched)


def open_store(settings: Settings) -> Any:
    """MLflow's store as configured; imports MLflow, which takes seconds."""
    from registry.mlflow_store import Store

    key = settings.signing.key
    signer = None
    if key is not None:
        from registry.signing import load_signer

        signer = load_signer(key)
    return Store(settings.places.tracking_uri, settings.places.artifacts, signer=signer)


def project_aliases(settings: Settings, name: str) -> None:
    """Set MLflow's aliases of a model as the ledger says.

    Raises:
        StoreUnavailable: MLflow does not answer; the worker sets them later.
    """
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        project(ledger, open_store(settings), name)


def actor() -> str:
    """Who writes to the ledger: the account of this process, which no environment variable can rename."""
    import os
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


def examiner(settings: Settings, ledger: Ledger, store: Any) -> Examiner:
    """What looks at a version before it becomes champion, as configured."""
    from registry.promotion import Examiner
    from registry.signing import load_verifier

    trusted = tuple(load_verifier(key) for key in settings.signing.trusted)
    cache = settings.places.home / "cache" / "bundles"
    return Examiner(store, ledger, settings.policy, cache, trusted, settings.serving.allow_pickle)


def configured() -> Settings:
    """Settings of `perene.toml` and the environment."""
    from perene.config import load

    return load()
