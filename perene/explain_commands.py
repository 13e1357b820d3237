"""`perene explain`: which columns moved a prediction, by asking the server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from perene.config import load
from perene.options import Config, Home, Json, examples
from perene.output import emit, say
from registry.errors import ConfigInvalid

COLUMNS = ("row", "column", "attribution")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain")(explain)


@examples(
    "perene explain flight-time --id 0198c0de-0000-7000-8000-000000000000",
    """perene explain iris --row '{"petal_length": 4.7}' --json""",
    "perene explain flight-time rows.json --method permutation",
)
def explain(
    model: str,
    file: Annotated[Path | None, typer.Argument(help="A row or a list of rows as JSON, or - to read stdin.")] = None,
    *,
    identifier: Annotated[list[str] | None, typer.Option("--id", help="A recorded prediction; repeatable.")] = None,
    row: Annotated[str | None, typer.Option(help="A row as JSON.")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Explain by this version, which is deployed.")] = None,
    method: Annotated[str, typer.Option(help="auto, or permutation for the answer itself.")] = "auto",
    url: Annotated[str, typer.Option(help="The server.", envvar="PERENE_URL")] = "",
    key: Annotated[str, typer.Option(help="API key; by default this machine's own.", envvar="PERENE_KEY")] = "",
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Say which columns moved a prediction, and by how much."""
    from perene.client import Client
    from perene.keyring import stored_key

    if sum(one is not None for one in (file, identifier or None, row)) != 1:
        raise ConfigInvalid("one of --id, --row and a file is needed", where="explain")
    rows = None if identifier else _rows(row if row is not None else _text(file))
    settings = load(config, home=home)
    where = url or f"http://127.0.0.1:{settings.serving.port}"
    with Client(where, key or stored_key(settings.home), timeout_s=90.0, deadline_s=120.0) as client:
        found = client.explain(model, rows, prediction_ids=identifier or None, version=version, method=method)
    if as_json:
        emit(found, as_json=True)
    else:
        for number, one in enumerate(found, 1):
            say(_summary(number, one))
        emit(list(_lines(found)), as_json=False, columns=COLUMNS)
    if any("error" in one for one in found):
        raise typer.Exit(1)


def _text(file: Path | None) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else Path(file or "").read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid("the file of rows cannot be read", where=str(file), expected="JSON in UTF-8") from error


def _rows(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigInvalid("the rows are not JSON", expected='{"feature": 1.5} or a list of such rows') from error
    return found["rows"] if isinstance(found, dict) and set(found) == {"rows"} else found


def _summary(number: int, one: Mapping[str, Any]) -> str:
    if "error" in one:
        error = one["error"]
        hint = f" ({error['hint']})" if error.get("hint") else ""
        return f"row {number}: {error['message']}{hint}"
    of = "" if one["of"] is None else f" of {one['of']}"
    unsure = "" if one["standard_error"] is None else f", each up to ± {one['standard_error']:.2g}"
    return (
        f"row {number}: {one['output']}{of} {one['value']:.4g} = {one['base']:.4g} + the attributions"
        f" (version {one['version']}, method {one['method']}{unsure})"
    )


def _lines(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The columns of each row, the weightiest first."""
    for number, one in enumerate(found, 1):
        for column, value in sorted(one.get("attributions", {}).items(), key=lambda pair: -abs(pair[1])):
            yield {"row": number, "column": column, "attribution": value}
