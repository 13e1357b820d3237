"""`perene jobs`: what waits on this machine, what went wrong for good, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from time import time
from typing import Annotated, Any

import typer

from perene.config import load
from perene.options import Config, Home, Json
from perene.options import examples as _examples
from perene.output import emit, say
from serving.jobs.job import Job, told
from serving.jobs.queue import Queue, opened

app = typer.Typer(no_args_is_help=True, help="Files and predictions that are answered later.")
COLUMNS = ("job", "kind", "model", "state", "attempts", "created", "ended", "error")


@app.command("list")
@_examples("perene jobs list", "perene jobs list --dead --json")
def show_all(
    *,
    dead: Annotated[bool, typer.Option("--dead", help="Only the dead letters.")] = False,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List the newest jobs of this machine, or its dead letters."""
    jobs = _queue(home, config).listed(state="dead" if dead else None)
    emit([_row(job, as_json=as_json) for job in jobs], as_json=as_json, columns=COLUMNS)


@app.command("show")
@_examples("perene jobs show 0198c0de-0000-7000-8000-000000000000")
def show(identifier: str, *, home: Home = None, config: Config = None, as_json: Json = False) -> None:
    """Say how a job stands, and what became of its callback."""
    queue = _queue(home, config)
    job = queue.find(identifier, key=None)
    facts = {**told(job, time()), "key": job.key, "callbacks": queue.callbacks(job.id)}
    facts.pop("answer", None)  # a caller's data
    emit(facts, as_json=as_json)


@app.command("retry")
@_examples("perene jobs retry 0198c0de-0000-7000-8000-000000000000")
def retry(identifier: str, *, home: Home = None, config: Config = None) -> None:
    """Take a dead letter up again: a job, or the callback of one."""
    job = _queue(home, config).retry(identifier)
    say(f"job {identifier} is {job.state}; what was dead of it is tried again")


@app.command("cancel")
@_examples("perene jobs cancel 0198c0de-0000-7000-8000-000000000000")
def cancel(identifier: str, *, home: Home = None, config: Config = None) -> None:
    """End a job that waits, is worked on or is dead."""
    job = _queue(home, config).cancel(identifier)
    say(f"job {identifier} is {job.state}")


def _queue(home: Path | None, config: Path | None) -> Queue:
    settings = load(config, home=home)
    return opened(settings.home / "run", settings.serving.jobs)


def _row(job: Job, *, as_json: bool) -> dict[str, Any]:
    facts = told(job, time())
    facts.pop("answer", None)
    if not as_json:
        facts["error"] = job.failure.message if job.failure else None
    return facts
