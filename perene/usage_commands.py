"""`perene usage`: what each key used and what that costs."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Annotated

import typer

from perene.config import Settings, load
from perene.options import Config, Home, Json, examples
from perene.output import emit, say
from registry.errors import ConfigInvalid, PereneError
from registry.ledger import Ledger


def add_to(app: typer.Typer) -> None:
    """Register the command with the `perene` command."""
    app.command()(usage)


@examples(
    "perene usage --since 30d",
    "perene usage --since 2026-05-01 --until 2026-06-01 --by key,model --csv > may.csv",
    "perene usage --since 1d --by model --json",
)
def usage(
    *,
    since: Annotated[str, typer.Option(help="An age (30d, 12h) or an ISO time, by arrival.")] = "30d",
    until: Annotated[str | None, typer.Option(help="The moment after the last, likewise; else now.")] = None,
    by: Annotated[str, typer.Option(help="Some of key, model and day, in the order of the columns.")] = "key,model,day",
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a heading.")] = False,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Requests, rows, seconds and costs of each key, model and day, from the event lake."""
    from monitoring.lake.lake import Lake
    from monitoring.reading.usage import usage as count
    from perene.replay import window
    from perene.usage import BY, bill, columns, csv_text

    names = [name.strip() for name in by.split(",")]
    if not set(names) <= set(BY) or len(set(names)) < len(names):
        raise ConfigInvalid("--by: not what usage is counted by", where="--by", expected="some of key, model, day")
    if as_csv and as_json:
        raise ConfigInvalid("--csv and --json exclude each other", where="--csv", hint="leave one of them out")
    settings = load(config, home=home)
    low, high = window(since, until)
    lake = Lake(settings.places.lake)
    lake.storage.check()
    labels = _labels(settings) if "key" in names else {}
    rows = bill(count(lake, low=low, high=high), by=names, prices=settings.usage, labels=labels)
    if as_csv:
        sys.stdout.write(csv_text(rows, columns(names)))
        return
    emit(rows, as_json=as_json, columns=columns(names))


def _labels(settings: Settings) -> dict[str, str]:
    """What people called the keys; a ledger that does not answer costs the names, not the bill."""
    try:
        with closing(Ledger.open(settings.places.ledger_url)) as ledger:
            return {key.id: key.label for key in ledger.keys()}  # noqa: SIM118
    except PereneError as error:
        say(f"keys have no labels: {error.message}")
        return {}
