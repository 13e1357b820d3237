"""`perene log`: train with the function that `perene.toml` names, certify, register."""

from __future__ import annotations

import importlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perene.config import Settings
from registry.errors import ConfigInvalid, TrainingFailed
from registry.log import Facts, ModelVersion, Progress

if TYPE_CHECKING:
    import pandas as pd

HOLDOUT_SHARE = 0.2
"""The newest share of the rows is kept back: reference and quality come from it."""


def train_and_log(settings: Settings, name: str, start: datetime, end: datetime, *, progress: Progress) -> ModelVersion:
    """Load rows of [start, end), fit on the older 80 %, certify and register.

    Raises:
        ConfigInvalid: `perene.toml` names no trainer or loader for the model, or they cannot be imported.
        TrainingFailed: the loader or the trainer gave something else than promised.
    """
    from perene.api import log_model
    from retrain.training.windows import Window

    model = settings.models.get(name)
    if model is None or model.retrain is None or model.retrain.loader is None:
        raise ConfigInvalid(
            f"perene.toml names no trainer and loader for '{name}'",
            where=f"models.{name}.retrain",
            hint="add trainer, loader and target there, or call perene.log_model from Python",
        )
    plan = model.retrain
    frame = resolve(plan.loader or "")(Window(start, end))
    if len(frame) < 100:
        raise TrainingFailed(f"the loader of '{name}' gave {len(frame)} rows", expected="100 or more")
    progress("data", f"{len(frame):,} rows from {start:%Y-%m-%d} to {end:%Y-%m-%d}")
    features, target = _split(frame, plan.target)
    cut = int(len(frame) * (1 - HOLDOUT_SHARE))
    older, newer = features.iloc[:cut], features.iloc[cut:]
    estimator = resolve(plan.trainer)(older.assign(**{plan.target: target.iloc[:cut]}))
    progress("training", f"{type(estimator).__name__} on {cut:,} rows")
    facts = Facts(window=(start.date().isoformat(), end.date().isoformat()), training_rows=cut)
    return log_model(
        estimator,
        older,
        target.iloc[:cut].to_numpy(),
        name=name,
        holdout=(newer, target.iloc[cut:].to_numpy()),
        facts=facts,
        settings=settings,
        progress=progress,
    )


def resolve(path: str) -> Any:
    """The function that `module:function` names, found from the working directory too.

    Raises:
        ConfigInvalid: there is no such module or function.
    """
    module, _, function = path.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigInvalid(
            f"cannot import '{path}'", where=path, expected="module:function", hint=str(error)
        ) from error


def day(text: str) -> datetime:
    """A date, or date and time, as UTC.

    Raises:
        ConfigInvalid: it is not in ISO form, or centuries away: nothing could be counted from it.
    """
    try:
        moment = datetime.fromisoformat(text)
        if not 1900 <= moment.year < 2200:
            raise ConfigInvalid("a date is too far away", expected="a year from 1900 to 2199", got=str(moment.year))
    except ValueError as error:
        raise ConfigInvalid("a date is in ISO form", expected="2013-01-31", hint="write year-month-day") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _split(frame: pd.DataFrame, target: str) -> tuple[pd.DataFrame, pd.Series[Any]]:
    if target not in frame.columns:
        raise TrainingFailed(f"the loader gave no column '{target}'", expected=f"features and '{target}'")
    if "_at" in frame.columns:
        frame = frame.sort_values("_at", kind="stable")
    features = [c for c in frame.columns if c != target and not str(c).startswith("_")]
    return frame[features].reset_index(drop=True), frame[target].reset_index(drop=True)
