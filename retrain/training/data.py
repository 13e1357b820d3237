"""The rows a training run learns from and is judged on: a user's loader, or the lake's labelled predictions."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from monitoring.lake.lake import Lake
from registry.contract import Contract
from registry.errors import ConfigInvalid, TrainingFailed
from registry.loss import class_index
from retrain.places import Places
from retrain.settings import RetrainSettings
from retrain.training.windows import Window

__all__ = ["digest", "function", "load", "nulls_allowed", "part"]


def function(reference: str) -> Callable[[Any], Any]:
    """The user's function named `module:function`.

    Raises:
        ConfigInvalid: there is no such module or function.
    """
    module, _, name = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigInvalid(
            f"'{reference}' cannot be imported: {type(error).__name__}",
            where="trainer or loader",
            expected="module:function on the worker's import path",
            hint="start the worker in the folder that holds the module",
        ) from error
    made: Callable[[Any], Any] = found
    return made


def load(settings: RetrainSettings, model: str, contract: Contract, span: Window, places: Places) -> pd.DataFrame:
    """Labelled rows of `span`: the contract's columns, the target and `_at`, in event order.

    Raises:
        TrainingFailed: a column is missing, or nothing is there.
    """
    frame = function(settings.loader)(span) if settings.loader else _from_lake(settings, contract, span, places)
    missing = [c for c in [*contract.names, settings.target, "_at"] if c not in frame.columns]
    if missing:
        raise TrainingFailed(
            f"the training data has no column '{missing[0]}'", where="loader", expected=", ".join(missing[:10])
        )
    at = pd.to_datetime(frame["_at"], utc=True)
    keep = (at >= span.start) & (at < span.end) & frame[settings.target].notna()
    frame = frame.assign(_at=at)[keep.to_numpy()][[*contract.names, settings.target, "_at"]]
    if frame.empty:
        raise TrainingFailed("there are no labelled rows to learn from", where="loader")
    frame = frame.sort_values("_at", kind="stable").reset_index(drop=True)
    frame[settings.target] = frame[settings.target].infer_objects()  # no longer mixed with the rows without a label
    for column in contract.columns:
        # a window without nulls must not turn a float column into an integer one
        if column.dtype == "float" and not pd.api.types.is_float_dtype(frame[column.name]):
            frame[column.name] = frame[column.name].astype(np.float32)
    return frame


def _from_lake(settings: RetrainSettings, contract: Contract, span: Window, places: Places) -> pd.DataFrame:
    table = Lake(places.lake).joined(contract.model, since=span.start, until=span.end)
    frame: pd.DataFrame = table.to_pandas()
    if contract.output.kind == "classification":  # the lake keeps class labels as text
        classes = np.array([*contract.output.classes, None], dtype=object)
        frame["_label"] = classes[class_index(contract.output, frame["_label"])]
    return frame.rename(columns={"_label": settings.target})


def part(frame: pd.DataFrame, window: Window) -> pd.DataFrame:
    """The rows of one window."""
    return frame[((frame["_at"] >= window.start) & (frame["_at"] < window.end)).to_numpy()]


def nulls_allowed(contract: Contract, features: pd.DataFrame) -> pd.DataFrame:
    """`features` plus one row that is null wherever the champion accepts null but these rows happen to have none.

    Callers may send null there; the successor's contract is inferred from rows, and its certificate must cover it.
    """
    late = [c.name for c in contract.columns if c.nullable and not features[c.name].isna().any()]
    if not late:
        return features
    extended = features.iloc[[*range(len(features)), -1]].reset_index(drop=True)
    for name in late:
        extended.loc[len(features), name] = None if features[name].dtype == object else np.nan
    return extended


def digest(frame: pd.DataFrame) -> str:
    """sha256 of the rows, for the record of what was learned from."""
    hashes = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    return hashlib.sha256(hashes.tobytes()).hexdigest()
