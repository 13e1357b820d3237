"""`perene events labels`: what was told about predictions, and what was told about none."""

from __future__ import annotations

from typing import Annotated

import typer

from perene.config import load
from perene.options import Config, Home, Json, examples
from perene.output import emit, say

_COLUMNS = ("_received", "_id", "_label", "_revision")


def add_to(app: typer.Typer) -> None:
    """Register this command with `perene events`."""
    app.command("labels")(show)


@examples("perene events labels flight-time --since 7d", "perene events labels flight-time --unmatched --json")
def show(
    model: str,
    *,
    since: Annotated[str | None, typer.Option(help="An age (7d, 12h) or an ISO time, by the labels' time.")] = None,
    unmatched: Annotated[bool, typer.Option("--unmatched", help="Only labels whose prediction is not there.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Show so many, the newest.")] = 100,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List labels in order of receipt, each with its revision."""
    from perene.api import labels

    found = labels(model, since=since, unmatched=unmatched, settings=load(config, home=home))
    shown = found.tail(limit)[list(_COLUMNS)]
    rows = [{str(name): value for name, value in row.items()} for row in shown.to_dict("records")]
    emit(rows, as_json=as_json, columns=_COLUMNS)
    say(f"{len(found)} labels" + (f", the newest {limit} shown" if len(found) > limit else ""))
