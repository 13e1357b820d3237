"""How sure one may be of a trained version's loss: folds in the order of time, and a bootstrap of the holdout's days.

No gate looks at these figures. They are logged with the version, for people who compare runs.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from registry.bundle import Bundle, read_bundle
from registry.errors import TrainingFailed
from retrain.places import Places
from retrain.settings import RetrainSettings
from retrain.training import data, select
from retrain.training.bundling import of_version
from retrain.training.fitting import fit
from retrain.training.kept import keep, kept
from retrain.training.snapshot import take
from retrain.training.spec import Result, Spec, Step

__all__ = ["bootstrap", "cut", "validated"]

ROWS: Final = 20_000
"""That a fold learns from at most: these figures are to tell much, and not to cost more than the training."""
RESAMPLES: Final = 1_000
Floats = NDArray[np.float64]


def validated(spec: Spec, places: Places, folder: Path, result: Result, step: Step) -> dict[str, float]:
    """Figures of the winner, by name; what an earlier attempt found is read again."""
    found = kept(folder / "validation.json")
    if found is not None:
        return msgspec.json.decode(found, type=dict[str, float])
    settings = RetrainSettings(**spec.settings)
    step("validate", {"folds": settings.folds})
    champion = of_version(places, spec.model, spec.champion, folder)
    snapshot = take(spec, settings, champion.contract, places, folder, lambda _step, _facts: None)
    holdout = data.part(snapshot.frame, snapshot.laid.holdout)
    figures = _intervals(champion, read_bundle(folder / "bundle"), holdout, settings, result.cap)
    window = next(w.window for w in snapshot.laid.train if w.name == result.context["best"])
    params = result.context.get("search", {}).get("params", {})
    figures |= _folds(data.part(snapshot.frame, window), champion, settings, result.cap, params)
    keep(folder / "validation.json", msgspec.json.encode(figures))
    return figures


def _intervals(
    champion: Bundle, made: Bundle, holdout: pd.DataFrame, settings: RetrainSettings, cap: float
) -> dict[str, float]:
    base = select.bundle_losses(champion, holdout, settings.target, cap)
    losses = select.bundle_losses(made, holdout, settings.target, cap)
    ok = np.isfinite(base) & np.isfinite(losses)
    at = holdout["_at"].astype("int64").to_numpy()[ok]
    days = np.asarray(at // 86_400_000_000_000, np.int64)
    figures: dict[str, float] = {}
    for name, values in (("holdout_loss", losses[ok]), ("holdout_effect", base[ok] - losses[ok])):
        if len(values):
            low, high = bootstrap(values, days, settings.seed)
            figures |= {name: float(values.mean()), f"{name}_lower": low, f"{name}_upper": high}
    return figures


def bootstrap(values: Floats, blocks: NDArray[np.int64], seed: int) -> tuple[float, float]:
    """The 95 % percentile interval of the mean when whole blocks are drawn again (Efron and Tibshirani 1993, ch. 8).

    Rows of one day err together: drawn one by one they would look surer than they are.

    >>> bootstrap(np.array([0.0, 1.0] * 50), np.arange(100) // 10, 0)
    (0.5, 0.5)
    """
    _, index = np.unique(blocks, return_inverse=True)
    counts = np.bincount(index).astype(np.float64)
    sums = np.bincount(index, weights=values)
    drawn = np.random.default_rng(seed).integers(0, len(counts), (RESAMPLES, len(counts)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def cut(rows: int, folds: int) -> list[tuple[slice, slice]]:
    """Rows to learn from and rows to be judged on, of each fold: always the past, then the block after it.

    >>> [(past.stop, block.start, block.stop) for past, block in cut(8, 3)]
    [(2, 2, 4), (4, 4, 6), (6, 6, 8)]
    """
    bounds = [rows * n // (folds + 1) for n in range(folds + 2)]
    return [(slice(0, a), slice(a, b)) for a, b in pairwise(bounds[1:])]


def _folds(
    rows: pd.DataFrame, champion: Bundle, settings: RetrainSettings, cap: float, params: dict[str, Any]
) -> dict[str, float]:
    found: dict[str, float] = {}
    for number, (past, next_block) in enumerate(cut(len(rows), settings.folds), start=1):
        learned = rows.iloc[past]
        if len(learned) < settings.min_labels:
            continue
        if len(learned) > ROWS:
            learned = learned.sample(ROWS, random_state=settings.seed).sort_values("_at", kind="stable")
        try:
            estimator = fit(settings.trainer, learned, params)
            losses = select.checked_losses(estimator, champion, rows.iloc[next_block], settings, cap)
        except TrainingFailed:
            continue  # of one class, say: the version was fitted on all of them
        found[f"cv_loss_{number}"] = float(np.nanmean(losses))
    if found:
        values: list[Any] = list(found.values())
        found |= {"cv_loss_mean": float(np.mean(values)), "cv_loss_sd": float(np.std(values))}
    return found
