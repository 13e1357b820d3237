"""The commands about versions and the ledger: approve, ledger verify."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from perene import adoption_commands
from perene.config import load
from perene.options import Config, Home, Json, examples
from perene.output import emit, say
from registry.errors import ConfigInvalid

ledger_app = typer.Typer(no_args_is_help=True, help="The ledger: who served, who decided, on what evidence.")


def add_to(app: typer.Typer) -> None:
    """Register these commands with the `perene` command."""
    app.command()(approve)
    adoption_commands.add_to(app)
    app.add_typer(ledger_app, name="ledger")


@examples("perene approve flight-time 3 --reason 'read the card and the certificate'")
def approve(
    name: str,
    version: int,
    *,
    reason: Annotated[str, typer.Option(help="Goes to the ledger.")] = "by hand",
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Approve a version for promotion, as the account you are logged in with."""
    from perene.api import approve as record

    approval = record(name, version, reason=reason, settings=load(config, home=home))
    emit(approval, as_json=as_json)
    say(f"next: perene promote {name} {version}")


@ledger_app.command("verify")
@examples(
    "perene ledger verify",
    "perene ledger verify --json > receipt.json",
    "perene ledger verify --against receipt.json",
)
def ledger_verify(
    *,
    against: Annotated[Path | None, typer.Option(help="What an earlier `--json` printed.")] = None,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Recompute the ledger's hash chains; exit code 1 and where, when a row was changed, removed or put in."""
    from registry.ledger import Ledger

    kept = _seals(against) if against else {}
    with closing(Ledger.open(load(config, home=home).places.ledger_url)) as ledger:
        problems, seals = ledger.verify(kept), ledger.seals()
    emit({"ok": not problems, "problems": problems, "seals": seals}, as_json=as_json)
    if problems:
        raise typer.Exit(1)


def _seals(path: Path) -> dict[str, dict[str, object]]:
    try:
        found: dict[str, dict[str, object]] = json.loads(path.read_text())["seals"]
        return {str(chain): {"rows": int(str(s["rows"])), "seal": str(s["seal"])} for chain, s in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigInvalid(
            f"{path}: not a receipt of the ledger",
            where="--against",
            expected="what perene ledger verify --json printed",
        ) from error
