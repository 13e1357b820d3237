"""`perene backtest` and `perene.backtest.backtest`: policies of retraining, tried on the past of a model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perene.config import Settings, load
from perene.train import day, resolve
from registry.errors import ConfigInvalid, ModelUnknown, PereneError, TrainingFailed
from registry.ledger import Ledger

if TYPE_CHECKING:
    from retrain.backtest.replay import Report
    from retrain.backtest.result import Backtest
    from retrain.settings import RetrainSettings
    from retrain.training.windows import Window

__all__ = ["backtest"]

STEP = timedelta(hours=6)


def backtest(
    name: str,
    start: str | datetime,
    end: str | datetime,
    *,
    policies: Sequence[str] = (),
    schedule: str | None = None,
    sample: float = 1.0,
    seed: int | None = None,
    step: timedelta = STEP,
    trials: bool = False,
    plot: Path | str | None = None,
    settings: Settings | None = None,
    report: Report | None = None,
) -> Backtest:
    """Replay the past of model `name` under several policies of retraining, with real delays of labels.

    Args:
        start: the first version learns from the model's first window before this moment, and serves from it on.
        end: the moment after the last row.
        policies: some of `never`, `cron`, `cron+gate` and `trigger`; all of them when none is named.
        schedule: five cron fields instead of the model's own.
        sample: share of the rows that are served; trainers see all of them.
        seed: of this sample, and of the rows that a trainer gets when there are more than `max_rows`.
        step: how often the policies look at the clock.
        trials: promote after a paired trial beside the champion, instead of by the gates alone.
        plot: a .png, .svg or .pdf to write.
        report: told how far it is: steps done, steps in all, rows seen.

    Raises:
        ConfigInvalid: a policy, a moment or a path that cannot be, or a model without a trainer.
        ModelUnknown: it has no loader, and nothing of it is recorded or deployed here.
        TrainingFailed: the loader's rows cannot be replayed, or the first version cannot be made.
    """
    from retrain.backtest.history import History
    from retrain.backtest.policies import chosen
    from retrain.backtest.replay import Asked, first_plan, replay
    from retrain.plot_name import plot_path
    from retrain.training.windows import Window

    if plot is not None:
        plot_path(plot, example="backtest.png")
    settings = settings or load()
    known = settings.models
    watched = known.get(name)
    if watched is None or watched.retrain is None:
        raise _untrained(name, list(known))
    plan = _with(watched.retrain, schedule)
    asked = Asked(
        start=day(start) if isinstance(start, str) else start,
        end=day(end) if isinstance(end, str) else end,
        policies=chosen(policies, scheduled=plan.schedule is not None),
        step=step,
        sample=sample,
        seed=plan.seed if seed is None else seed,
        trial=watched.trial if trials else None,
    )
    trainer = resolve(plan.trainer)
    # labels of the last rows come after the end: they count for the accounts, not for any decision
    span = Window(first_plan(plan, asked.start).span.start, asked.end + plan.maturity)
    frame = _recorded(name, plan, span, settings) if plan.loader is None else _loaded(plan.loader, span)
    history = History.of(frame, target=plan.target, maturity=plan.maturity)
    found = replay(history, asked, plan, watched.monitoring, train=trainer, model=name, report=report)
    if plot is not None:
        found.plot(plot)
    return found


def _with(plan: RetrainSettings, schedule: str | None) -> RetrainSettings:
    if schedule is None:
        return plan
    from retrain.triggering.scheduler import next_fire

    next_fire(schedule, datetime.fromisoformat("2000-01-01T00:00:00+00:00"))
    return plan.model_copy(update={"schedule": schedule})


def _loaded(reference: str, span: Window) -> Any:
    load_rows = resolve(reference)
    try:
        return load_rows(span)
    except PereneError:
        raise
    except Exception as error:  # the user's loader: whatever it raises, there is nothing to replay
        raise TrainingFailed(
            f"the loader raised {type(error).__name__}", where=reference, hint="call it from Python to see why"
        ) from error


def _recorded(name: str, plan: RetrainSettings, span: Window, settings: Settings) -> Any:
    """Without a loader the lake's labelled predictions are the rows, as they are for the worker."""
    from perene.replay import contract_of, lake_of
    from retrain.training.data import recorded

    lake_of(settings, name)  # refuses a model that nothing is recorded of
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        deployment = ledger.deployment(name)
    if deployment is None:
        raise ModelUnknown(f"'{name}' has no loader, and is not deployed here", where=f"models.{name}.retrain.loader")
    with tempfile.TemporaryDirectory(prefix="perene-") as scratch:
        contract = contract_of(settings, name, deployment.champion, Path(scratch))
    frame = recorded(plan, contract, span, settings.places)
    frame["_label_at"] = frame[["_at", "_label_at"]].max(axis=1)  # a label before its row is a clock's fault
    return frame[[*contract.names, plan.target, "_at", "_label_at"]]


def _untrained(name: str, known: list[str]) -> ConfigInvalid:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return ConfigInvalid(
        f"perene.toml names no trainer for '{name[:80]}'",
        where=f"models.{name[:80]}.retrain",
        expected="trainer, target, and a loader unless events are recorded",
        hint=f"did you mean '{near[0]}'?" if near and near[0] != name else "add them, or name another file by --config",
    )
