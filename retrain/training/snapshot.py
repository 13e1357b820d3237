"""The first step: the rows of a run, loaded once and kept as Parquet, so that every attempt learns from the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pandas as pd
import pyarrow as pa

from registry.contract import Contract
from registry.errors import TrainingFailed
from retrain.places import Places
from retrain.settings import RetrainSettings
from retrain.training import data
from retrain.training.code import code_digest
from retrain.training.kept import keep_file, kept_file
from retrain.training.spec import Spec, Step
from retrain.training.windows import Plan, plan

__all__ = ["FILE", "Snapshot", "take"]

FILE = "snapshot.parquet"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The labelled rows of all windows and the holdout, and what identifies them."""

    frame: pd.DataFrame
    laid: Plan
    digest: str
    """Of the rows."""
    code: str
    key: str
    """Two runs with the same one would do the same."""
    file: str | None
    """Of the Parquet file; None when these rows cannot be written as one."""


def take(
    spec: Spec, settings: RetrainSettings, contract: Contract, places: Places, folder: Path, step: Step
) -> Snapshot:
    """Load the run's rows, or read what an earlier attempt kept of them.

    Raises:
        TrainingFailed: the loader failed, or its rows cannot be learned from.
    """
    laid = plan(
        settings.windows, spec.now, holdout=settings.holdout, maturity=settings.maturity, drift_at=spec.drift_at
    )
    path = folder / FILE
    file = kept_file(path)
    resumed = file is not None
    if file is None:
        step("snapshot", {"from": laid.span.start.isoformat(), "to": laid.span.end.isoformat()})
        code = code_digest(settings.trainer, settings.loader, settings.search)
        frame = data.load(settings, spec.model, contract, laid.span, places)
        file = _keep(frame, path)
        frame = pd.read_parquet(path) if file is not None else frame
    else:
        code = code_digest(settings.trainer, settings.loader, settings.search)
        frame = pd.read_parquet(path)
    digest = data.digest(frame)
    taken = Snapshot(frame, laid, digest, code, key_of(spec, laid, digest, code), file)
    facts = {"rows": len(frame), "holdout_rows": len(data.part(frame, laid.holdout)), "digest": digest}
    step("snapshot", {**facts, "file": file, "code": code, "key": taken.key, "resumed": resumed})
    return taken


def key_of(spec: Spec, laid: Plan, digest: str, code: str) -> str:
    """The idempotency key: model, trigger, windows, rows, code; and the settings, which are the user's code too."""
    windows = [(w.name, w.window.start, w.window.end) for w in laid.train] + [("holdout", laid.holdout)]
    what = [spec.model, spec.reason, spec.champion, spec.former, windows, digest, code, spec.settings]
    return hashlib.sha256(msgspec.json.encode(what, order="deterministic")).hexdigest()


def _keep(frame: pd.DataFrame, path: Path) -> str | None:
    scratch = path.with_name(path.name + ".partial")
    try:
        frame.to_parquet(scratch, index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return None  # a column of mixed objects: such a run begins anew after a crash
    except OSError as error:
        raise TrainingFailed(
            f"the snapshot cannot be written: {error.strerror or type(error).__name__}",
            where="runs folder",
            hint="make room on the worker's disk",
        ) from error
    return keep_file(scratch, path)
