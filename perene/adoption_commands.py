"""The commands about versions that exist: adopt, certify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perene.config import load
from perene.options import Config, Home, Json, examples
from perene.output import emit, progress, say
from registry.errors import ConfigInvalid

if TYPE_CHECKING:
    import pandas as pd

Rows = Annotated[Path | None, typer.Option(help="Real rows: a .parquet or .csv file.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Run code of whoever logged it.")]


def add_to(app: typer.Typer) -> None:
    """Register these commands with the `perene` command."""
    app.command()(adopt)
    app.command()(certify)


@examples(
    "perene adopt models:/churn/3 --rows january.parquet --target churned",
    "perene adopt models:/churn@production --rows january.csv --allow-pickle",
)
def adopt(
    uri: Annotated[str, typer.Argument(help="A version logged with plain MLflow: models:/churn/3.")],
    *,
    rows: Rows = None,
    target: Annotated[str | None, typer.Option(help="The column of the rows that holds the labels.")] = None,
    allow_pickle: AllowPickle = False,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Certify a version that was logged with plain MLflow; the result is a new version of the same model."""
    from perene.adoption import adopt as take_in

    frame = read_rows(rows) if rows is not None else None
    labels = None
    if target is not None:
        if frame is None or target not in frame.columns:
            raise ConfigInvalid(f"the rows have no column '{target}'", where="--target", hint="name a column of --rows")
        labels = frame.pop(target)
    made = take_in(uri, frame, labels, allow_pickle=allow_pickle, settings=load(config, home=home), progress=progress)
    runtime = made.certificate.get("runtime", "onnx")
    emit({"model": made.model, "version": made.version, "verdict": made.verdict, "runtime": runtime}, as_json=as_json)
    say(f"next: perene promote {made.model} {made.version}")


@examples("perene certify churn", "perene certify churn --version 3 --rows january.parquet")
def certify(
    name: str,
    *,
    version: Annotated[int | None, typer.Option(help="By default the champion.")] = None,
    rows: Rows = None,
    allow_pickle: AllowPickle = False,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Check again that a version answers as its original does; exit code 1 when it does not."""
    from perene.adoption import certify as check

    frame = read_rows(rows) if rows is not None else None
    settings = load(config, home=home)
    found = check(name, version, rows=frame, allow_pickle=allow_pickle, settings=settings, progress=progress)
    emit(found, as_json=as_json)
    if found["verdict"] == "refused":
        raise typer.Exit(1)


def read_rows(path: Path) -> pd.DataFrame:
    """Rows of a Parquet or CSV file.

    Raises:
        ConfigInvalid: there is no such file, or it is neither.
    """
    import pandas as pd

    readers: dict[str, Any] = {".parquet": pd.read_parquet, ".csv": pd.read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise ConfigInvalid(f"{path}: no such file of rows", where="--rows", expected="a .parquet or .csv file")
    try:
        frame: pd.DataFrame = reader(path)
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"{path}: cannot be read as rows", where="--rows", hint=type(error).__name__) from error
    return frame
