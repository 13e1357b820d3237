"""The commands about what a version promises: contract show, contract diff, signing new."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from perene.config import load
from perene.options import Config, Home, Json, examples
from perene.output import emit, say

contract_app = typer.Typer(no_args_is_help=True, help="What versions take and answer.")
signing_app = typer.Typer(no_args_is_help=True, help="Keys that vouch for versions.")


def add_to(app: typer.Typer) -> None:
    """Register these commands with the `perene` command."""
    app.add_typer(contract_app, name="contract")
    app.add_typer(signing_app, name="signing")


@contract_app.command("show")
@examples("perene contract show flight-time", "perene contract show flight-time 3 --json")
def contract_show(
    name: str,
    version: Annotated[int | None, typer.Argument(help="By default the champion.")] = None,
    *,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Columns and answer of a version."""
    from perene.versions import inspect

    found = inspect(name, version, settings=load(config, home=home)).contract
    if as_json:
        emit(found.to_dict(), as_json=True)
        return
    classes = f" over {len(found.output.classes)} classes" if found.output.classes else ""
    say(f"{found.model}: {found.output.kind}{classes}, {found.precision}")
    emit(
        [asdict(column) for column in found.columns],
        as_json=False,
        columns=("name", "dtype", "nullable", "minimum", "maximum", "policy"),
    )


@contract_app.command("diff")
@examples("perene contract diff flight-time 3 4", "perene contract diff flight-time 3 4 --json")
def contract_diff(
    name: str,
    old: Annotated[int, typer.Argument(help="The version that callers know.")],
    new: Annotated[int, typer.Argument(help="The one that would take over.")],
    *,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """What changed between two versions; exit code 1 when callers of the first would break."""
    from perene.versions import fetch
    from registry.contract_diff import contract_diff as compare

    settings = load(config, home=home)
    with tempfile.TemporaryDirectory(prefix="perene-") as scratch:
        before, after = (fetch(settings, name, version, Path(scratch)).contract for version in (old, new))
    changes = compare(before, after)
    emit([asdict(change) for change in changes], as_json=as_json, columns=("breaking", "kind", "column", "message"))
    if any(change.breaking for change in changes):
        say("next: promote with --breaking once callers know")
        raise typer.Exit(1)


@signing_app.command("new")
@examples("perene signing new --out key.pem")
def signing_new(
    *,
    out: Annotated[Path, typer.Option(help="A new file for the private key, readable by this account only.")],
    as_json: Json = False,
) -> None:
    """Make a key that signs versions; its public half is for `[signing] trusted`."""
    from registry.signing import new_key

    made = new_key(out)
    emit({"public": made.text, "id": made.key_id, "private": str(out)}, as_json=as_json)
    say(f"next: [signing] key = '{out}' where models are logged, trusted = ['{made.text}'] where they are served")
