"""`log_model`: from a fitted estimator to a certified, registered version in one call."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from registry.bundle import Bundle, read_bundle, seal
from registry.card import render_card
from registry.contract import Contract, Policy
from registry.convert import Progress, Runtime, convert
from registry.errors import ContractViolation
from registry.golden import write_golden
from registry.infer import infer_contract
from registry.loss import bounded_loss
from registry.original import Answers
from registry.parity import answers, probabilities
from registry.reference import build_reference
from registry.run import opened
from registry.sandbox import check_in_child
from registry.tensors import pack_frame

if TYPE_CHECKING:
    from registry.mlflow_store import Store


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A registered version and its certificate."""

    model: str
    version: int
    digest: str
    verdict: str
    certificate: dict[str, Any]

    def _repr_html_(self) -> str:
        c = self.certificate
        return (
            f"<b>{self.model}</b> version {self.version} · certificate <b>{self.verdict}</b> · "
            f"{c['rows']} rows, largest difference {c['max_difference']:.2g}, one row {c['single_row_us']:.0f} µs"
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a version beside its estimator: goes to the card, the reference and the run's tags.

    `cap` is the error, in units of y, at which a regression's loss saturates; by default four times the mean
    absolute error. `window` is the span of training data as ISO dates.
    """

    owner: str = ""
    purpose: str = ""
    window: tuple[str, str] | None = None
    training_rows: int | None = None
    cap: float | None = None


def build_bundle(
    estimator: Any,
    X: pd.DataFrame,
    y: Any,
    *,
    name: str,
    to: Path,
    holdout: tuple[pd.DataFrame, Any] | None = None,
    facts: Facts | None = None,
    policies: Mapping[str, Policy] | None = None,
    runtime: Runtime = "auto",
    allow_pickle: bool = False,
    progress: Progress = lambda step, found: None,
) -> Bundle:
    """Contract, graph, certificate, golden rows, reference and card of `estimator`, sealed in the new folder `to`.

    Args:
        estimator: fitted on columns like those of `X`.
        X: real rows of features, 1,000 or more for a certificate worth its name.
        y: their labels; with `holdout` absent they also make the reference's quality.
        holdout: features and labels the estimator was not fitted on: reference and quality come from them.
        policies: columns whose values the event log hashes or drops.
        runtime, allow_pickle: as for `registry.convert.convert`.

    Raises:
        ContractViolation: X or y cannot be served from.
        ConversionRefused: there is no graph, or it answers otherwise than the estimator.
    """
    facts = facts or Facts()
    contract = infer_contract(estimator, X, name, policies=policies)
    progress("contract", f"{len(contract.columns)} columns, {contract.output.kind}")
    made = convert(estimator, contract, X, runtime=runtime, allow_pickle=allow_pickle, progress=progress)
    contract, certificate = made.contract, made.certificate
    base, labels = holdout if holdout is not None else (X, y)
    rows = X[contract.names].head(10_000)
    with opened(contract, made.file, made.data, allow_pickle=allow_pickle) as run:
        served = answers(contract, run(pack_frame(contract, base[contract.names])))
        golden = answers(contract, run(pack_frame(contract, rows)))
    reference = _reference(contract, served, base[contract.names], np.asarray(labels), facts)
    reference["window"] = dict(zip(("start", "end"), facts.window or (None, None), strict=True))
    progress(
        "reference",
        f"{reference['rows']} rows, {reference['quality']['metric']} {reference['quality']['value']:.4g}",
    )
    to.mkdir(parents=True)
    (to / made.file).write_bytes(made.data)
    _write_json(to / "contract.json", contract.to_dict())
    _write_json(to / "certificate.json", certificate)
    _write_json(to / "reference.json", reference)
    write_golden(contract, rows, golden, to / "golden.parquet")
    (to / "card.md").write_text(render_card(contract, certificate, reference, _lines(estimator, X, facts, holdout)))
    seal(to)
    check_in_child(to)
    progress("golden rows", "same answers in a child with limits")
    return read_bundle(to)


def log_model(
    estimator: Any,
    X: pd.DataFrame,
    y: Any,
    *,
    name: str,
    store: Store,
    holdout: tuple[pd.DataFrame, Any] | None = None,
    facts: Facts | None = None,
    policies: Mapping[str, Policy] | None = None,
    runtime: Runtime = "auto",
    allow_pickle: bool = False,
    tags: Mapping[str, str] | None = None,
    progress: Progress = lambda step, found: None,
) -> ModelVersion:
    """Build the bundle and register it in MLflow; nothing is registered unless every step before succeeded.

    Arguments and errors as for `build_bundle`.
    """
    with tempfile.TemporaryDirectory(prefix="perene-") as scratch:
        folder = Path(scratch) / "bundle"
        bundle = build_bundle(
            estimator,
            X,
            y,
            name=name,
            to=folder,
            holdout=holdout,
            facts=facts,
            policies=policies,
            runtime=runtime,
            allow_pickle=allow_pickle,
            progress=progress,
        )
        quality = bundle.reference["quality"]
        version = store.register(
            folder,
            name,
            tags=tags,
            params={"algorithm": _algorithm(estimator), "columns": len(bundle.contract.columns)},
            metrics={quality["metric"]: quality["value"], "loss": quality["loss"]},
        )
        progress("version", f"{name} version {version}")
        return ModelVersion(name, version, bundle.digest, bundle.certificate["verdict"], bundle.certificate)


def _reference(
    contract: Contract, served: Answers, frame: pd.DataFrame, labels: npt.NDArray[Any], facts: Facts
) -> dict[str, Any]:
    if len(frame) != len(labels):
        raise ContractViolation("X and y have different lengths", expected=f"{len(frame)} labels")
    predicted = probabilities(contract, served)
    if contract.output.kind == "regression":
        truth = labels.astype(np.float64)
        if not np.isfinite(truth).all():
            raise ContractViolation("y holds values that are not finite numbers", hint="drop those rows")
        error = np.abs(predicted[:, 0] - (truth[:, 0] if truth.ndim == 2 else truth))
        metric, value = "mae", float(error.mean())
        cap = facts.cap or 4.0 * max(value, 1e-9)
        score = predicted[:, 0]
    else:
        classes = list(contract.output.classes)
        if not set(np.unique(labels).tolist()) <= set(classes):
            raise ContractViolation("y holds labels that the estimator does not know", where="y")
        chosen = predicted[np.arange(len(labels)), [classes.index(v) for v in labels.tolist()]]
        metric, value = "log_loss", float(-np.log(np.clip(chosen, 1e-7, 1.0)).mean())
        cap = 1.0
        score = predicted[:, -1]
    losses = bounded_loss(contract.output, predicted, labels, cap)
    return build_reference(contract, frame, score, losses, cap, {metric: value})


def _lines(estimator: Any, X: pd.DataFrame, facts: Facts, holdout: tuple[pd.DataFrame, Any] | None) -> dict[str, str]:
    digest = hashlib.sha256(pd.util.hash_pandas_object(X, index=False).to_numpy().tobytes()).hexdigest()
    return {
        "purpose": facts.purpose,
        "owner": facts.owner,
        "algorithm": _algorithm(estimator),
        "training window": " to ".join(facts.window) if facts.window else "",
        "training rows": f"{facts.training_rows or len(X):,}",
        "digest of the rows": digest,
        "validation": "holdout" if holdout is not None else "the training rows themselves",
    }


def _algorithm(estimator: Any) -> str:
    steps = getattr(estimator, "steps", None)
    return " → ".join(type(step).__name__ for _, step in steps) if steps else type(estimator).__name__


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")
