"""`perene backtest`: which policy of retraining would have paid."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perene.config import load
from perene.options import Config, Home, Json, examples
from perene.output import emit, say
from perene.progress import bar, interruptible


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(backtest)


@examples(
    "perene backtest flight-time --from 2013-04-01 --to 2014-01-01 --plot policies.png",
    "perene backtest flight-time --from 2013-04-01 --to 2013-07-01 --policy cron --policy trigger --sample 0.25",
    'perene backtest churn --from 2026-01-01 --to 2026-07-01 --schedule "0 3 * * mon" --json',
)
def backtest(
    name: Annotated[str, typer.Argument(help="A model of perene.toml.")],
    *,
    start: Annotated[str, typer.Option("--from", help="First day; the first version learns from what is before it.")],
    end: Annotated[str, typer.Option("--to", help="Day after the last one.")],
    policy: Annotated[
        list[str] | None, typer.Option(help="never, cron, cron+gate or trigger; repeatable; else all.")
    ] = None,
    schedule: Annotated[str | None, typer.Option(help="Cron with five fields, instead of the model's own.")] = None,
    sample: Annotated[float, typer.Option(help="Share of the rows that are served; trainers see all.")] = 1.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Of what is drawn; else the model's own.")] = None,
    trials: Annotated[bool, typer.Option("--trials", help="Promote after a paired trial, not by gates alone.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write a .png, .svg or .pdf.")] = None,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Replay the past under policies of retraining: errors by month, fits, deployments, gain per fit."""
    from perene.backtest import backtest as replay

    with interruptible("interrupted: nothing was kept"), bar() as report:
        found = replay(
            name,
            start,
            end,
            policies=policy or (),
            schedule=schedule,
            sample=sample,
            seed=seed,
            trials=trials,
            plot=plot,
            settings=load(config, home=home),
            report=report,
        )
    emit(found.to_dict() if as_json else found.table(), as_json=as_json, columns=found.columns())
    if as_json:
        return
    say(f"{found.measure} of {found.rows:,} rows; {found.fits} fits in all; promoted {found.promotion}")
    for course in found.policies:
        for move in course.moves:
            say(f"{course.policy}: {move.at:%Y-%m-%d} version {move.version}, {move.why}")
