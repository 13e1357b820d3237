"""The public Python calls about versions that exist: adopt one of plain MLflow, certify one again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from perene.api import actor, configured, open_store
from registry import approvals
from registry.ledger import Ledger

if TYPE_CHECKING:
    import pandas as pd

    from perene.config import Settings
    from registry.contract import Policy
    from registry.convert import Progress, Runtime
    from registry.facts import Facts
    from registry.version import ModelVersion


def adopt(
    uri: str,
    X: pd.DataFrame | None = None,
    y: Any = None,
    *,
    facts: Facts | None = None,
    policies: Mapping[str, Policy] | None = None,
    runtime: Runtime = "auto",
    allow_pickle: bool = False,
    settings: Settings | None = None,
    progress: Progress = lambda step, found: None,
) -> ModelVersion:
    """Certify a version that was logged with plain MLflow, and register the result as a new version of that model.

    The old version stays as it is (MLflow's artifacts are immutable); the new one carries its number in the tag
    `perene.adopted_from`. Nothing is deployed. The model is loaded in a child without network that may write only to
    a folder of its own; reading is what this user may read.

    Args:
        uri: `models:/churn/3` or `models:/churn@alias`.
        X: real rows, 1,000 or more; by default the version's own input example, if it is that long.
        y: their labels.
        facts, policies, runtime: as for `log_model`.
        allow_pickle: whether code of whoever logged it may run; needed for pickles, which MLflow often keeps.
        settings: where the stores are; by default from `perene.toml` and the environment.
        progress: called with each step's name and finding.

    Raises:
        VersionUnknown, ModelUnknown: there is no such version.
        NotAllowed: it is a pickle, and `allow_pickle` is not said.
        ContractViolation, ConversionRefused: it cannot be served; nothing was registered.
        StoreUnavailable: a store does not answer.
    """
    from registry.adoption.adopt import adopt as take_in

    settings = settings or configured()
    store = open_store(settings)
    made = take_in(
        uri,
        X,
        y,
        store=store,
        facts=facts,
        policies=policies,
        runtime=runtime,
        allow_pickle=allow_pickle,
        progress=progress,
    )
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        approvals.record(ledger, made.model, made.version, kind="registered", actor=actor(), digest=made.digest)
    return made


def certify(
    name: str,
    version: int | None = None,
    *,
    rows: pd.DataFrame | None = None,
    allow_pickle: bool = False,
    settings: Settings | None = None,
    progress: Progress = lambda step, found: None,
) -> dict[str, Any]:
    """Repeat what a version's certificate rests on: its golden rows; with `rows`, the comparison with the original.

    Args:
        name: the model.
        version: by default the champion.
        rows: real rows; without them, or where no original was kept, only the golden rows are run again.
        allow_pickle: whether a pickle may be loaded: the native model, or the original that is compared with.
        settings: where the stores are; by default from `perene.toml` and the environment.
        progress: called with each step's name and finding.

    Returns:
        `verdict` (`exact`, `close`, `refused`), what it rests on in `checked`, and the certificate's figures.

    Raises:
        ModelUnknown, VersionUnknown: there is no such version.
        NotAllowed: a pickle would have to be loaded.
        StoreUnavailable: a store does not answer.
    """
    from registry.adoption.recertify import certify as check
    from registry.errors import ModelUnknown

    settings = settings or configured()
    if version is None:
        with closing(Ledger.open(settings.places.ledger_url)) as ledger:
            deployment = ledger.deployment(name)
        if deployment is None:
            raise ModelUnknown(f"'{name}' is not deployed", where="name", hint="name a version: --version 3")
        version = deployment.champion
    store = open_store(settings)
    return check(name, version, rows=rows, store=store, allow_pickle=allow_pickle, progress=progress)
