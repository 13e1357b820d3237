"""`perene keys`: who may do what and how much."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from perene.config import load
from perene.options import Config, Home, Json
from perene.options import examples as _examples
from perene.output import emit, say
from registry.keys import KeyLimits, KeyRecord, new_key
from registry.ledger import Ledger
from registry.names import check_name

app = typer.Typer(no_args_is_help=True, help="API keys.")


@app.command("new")
@_examples(
    "perene keys new shop --scope predict",
    "perene keys new shop --scope predict --model flight-time --requests-per-second 50 --rows-per-day 100000",
)
def new(
    label: str,
    *,
    scope: Annotated[
        list[str], typer.Option(help="predict, feedback, read, register, promote, admin, erase or alert; repeatable.")
    ],
    model: Annotated[list[str] | None, typer.Option(help="Only these models; repeatable.")] = None,
    requests_per_second: Annotated[float | None, typer.Option(help="On average; 0: no limit.")] = None,
    rows_per_second: Annotated[float | None, typer.Option(help="On average; 0: no limit.")] = None,
    concurrent: Annotated[int | None, typer.Option(help="Requests at once; 0: no limit.")] = None,
    rows_per_day: Annotated[int | None, typer.Option(help="In a day of UTC; 0: no limit.")] = None,
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Make a key; its secret is shown once and kept nowhere. Limits not given are those of `[serving.limits]`."""
    limits = KeyLimits(requests_per_second, rows_per_second, concurrent, rows_per_day)
    secret, record = new_key(label, set(scope), {check_name(name) for name in model or ()}, limits=limits)
    with closing(Ledger.open(load(config, home=home).places.ledger_url)) as ledger:
        ledger.add_key(record)
    emit({"id": record.id, "key": secret}, as_json=as_json)
    say(f"next: perene keys revoke {record.id} ends it within seconds")


@app.command("list")
@_examples("perene keys list --json")
def show(*, home: Home = None, config: Config = None, as_json: Json = False) -> None:
    """List keys, without their secrets."""
    with closing(Ledger.open(load(config, home=home).places.ledger_url)) as ledger:
        rows = [_row(key) for key in ledger.keys()]  # noqa: SIM118
    emit(rows, as_json=as_json, columns=("id", "label", "scopes", "models", "limits", "revoked"))


@app.command("revoke")
@_examples("perene keys revoke 1a2b3c4d")
def revoke(identifier: str, home: Home = None, config: Config = None) -> None:
    """End a key; servers follow within seconds."""
    with closing(Ledger.open(load(config, home=home).places.ledger_url)) as ledger:
        ledger.revoke_key(identifier)
    say(f"key {identifier} is revoked")


def _row(key: KeyRecord) -> dict[str, object]:
    limits = ", ".join(f"{name} {value}" for name, value in key.limits.given().items())
    told = {"scopes": " ".join(sorted(key.scopes)), "models": " ".join(sorted(key.models)), "limits": limits}
    return {"id": key.id, "label": key.label, **told, "revoked": key.revoked}
