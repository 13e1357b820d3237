"""`perene events`: recorded traffic as a file, and answered again by another version."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from perene.config import load
from perene.options import Config, Home, Json, examples
from perene.output import emit, say
from perene.progress import bar, interruptible

app = typer.Typer(no_args_is_help=True, help="Recorded predictions.")

Since = Annotated[str | None, typer.Option(help="An age (7d, 12h) or an ISO time, by event time; else all.")]
Until = Annotated[str | None, typer.Option(help="The moment after the last, likewise; else now.")]


@app.command("export")
@examples(
    "perene events export flight-time --since 7d --out events.parquet",
    "perene events export flight-time --since 2026-05-01 --until 2026-06-01 --labelled --out may.csv",
)
def export(
    model: str,
    *,
    out: Annotated[Path, typer.Option(help="The new .parquet or .csv file.")],
    since: Since = None,
    until: Until = None,
    labelled: Annotated[bool, typer.Option("--labelled", help="With labels and shadow answers.")] = False,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write a model's predictions to a file, oldest first."""
    from monitoring.reading.export import export as write
    from perene.replay import lake_of, window

    low, high = window(since, until)
    lake = lake_of(load(config, home=home), model)
    with interruptible("interrupted: there is no file"), bar() as report:
        rows = write(
            lake,
            model,
            out,
            low=low,
            high=high,
            labelled=labelled,
            report=lambda done, most: report(done, most, done),
        )
    emit({"model": model, "rows": rows, "out": str(out)}, as_json=as_json)


@app.command("replay")
@examples(
    "perene events replay flight-time --onto 7 --since 7d",
    "perene events replay flight-time --onto 7 --since 2026-05-01 --out diff.parquet --json",
)
def replay(
    model: str,
    *,
    onto: Annotated[int, typer.Option(min=1, help="The version that answers again.")],
    since: Since = None,
    until: Until = None,
    out: Annotated[Path | None, typer.Option(help="A new .parquet or .csv file with one row for each.")] = None,
    without_dropped: Annotated[
        bool, typer.Option("--without-dropped", help="Null for columns that the log hashes or drops.")
    ] = False,
    rows_per_part: Annotated[int, typer.Option(min=1, max=10_000_000, help="What a crash can cost.")] = 100_000,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Answer recorded traffic again by another version, and compare the answers."""
    from perene.replay import replay_onto, window
    from serving.replay.job import Replay

    settings = load(config, home=home)
    start, end = window(since, until)
    kept = "what is answered so far is kept; the same command goes on with it" if out else "nothing is kept"
    with tempfile.TemporaryDirectory(prefix="perene-") as scratch, interruptible(f"interrupted: {kept}"):
        to = out or Path(scratch) / "diff.parquet"
        asked = Replay(to, start, end, since or "", until or "", without_dropped, rows_per_part)
        with bar() as report:
            found = replay_onto(asked, model, onto, settings, report=report)
    emit(found | {"out": str(out) if out else None}, as_json=as_json)
    if found["changed"] and out is None:
        say("next: --out diff.parquet shows them row by row")
