"""How `perene predict --batch` speaks: a bar on a terminal, a summary, and what to do after an interruption."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from perene.batch import predict_file
from perene.config import load
from perene.output import emit, say, talk
from registry.errors import ConfigInvalid

if TYPE_CHECKING:
    from serving.batch.job import Asked, Report

ERRORS = ("refuse", "skip", "null")
INTERRUPTED = 130


def run(asked: Asked, model: str | None, *, home: Path | None, config: Path | None, as_json: bool) -> None:
    """Answer a file and say what was done.

    Raises:
        PereneError: as `predict_file`.
        typer.Exit: with 130 when it was interrupted.
    """
    if asked.errors not in ERRORS:
        raise ConfigInvalid(f"--errors {asked.errors}", where="--errors", expected=" or ".join(ERRORS))
    settings = load(config, home=home)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _bar() as report:
            found = predict_file(asked, model, settings, report=report)
    except KeyboardInterrupt:
        say("interrupted: what is answered so far is kept; the same command goes on with it")
        raise typer.Exit(INTERRUPTED) from None
    emit(found, as_json=as_json)
    if found["rejected"]:
        say(f"{found['rejected']} rows have no answer; {found['errors']} says why")


@contextmanager
def _bar() -> Iterator[Report]:
    """A bar on stderr when that is a terminal; else nothing is shown."""
    if not sys.stderr.isatty():
        yield lambda reached, total, rows: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    shown = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*shown, console=talk, transient=True) as progress:
        task = progress.add_task("reading", total=None)

        def report(reached: int, total: int, rows: int) -> None:
            progress.update(task, completed=reached, total=total, description=f"{rows:,} rows")

        yield report


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
