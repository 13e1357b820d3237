"""`log_model`: from a fitted estimator to a certified, registered version in one call."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from registry.archive import FOLDER, archive
from registry.baseline import build_baseline
from registry.bundle import Bundle, read_bundle, seal
from registry.card import card_facts, render_card
from registry.contract import Contract, Policy
from registry.convert import Progress, Runtime, convert
from registry.errors import ContractViolation, PereneError
from registry.estimate import build_estimate
from registry.facts import Facts
from registry.golden import golden_rows, write_golden
from registry.infer import check_holdout, infer_contract
from registry.leakage import check_leakage
from registry.lineage import algorithm, environment
from registry.loss import bounded_loss, class_index
from registry.original import Answers, predict_original
from registry.parity import MAX_ROWS, answers, probabilities
from registry.reference import build_reference
from registry.sandbox import check_in_child
from registry.tensors import pack_frame
from registry.truth import checked_labels
from registry.version import ModelVersion

if TYPE_CHECKING:
    from registry.mlflow_store import Store

__all__ = ["Facts", "ModelVersion", "Progress", "build_bundle", "log_model"]

Holdout = tuple[pd.DataFrame, Any]


def build_bundle(
    estimator: Any,
    X: pd.DataFrame,
    y: Any = None,
    *,
    name: str,
    to: Path,
    holdout: Holdout | None = None,
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
        y: their labels; with `holdout` absent they also make the reference's quality. Without any (clusters,
            outliers, rows not labelled yet) the version has no quality to compare with.
        holdout: features and labels the estimator was not fitted on: reference and quality come from them.
        policies: columns whose values the event log hashes or drops.
        runtime, allow_pickle: as for `registry.convert.convert`.

    Raises:
        ContractViolation: X or y cannot be served from.
        ConversionRefused: there is no graph, or it answers otherwise than the estimator.
    """
    facts = facts or Facts()
    contract = infer_contract(estimator, X, name, policies=policies)
    X = X.reset_index(drop=True)
    checked_labels(contract.output, y, len(X))
    base, of = (X, "y") if holdout is None else (holdout[0], "the holdout's y")
    if holdout is not None:
        check_holdout(contract, base)
        base = base.reset_index(drop=True)
    labels = checked_labels(contract.output, y if holdout is None else holdout[1], len(base), of=of)
    _require_answers(estimator, contract, X)
    progress("contract", f"{len(contract.columns)} columns, {contract.output.kind}")
    made = convert(estimator, contract, X, runtime=runtime, allow_pickle=allow_pickle, progress=progress)
    contract, certificate = made.contract, made.certificate
    rows = golden_rows(contract, X)
    with made.opened(allow_pickle=allow_pickle) as run:
        served = answers(contract, run(pack_frame(contract, base[contract.names])))
        golden = answers(contract, run(pack_frame(contract, rows)))
    reference = _reference(contract, served, base[contract.names], labels, facts)
    quality = reference["quality"]
    measured = f"{quality['metric']} {quality['value']:.4g}" if quality["value"] is not None else "no labels"
    progress("reference", f"{reference['rows']} rows, {measured}")
    validation = "none" if labels is None else "holdout" if holdout is not None else "the training rows themselves"
    made_of = {**_made(estimator, X[contract.names], facts), "validation": validation}
    card = card_facts(contract, certificate, reference, facts, made_of)
    to.mkdir(parents=True)
    (to / made.file).write_bytes(made.data)
    _write_json(to / "contract.json", contract.to_dict())
    _write_json(to / "certificate.json", certificate)
    _write_json(to / "reference.json", reference)
    _write_json(to / "card.json", card)
    write_golden(rows, golden, to / "golden.parquet")
    (to / "card.md").write_text(render_card(card), encoding="utf-8")
    seal(to)
    check_in_child(to, allow_pickle=allow_pickle)
    progress("golden rows", "same answers in a child with limits")
    return read_bundle(to)


def log_model(
    estimator: Any,
    X: pd.DataFrame,
    y: Any = None,
    *,
    name: str,
    store: Store,
    holdout: Holdout | None = None,
    facts: Facts | None = None,
    policies: Mapping[str, Policy] | None = None,
    runtime: Runtime = "auto",
    allow_pickle: bool = False,
    tags: Mapping[str, str] | None = None,
    progress: Progress = lambda step, found: None,
) -> ModelVersion:
    """Build the bundle and register it in MLflow; nothing is registered unless every step before succeeded.

    Arguments and errors as for `build_bundle`; a column that gives the label away is refused too, unless
    `facts.leakage_ok` names it.
    """
    output = infer_contract(estimator, X, name, policies=policies).output
    labels = checked_labels(output, y, len(X))
    check_leakage(X, labels, output, (facts or Facts()).leakage_ok)
    with tempfile.TemporaryDirectory(prefix="perene-") as scratch:
        bundle = build_bundle(
            estimator,
            X,
            y,
            name=name,
            to=Path(scratch) / "bundle",
            holdout=holdout,
            facts=facts,
            policies=policies,
            runtime=runtime,
            allow_pickle=allow_pickle,
            progress=progress,
        )
        original = archive(estimator, Path(scratch) / FOLDER)
        version = store.register(bundle.path, name, tags=tags, original=original)
        progress("version", f"{name} version {version}")
        return ModelVersion.of(version, bundle, digest=store.digest(name, version))


def _require_answers(estimator: Any, contract: Contract, X: pd.DataFrame) -> None:
    """Ask the estimator itself first: what it cannot answer is no fault of a conversion."""
    rows = X.sample(MAX_ROWS, random_state=0) if len(X) > MAX_ROWS else X
    try:
        predict_original(estimator, contract, rows)
    except PereneError:
        raise
    # it is the caller's code: whatever it raises is an answer to the caller, without its text, which may hold values
    except Exception as error:
        raise ContractViolation(
            f"the estimator does not answer the rows of X: {type(error).__name__}",
            where="X",
            expected="rows in the form that it was fitted on",
            hint="see the error before this one; estimator.predict(X) shows it",
        ) from error


def _reference(
    contract: Contract, served: Answers, frame: pd.DataFrame, labels: npt.NDArray[Any] | None, facts: Facts
) -> dict[str, Any]:
    predicted = probabilities(contract, served)
    baseline = build_baseline(contract, served, labels, frame, slices=facts.slices, metrics=facts.metrics)
    figures = {name: m["value"] for name, m in baseline["metrics"].items() if m["value"] is not None}
    regression = contract.output.kind == "regression"
    if not regression and labels is not None:
        # of a classifier without probabilities too, so that the monitor compares like with like
        own = predicted[np.arange(len(predicted)), class_index(contract.output, labels)]
        figures["log_loss"] = float(-np.log(np.clip(own, 1e-7, 1.0)).mean())
    # without labels the loss still needs a scale, for those that feedback will bring
    spread = float(np.abs(predicted[:, 0] - predicted[:, 0].mean()).mean())
    cap = (facts.cap or 4.0 * max(figures.get("mae", spread), 1e-9)) if regression else 1.0
    losses = bounded_loss(contract.output, predicted, labels, cap) if labels is not None else np.zeros(0)
    score = predicted[:, 0] if regression else predicted
    window = facts.window or (None, None)
    kept = figures if labels is not None else {}
    at = None if facts.at is None else _seconds(facts.at, len(frame))
    reference = build_reference(contract, frame, score, losses, cap, kept, window=window, at=at)
    if labels is not None:
        index = class_index(contract.output, labels) if not regression else labels
        learnt = build_estimate(contract.output, reference, frame, predicted, index, losses)
        reference |= {"estimate": learnt} if learnt is not None else {}
    return reference | {"baseline": baseline}


def _seconds(at: Any, rows: int) -> npt.NDArray[np.float64]:
    """Event times of the reference's rows as unix seconds."""
    times = pd.to_datetime(pd.Series(list(at)), utc=True)
    if len(times) != rows or times.isna().any():
        raise ContractViolation(
            "the event times do not fit the reference's rows",
            where="Facts.at",
            expected=f"{rows} times",
            got=f"{len(times)}, {int(times.isna().sum())} of them none",
        )
    return np.asarray(times.dt.as_unit("us").astype("int64").to_numpy() / 1e6, np.float64)


def _made(estimator: Any, X: pd.DataFrame, facts: Facts) -> dict[str, Any]:
    digest = hashlib.sha256(pd.util.hash_pandas_object(X, index=False).to_numpy().tobytes()).hexdigest()
    start, end = facts.window or (None, None)
    return {
        "algorithm": algorithm(estimator),
        "training": {
            "rows": facts.training_rows or len(X),
            "columns": len(X.columns),
            "digest": digest,
            "window": {"start": start, "end": end},
        },
        "environment": environment(estimator),
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
