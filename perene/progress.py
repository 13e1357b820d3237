"""Long work at the terminal: a bar while it goes on, and a word when somebody ends it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from perene.output import say, talk

if TYPE_CHECKING:
    from serving.batch.job import Report

INTERRUPTED = 130
_asked, _stepping = threading.Event(), threading.Event()
"""Somebody wants the end; steps are reported. An exception that a signal raises between the taking of a lock and its
`with` leaves the lock taken for ever, so what works with threads is ended at its next step."""


@contextmanager
def interruptible(said: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the work inside with a word of what is kept.

    Raises:
        typer.Exit: with 130 when one of them came.
    """
    _asked.clear()
    _stepping.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        say(said)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def bar() -> Iterator[Report]:
    """A bar on stderr when that is a terminal; else nothing is shown."""
    if not sys.stderr.isatty():
        yield lambda reached, total, rows: _go_on()
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    shown = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*shown, console=talk, transient=True) as progress:
        task = progress.add_task("reading", total=None)

        def report(reached: int, total: int, rows: int) -> None:
            _go_on()
            progress.update(task, completed=reached, total=total, description=f"{rows:,} rows")

        yield report


def _go_on() -> None:
    _stepping.set()
    if _asked.is_set():
        raise KeyboardInterrupt


def _interrupt(*_: object) -> None:
    again = _asked.is_set()
    _asked.set()
    if again or not _stepping.is_set():
        raise KeyboardInterrupt
