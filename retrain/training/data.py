"""The rows a training run learns from and is judged on: a user's loader, or the lake's labelled predictions."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from monitoring.lake.lake import Lake
from registry.contract import Contract
from registry.errors import PereneError, TrainingFailed
from registry.loss import class_index
from retrain.places import Places
from retrain.settings import RetrainSettings
from retrain.training.code import function
from retrain.training.windows import Window

__all__ = ["digest", "load", "nulls_allowed", "part", "recorded"]


def load(settings: RetrainSettings, model: str, contract: Contract, span: Window, places: Places) -> pd.DataFrame:
    """Labelled rows of `span`: the contract's columns, the target and `_at`, in event order.

    Raises:
        TrainingFailed: the loader raised, a column is missing, nothing is there, or nothing is to be told apart.
    """
    frame = _loaded(settings.loader, span) if settings.loader else recorded(settings, contract, span, places)
    missing = [c for c in [*contract.names, settings.target, "_at"] if c not in frame.columns]
    if missing:
        raise TrainingFailed(
            f"the training data has no column '{missing[0]}'", where="loader", expected=", ".join(missing[:10])
        )
    try:
        at = pd.to_datetime(frame["_at"], utc=True).dt.as_unit("ns")  # days are counted from their integers
    except (ValueError, TypeError) as error:
        raise TrainingFailed("the column '_at' holds something that is no time", where="loader") from error
    keep = (at >= span.start) & (at < span.end) & frame[settings.target].notna()
    frame = frame.assign(_at=at)[keep.to_numpy()][[*contract.names, settings.target, "_at"]]
    if frame.empty:
        raise TrainingFailed("there are no labelled rows to learn from", where="loader")
    if contract.output.kind == "classification" and frame[settings.target].nunique() < 2:
        raise TrainingFailed(
            "the labels are all of one class", where="loader", expected="rows of two classes or more in the windows"
        )
    frame = frame.sort_values("_at", kind="stable").reset_index(drop=True)
    frame[settings.target] = frame[settings.target].infer_objects()  # no longer mixed with the rows without a label
    for column in contract.columns:
        # a window without nulls must not turn a float column into an integer one
        if column.dtype == "float" and not pd.api.types.is_float_dtype(frame[column.name]):
            frame[column.name] = frame[column.name].astype(np.float32)
    return frame


def _loaded(loader: str, span: Window) -> pd.DataFrame:
    load = function(loader)
    try:
        frame = load(span)
    except (PereneError, MemoryError):
        raise
    # it is the user's code: whatever it raises, the run failed; its text may hold values, the log has it all
    except Exception as error:
        raise TrainingFailed(
            f"the loader raised {type(error).__name__}", where=loader, hint="perene retrain log shows where"
        ) from error
    if not isinstance(frame, pd.DataFrame):
        raise TrainingFailed(f"the loader returned {type(frame).__name__}", where=loader, expected="a DataFrame")
    return frame


def recorded(settings: RetrainSettings, contract: Contract, span: Window, places: Places) -> pd.DataFrame:
    """What the lake has of `span`: predictions with the newest label of each, if it has one."""
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
