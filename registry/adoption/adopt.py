"""`adopt`: a certified version out of one that people logged with plain MLflow.

MLflow's artifacts are immutable and its versions are other people's: nothing is changed or attached. The bundle
becomes a new version of the same model, tagged `perene.adopted_from` with the number of the old one.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from registry.adoption.child_work import require_plain, run_child
from registry.adoption.flavours import check_pickle, choose
from registry.bundle import read_bundle
from registry.contract import Policy
from registry.convert import Progress, Runtime
from registry.errors import ContractViolation, ModelUnknown
from registry.facts import Facts
from registry.names import check_name
from registry.sandbox import check_in_child
from registry.version import ModelVersion

if TYPE_CHECKING:
    from registry.mlflow_store import Store

ADOPTED_TAG: Final = "perene.adopted_from"
LEAST_ROWS: Final = 1_000
SECONDS: Final = 900.0
_URI: Final = re.compile(r"models:/([^/@]+)(?:/(\d+)|@([^/]+))\Z")


def adopt(
    uri: str,
    X: pd.DataFrame | None = None,
    y: Any = None,
    *,
    store: Store,
    facts: Facts | None = None,
    policies: Mapping[str, Policy] | None = None,
    runtime: Runtime = "auto",
    allow_pickle: bool = False,
    progress: Progress = lambda step, found: None,
) -> ModelVersion:
    """Certify the estimator in a plain MLflow version and register it as a new version of the same model.

    The estimator is loaded, converted and compared in a child that has no network, may write only to a folder of
    its own and dies with this call; this process reads only the bundle that comes out, and has it checked like any
    other. The child can still read what this user can.

    Args:
        uri: `models:/churn/3` or `models:/churn@alias`.
        X: real rows, 1,000 or more; by default the version's own input example, if it is that long.
        y: their labels.
        facts, policies, runtime: as for `log_model`; metrics that are functions stay behind.
        allow_pickle: whether code of whoever logged it may run: to load it, and in its native process.

    Raises:
        VersionUnknown, ModelUnknown: there is no such version.
        NotAllowed: it is a pickle, and those are not allowed.
        ContractViolation: there are no rows to compare on, or they do not fit.
        ConversionRefused: it holds no estimator, or no form answers as it does; nothing was registered.
        StoreUnavailable: MLflow does not answer.
    """
    name, version = resolve(uri, store)
    with tempfile.TemporaryDirectory(prefix="perene-adopt-") as scratch:
        folder = Path(scratch).resolve()
        model, flavours, example = store.fetch(name, version, folder / "model")
        check_pickle(flavours, allow_pickle=allow_pickle)
        progress("version", f"{name} version {version}, a {choose(flavours)} model of MLflow")
        rows = _rows(X, example)
        write_rows(folder, rows, y)
        known = facts or Facts()
        lineage = {**known.lineage, "adopted from": f"version {version} of {name}"}
        job = {
            "work": "adopt",
            "name": name,
            "model": str(model),
            "flavours": flavours,
            "facts": _plain(known) | {"lineage": lineage},
            "policies": dict(policies or {}),
            "runtime": runtime,
            "allow_pickle": allow_pickle,
        }
        (folder / "job.json").write_text(json.dumps(job, default=str))
        run_child(folder, seconds=SECONDS, progress=progress, need_isolation=allow_pickle)
        # what the child left is a stranger's: it is judged as a stranger's
        made, original = folder / "bundle", folder / "original"
        require_plain(made)
        require_plain(original)
        check_in_child(made, allow_pickle=allow_pickle)
        bundle = read_bundle(made)
        if bundle.contract.model != name:
            raise ContractViolation("the child made a bundle of another model", where="contract.json")
        number = store.register(
            made, name, tags={ADOPTED_TAG: str(version)}, original=original if original.is_dir() else None
        )
        progress("version", f"{name} version {number}, adopted from version {version}")
        return ModelVersion.of(number, bundle, digest=store.digest(name, number))


def resolve(uri: str, store: Store) -> tuple[str, int]:
    """Name and version of `models:/name/3` or `models:/name@alias`.

    Raises:
        ContractViolation: it is neither.
        ModelUnknown: the model has no such alias.
    """
    found = _URI.match(uri)
    if found is None:
        raise ContractViolation(
            "not the address of a model version", where="uri", expected="models:/churn/3 or models:/churn@champion"
        )
    name = check_name(found[1])
    if found[2]:
        return name, int(found[2])
    version = store.aliases(name).get(found[3])
    if version is None:
        raise ModelUnknown(f"'{name}' has no alias '{found[3]}'", where="uri", hint=f"perene models {name}")
    return name, version


def write_rows(folder: Path, X: pd.DataFrame, y: Any) -> None:
    """Rows and labels as files for a child: Parquet keeps what pandas knows of their types."""
    if not all(isinstance(name, str) for name in X.columns):
        raise ContractViolation("every column of X needs a name", where="X", hint="pandas.DataFrame(X, columns=[...])")
    X.reset_index(drop=True).to_parquet(folder / "rows.parquet", index=False)
    if y is not None:
        labels = pd.DataFrame(y.to_numpy() if hasattr(y, "to_numpy") else y)
        labels.columns = [str(n) for n in range(len(labels.columns))]
        labels.to_parquet(folder / "labels.parquet", index=False)


def _rows(X: pd.DataFrame | None, example: pd.DataFrame | None) -> pd.DataFrame:
    if X is not None:
        return X
    if example is not None and len(example) >= LEAST_ROWS:
        return example
    count = 0 if example is None else len(example)
    raise ContractViolation(
        f"the version's own input example has {count} rows, too few to compare on",
        where="X",
        expected=f"{LEAST_ROWS:,} real rows or more",
        hint="pass X (--rows FILE)",
    )


def _plain(facts: Facts) -> dict[str, Any]:
    """Facts as JSON: a metric that is a function does not reach the child."""
    found = asdict(facts)
    found["metrics"] = {name: value for name, value in facts.metrics.items() if not callable(value)}
    return found
