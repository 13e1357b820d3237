"""How `perene predict --batch` speaks: a summary, and what to do after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perene.batch import predict_file
from perene.config import load
from perene.output import emit, say
from perene.progress import bar, interruptible
from registry.errors import ConfigInvalid

if TYPE_CHECKING:
    from serving.batch.job import Asked

ERRORS = ("refuse", "skip", "null")


def run(asked: Asked, model: str | None, *, home: Path | None, config: Path | None, as_json: bool) -> None:
    """Answer a file and say what was done.

    Raises:
        PereneError: as `predict_file`.
        typer.Exit: with 130 when it was interrupted.
    """
    if asked.errors not in ERRORS:
        raise ConfigInvalid(f"--errors {asked.errors}", where="--errors", expected=" or ".join(ERRORS))
    settings = load(config, home=home)
    kept = "interrupted: what is answered so far is kept; the same command goes on with it"
    with interruptible(kept), bar() as report:
        found = predict_file(asked, model, settings, report=report)
    emit(found, as_json=as_json)
    if found["rejected"]:
        say(f"{found['rejected']} rows have no answer; {found['errors']} says why")
