"""Hyper-parameters of the trainer, looked for on the run's own snapshot with Optuna before any window is trained.

Trials are kept in a journal file of the run's folder and not in the ledger's database: Optuna's tables have common
names (`trials`, `studies`, `alembic_version`), which would meet the ledger's or MLflow's own migrations there. What was
chosen, and how many trials it took, is a row of the ledger like every other step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import pandas as pd

from registry.bundle import Bundle
from registry.errors import PereneError, TrainingFailed
from retrain.settings import RetrainSettings
from retrain.training import data, select
from retrain.training.code import function
from retrain.training.fitting import fit
from retrain.training.kept import keep, kept
from retrain.training.snapshot import Snapshot
from retrain.training.spec import Step
from retrain.training.validation import cut

if TYPE_CHECKING:
    import optuna

__all__ = ["Found", "searched"]

FOLDS: Final = 3
ROWS: Final = 20_000
"""That a trial learns from and is judged on at most."""
JOURNAL: Final = "search.journal"


class Found(msgspec.Struct, frozen=True):
    """What a search came to."""

    params: dict[str, Any] = {}
    loss: float | None = None
    trials: int = 0
    pruned: int = 0
    failed: int = 0


def searched(
    settings: RetrainSettings, snapshot: Snapshot, champion: Bundle, cap: float, folder: Path, step: Step
) -> Found:
    """The best parameters on folds in the order of time of the first window; nothing without a `search` setting.

    A search that was killed goes on with the trials that it has. The holdout is never looked at.

    Raises:
        TrainingFailed: no trial came through, or the parameters are not the trainer's.
    """
    if settings.search is None:
        return Found()
    path = folder / "search.json"
    known = kept(path)
    if known is not None:
        return msgspec.json.decode(known, type=Found)
    step("search", {"trials": settings.search_trials, "seconds": settings.search_seconds})
    rows = data.part(snapshot.frame, snapshot.laid.train[0].window)
    if len(rows) > ROWS:
        rows = rows.sample(ROWS, random_state=settings.seed).sort_values("_at", kind="stable")
    found = _best(settings, rows, champion, cap, folder / JOURNAL)
    keep(path, msgspec.json.encode(found))
    step("search", msgspec.to_builtins(found))
    return found


def _best(settings: RetrainSettings, rows: pd.DataFrame, champion: Bundle, cap: float, journal: Path) -> Found:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    logging.getLogger("optuna").setLevel(logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))), study_name="search", load_if_exists=True
    )
    ended = [t for t in study.trials if t.state.is_finished()]
    spent = sum(t.duration.total_seconds() for t in ended if t.duration is not None)
    study.sampler = optuna.samplers.TPESampler(seed=settings.seed + len(ended))
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=5)
    left, seconds = settings.search_trials - len(ended), settings.search_seconds - spent
    if left > 0 and seconds > 0:
        objective = _objective(settings, rows, champion, cap)
        study.optimize(objective, n_trials=left, timeout=seconds, catch=(TrainingFailed,))
    ended = [t for t in study.trials if t.state.is_finished()]  # not those that a kill left half done
    counts = {s: sum(t.state == s for t in ended) for s in (TrialState.PRUNED, TrialState.FAIL)}
    complete = [t for t in ended if t.state == TrialState.COMPLETE]
    if not complete:
        raise TrainingFailed(
            f"none of {len(ended)} trials of the search came through",
            where="search",
            hint="perene retrain log shows what the trainer said",
        )
    best = min(complete, key=lambda t: (t.value if t.value is not None else np.inf, t.number))
    return Found(
        best.user_attrs["params"],
        best.value,
        len(ended),
        counts[TrialState.PRUNED],
        counts[TrialState.FAIL],
    )


def _objective(
    settings: RetrainSettings, rows: pd.DataFrame, champion: Bundle, cap: float
) -> Callable[[optuna.Trial], float]:
    import optuna

    propose = function(str(settings.search))

    def objective(trial: optuna.Trial) -> float:
        try:
            params = propose(trial)
            trial.set_user_attr("params", dict(params))
        except (PereneError, MemoryError, optuna.TrialPruned):
            raise
        # it is the user's code: the run fails with the class of what it raised
        except Exception as error:
            raise TrainingFailed(f"the search raised {type(error).__name__}", where=str(settings.search)) from error
        losses: list[float] = []
        for number, (past, following) in enumerate(cut(len(rows), FOLDS)):
            estimator = fit(settings.trainer, rows.iloc[past], params)
            found = select.checked_losses(estimator, champion, rows.iloc[following], settings, cap)
            losses.append(float(np.nanmean(found)))
            trial.report(float(np.mean(losses)), number)
            if number + 1 < FOLDS and trial.should_prune():
                raise optuna.TrialPruned
        return float(np.mean(losses))

    return objective
