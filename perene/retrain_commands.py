"""`perene retrain`: now, status, log, cancel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from perene.config import load
from perene.options import Config, Home, Json, examples
from perene.output import emit, say, show

if TYPE_CHECKING:
    from datetime import datetime

    from perene.config import Settings
    from registry.ledger import Run

app = typer.Typer(no_args_is_help=True, help="Retraining runs.")

Model = Annotated[str, typer.Argument(help="A deployed model with a table [models.NAME.retrain].")]
RunId = Annotated[str, typer.Argument(help="A run, as `perene retrain status` names it.")]
Reason = Annotated[str, typer.Option(help="Goes to the ledger.")]


def add_to(root: typer.Typer) -> None:
    """Register these commands."""
    root.add_typer(app, name="retrain")


@app.command("now")
@examples("perene retrain now flight-time --wait", "perene retrain now flight-time --dry-run")
def now(
    model: Model,
    *,
    reason: Reason = "by hand",
    dry_run: Annotated[bool, typer.Option(help="Say what a run would do.")] = False,
    wait: Annotated[bool, typer.Option(help="Show its steps, and end with it; exit code 1 if it fails.")] = False,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Ask the worker for a run. It passes cooldown and breaker, not broken data nor too few labels."""
    from perene import retraining

    settings = load(config, home=home)
    if dry_run:
        emit(retraining.dry_run(settings, model), as_json=as_json)
        return
    row, since = retraining.ask(settings, model, reason=reason)
    if not wait:
        emit({"model": model, "request": row}, as_json=as_json)
        say(f"next: perene retrain status {model}")
        return
    ended = _watch(settings, model, since)
    emit(
        {"run": ended.run_id, "status": ended.status, "outcome": ended.body.get("outcome")}
        | {"version": ended.body.get("version"), "told": ended.body.get("error") or ended.body.get("why")},
        as_json=as_json,
    )
    if ended.status != "done":
        raise typer.Exit(1)


def _watch(settings: Settings, model: str, since: datetime) -> Run:
    from perene import retraining
    from perene.progress import interruptible

    said: set[str] = set()
    began = time.monotonic()
    with interruptible("the run goes on; perene retrain status shows it"):
        for seen in retraining.follow(settings, model, since):
            lines = seen.steps
            if seen.run is None and seen.held:
                lines = (f"waiting: {seen.held}",)
            elif seen.run is None and time.monotonic() - began > retraining.PATIENCE_S:
                lines = ("waiting: no worker has begun it; perene worker runs one",)
            for line in lines:
                if line not in said:
                    rest = f", about {seen.left_s:.0f} s left" if line == lines[-1] and seen.left_s is not None else ""
                    say(f"  {line}{rest}")
                    said.add(line)
        if seen.run is None:
            raise AssertionError("a run that is followed has an end")
        return seen.run


@app.command("status")
@examples("perene retrain status", "perene retrain status flight-time --json")
def status(
    model: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
    *,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """The newest run of each model, what holds the next one, and until when on the model's clock."""
    from perene.retraining import status as read

    rows = read(load(config, home=home), model)
    emit(rows, as_json=as_json, columns=("model", "run", "status", "step", "reason", "left_s", "next_at"))
    for row in rows if not as_json else ():
        for name, text in (("run", row["told"]), ("next", row["held"])):
            if text:
                say(f"{row['model']}: {name}: {text}")


@app.command("log")
@examples("perene retrain log flight-time-0a1b2c3d4e5f", "perene retrain log flight-time-0a1b2c3d4e5f --json")
def log(run: RunId, *, home: Home = None, config: Config = None, as_json: Json = False) -> None:
    """A run's steps, and what its training printed."""
    from perene.retraining import log_of

    found = log_of(load(config, home=home), run)
    if as_json:
        emit(found, as_json=True)
        return
    emit(found["steps"], as_json=False, columns=("at", "step", "status", "attempt", "facts"))
    if found["log"] is None:
        say("its log is on the machine of the worker that ran it")
        return
    show("\n" + found["log"])


@app.command("cancel")
@examples("perene retrain cancel flight-time-0a1b2c3d4e5f --reason 'wrong data'")
def cancel(
    run: RunId,
    *,
    reason: Reason = "by hand",
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """End a run: its child is killed at the worker's next tick, and the champion stays."""
    from perene.retraining import cancel as end

    found = end(load(config, home=home), run, reason=reason, wait=time.sleep)
    emit({"run": run, "status": found.status, "step": found.step}, as_json=as_json)
    if found.status == "running":
        say("asked; no worker has taken it yet")
