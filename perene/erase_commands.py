"""`perene erase`: a person's events, or one prediction, taken out of everything."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from perene.config import Settings, load
from perene.options import Config, Home, Json, examples
from perene.output import emit, say
from registry.errors import ConfigInvalid


def add_to(app: typer.Typer) -> None:
    """Register the command with the `perene` command."""
    app.command()(erase)


@examples(
    "perene erase --model flight-time --subject N14228 --dry-run",
    "perene erase --model flight-time --subject - < subject.txt",
    "perene erase --model flight-time --prediction-id 0198c0de-…",
    "perene erase --verify .perene/erasures/20261121T093000123456-flight-time.json",
)
def erase(
    *,
    model: Annotated[str | None, typer.Option(help="Of this model's events.")] = None,
    subject: Annotated[str | None, typer.Option(help="The entity, exactly as callers send it; - reads stdin.")] = None,
    prediction_id: Annotated[str | None, typer.Option(help="Instead of a subject: one prediction.")] = None,
    literal: Annotated[bool, typer.Option("--literal", help="The subject really holds * or %.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go.")] = False,
    verify: Annotated[Path | None, typer.Option(help="Look whether this receipt still holds.")] = None,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Erase a person's events, with a receipt; exit code 0 also when there was nothing, 1 when a receipt fails."""
    settings = load(config, home=home)
    name = sys.stdin.read().rstrip("\r\n") if subject == "-" else subject
    if verify is not None:
        if model is not None or prediction_id is not None:
            raise ConfigInvalid("--verify takes what it needs from the receipt", where="--verify")
        _verify(settings, verify, name, as_json=as_json)
        return
    if model is None:
        raise ConfigInvalid("a model is needed", where="--model", hint="one person's events are erased model by model")
    from perene.erasure.erase import Asked, rehearse
    from perene.erasure.erase import erase as carry_out

    asked = Asked(model, name, prediction_id)
    asked.check(literal=literal)
    if dry_run:
        items = [asdict(item) for item in rehearse(settings, asked)]
        emit(items, as_json=as_json, columns=("place", "name", "kind", "rows"))
        say(f"{sum(item['rows'] for item in items)} would go; nothing was changed")
        return
    done = carry_out(settings, asked)
    found = done.receipt
    if as_json:
        emit({**found, "receipt": str(done.path)}, as_json=True)
    else:
        emit({"predictions": found["predictions"], **found["removed"], "receipt": str(done.path)}, as_json=False)
    if not found["removed"]:
        mind = "mind the spelling, it must be the entity exactly as callers send it"
        say(f"nothing of it was there: {mind if name is not None else 'no event has this id'}")
    if found["may_have_learned"]:
        say(f"versions {found['may_have_learned']} were trained after its first event, and may have learned from it")
    _tell_unfinished(settings)
    say(f"next: perene erase --verify {done.path}")


def _verify(settings: Settings, path: Path, subject: str | None, *, as_json: bool) -> None:
    from perene.erasure.verify import verify

    problems = verify(settings, path, subject=subject)
    emit({"ok": not problems, "problems": problems}, as_json=as_json)
    if problems:
        raise typer.Exit(1)


def _tell_unfinished(settings: Settings) -> None:
    from perene.erasure.work import unfinished

    for path in unfinished(settings.places.home / "erasures"):
        say(f"another erasure was interrupted and must be run again: {path.name}")
