"""`perene report` and `perene drift`: reports on demand, and statistics of one's own put to the test."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from perene.config import load
from perene.options import Config, Home, Json, examples
from perene.output import emit, say

app = typer.Typer(no_args_is_help=True, help="Drift: reports by Evidently, and detectors.")

Model = Annotated[str, typer.Option(help="A deployed model.")]
Out = Annotated[Path | None, typer.Option(help="A new folder for it; else it is kept with the worker's reports.")]
Until = Annotated[str | None, typer.Option(help="The moment after the last, likewise; else now.")]


def add_to(root: typer.Typer) -> None:
    """Register these commands."""
    root.add_typer(app, name="drift")
    root.command("report")(report)


@app.command("report")
@examples("perene drift report --model flight-time", "perene drift report --model flight-time --since 7d --out drift")
def drift_report(
    *,
    model: Model,
    since: Annotated[str | None, typer.Option(help="An age (7d, 12h) or an ISO time; else the newest rows.")] = None,
    until: Until = None,
    out: Out = None,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write Evidently's report: rows of a span beside the first rows that the champion answered."""
    from perene.reports import make

    found = make(load(config, home=home), "asked", model, since=since, until=until, out=out)
    shown = ("version", "window", "rows", "ours", "evidently", "columns", "left_out", "mlflow")
    emit(_where(found) | {name: found[name] for name in shown if name in found}, as_json=as_json)
    for name, reason in found["left_out"].items():
        say(f"left out: {name}: {reason}")


@app.command("check")
@examples("perene drift check my_statistics:moved", "perene drift check ladder --json")
def check(
    detector: Annotated[str, typer.Argument(help="module:name, ladder or evidently.")], *, as_json: Json = False
) -> None:
    """Put a detector through the checks that every one must pass; exit code 1 when it fails one."""
    from monitoring.drift.detector_checks import run
    from monitoring.drift.detectors import resolve

    sys.path.insert(0, os.getcwd())  # as the worker, which is started in the folder of the module
    found = [asdict(checked) for checked in run(resolve(detector))]
    emit(found, as_json=as_json, columns=("name", "ok", "problem"))
    if not all(checked["ok"] for checked in found):
        raise typer.Exit(1)


@examples("perene report --model flight-time --since 7d", "perene report --model flight-time --since 30d --out monthly")
def report(
    *,
    model: Model,
    since: Annotated[str | None, typer.Option(help="An age (7d, 12h) or an ISO time; else all events.")] = None,
    until: Until = None,
    out: Out = None,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write how a model did: traffic, quality, drift, findings, trials; as HTML and as Markdown."""
    from perene.reports import make

    found = make(load(config, home=home), "performance", model, since=since, until=until, out=out)
    shown = ("version", "window", "rows", "labels", "mlflow")
    emit(_where(found) | {name: found[name] for name in shown if name in found}, as_json=as_json)


def _where(found: dict[str, Any]) -> dict[str, Any]:
    folder = Path(found["folder"])
    return {"folder": str(folder), "files": [str(folder / name) for name in found["files"]]}
