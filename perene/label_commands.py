"""`perene events labels`, what was told about predictions and about none; and what `perene feedback` tells."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from perene.config import load
from perene.options import Config, Home, Json, examples
from perene.output import emit, say
from registry.errors import ConfigInvalid

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


def told(prediction_id: str, label: str | None, outcomes: Sequence[str]) -> dict[str, Any]:
    """An item of feedback, of what stands on a command line.

    >>> told("0198c0de", "142.5", ["revenue=12"])
    {'prediction_id': '0198c0de', 'label': 142.5, 'outcomes': {'revenue': 12.0}}

    Raises:
        ConfigInvalid: nothing is told, or an outcome is not NAME=NUMBER.
    """
    if label is None and not outcomes:
        raise ConfigInvalid("nothing is told", where="label", hint="give a label, --outcome NAME=NUMBER, or both")
    found: dict[str, Any] = {"prediction_id": prediction_id}
    if label is not None:
        found["label"] = _value(label)
    named: dict[str, float] = {}
    for text in outcomes:
        name, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ConfigInvalid("an outcome is not NAME=NUMBER", where="--outcome", expected="for example revenue=12.5")
        if name in named:
            raise ConfigInvalid("an outcome is told twice", where="--outcome", expected="each name once")
        named[name] = value
    return found | ({"outcomes": named} if named else {})


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (int, float, bool, str)) else text
