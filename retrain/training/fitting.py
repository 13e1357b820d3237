"""The second step: one estimator for each window, kept as soon as it is fitted."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import joblib
import pandas as pd

from registry.errors import PereneError, TrainingFailed
from retrain.settings import RetrainSettings
from retrain.training import data
from retrain.training.code import function
from retrain.training.kept import keep, kept_own
from retrain.training.snapshot import Snapshot
from retrain.training.spec import Step

__all__ = ["Fitted", "fit", "fitted"]


@dataclass(frozen=True, eq=False)
class Fitted:
    """One window's rows and the estimator that learned from them."""

    name: str
    rows: pd.DataFrame
    estimator: Any


def fitted(
    settings: RetrainSettings, snapshot: Snapshot, folder: Path, step: Step, params: Mapping[str, Any] | None = None
) -> Iterator[Fitted]:
    """An estimator for every window with enough rows; what an earlier attempt kept is not fitted again.

    Raises:
        TrainingFailed: the trainer failed.
        StoreUnavailable: the cluster that is to train does not answer.
    """
    missing: dict[str, tuple[pd.DataFrame, Path]] = {}
    for number, named in enumerate(snapshot.laid.train):
        rows = data.part(snapshot.frame, named.window)
        if len(rows) > settings.max_rows:
            rows = rows.sample(settings.max_rows, random_state=settings.seed).sort_values("_at", kind="stable")
        if len(rows) < settings.min_labels:
            continue
        path = folder / "fitted" / f"{number}.joblib"
        found = kept_own(path)
        if found is None:
            missing[named.name] = rows, path
            continue
        step("train", {"window": named.name, "rows": len(rows), "resumed": True})
        yield Fitted(named.name, rows, joblib.load(BytesIO(found)))
    for name, estimator in _engine(settings, {n: rows for n, (rows, _) in missing.items()}, step, params or {}):
        rows, path = missing[name]
        _keep(estimator, path)
        yield Fitted(name, rows, estimator)


def _engine(
    settings: RetrainSettings, rows: Mapping[str, pd.DataFrame], step: Step, params: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Estimators as they come: one after the other in this process, or from a cluster."""
    if settings.engine == "ray":
        from retrain.training.ray_engine import fitted_on

        for name, frame in rows.items():
            step("train", {"window": name, "rows": len(frame), "engine": "ray"})
        yield from fitted_on(
            settings.ray_address,
            rows,
            partial(fit, settings.trainer, params=dict(params)),
            memory_mb=settings.training_memory_mb,
            seconds=settings.training_timeout_s,
        )
        return
    for name, frame in rows.items():
        step("train", {"window": name, "rows": len(frame)})
        yield name, fit(settings.trainer, frame, params)


def fit(trainer: str, rows: pd.DataFrame, params: Mapping[str, Any] | None = None) -> Any:
    """Call the user's trainer on rows without their times.

    Raises:
        TrainingFailed: it raised.
    """
    train = function(trainer)
    try:
        estimator = train(rows.drop(columns="_at"), **(params or {}))
    except (PereneError, MemoryError):
        raise
    # it is the user's code: whatever it raises, the run failed; its text may hold values, the log has it all
    except Exception as error:
        raise TrainingFailed(
            f"the trainer raised {type(error).__name__}", where=trainer, hint="perene retrain log shows where"
        ) from error
    return estimator


def _keep(estimator: Any, path: Path) -> None:
    buffer = BytesIO()
    try:
        joblib.dump(estimator, buffer)
    except (pickle.PicklingError, AttributeError, TypeError):
        return  # a lambda inside it: after a crash this window is fitted again
    keep(path, buffer.getvalue())
