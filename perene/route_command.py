"""`perene route`: segments of requests that a version of their own answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from perene.config import load
from perene.options import Config, Home, Json, examples
from perene.output import emit, say
from registry.errors import ConfigInvalid

_MOST_BYTES = 1 << 20


@examples("perene route flight-time", "perene route flight-time --file routing.json --reason 'gold stays on 7'")
def route(
    name: str,
    *,
    file: Annotated[Path | None, typer.Option(help="JSON with the new segments; else what holds is shown.")] = None,
    reason: Annotated[str, typer.Option(help="Goes to the ledger.")] = "by hand",
    home: Home = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show or change which requests get a version of their own."""
    import msgspec

    from perene.routes import route as change
    from perene.routes import routing_of

    settings = load(config, home=home)
    if file is None:
        emit(msgspec.to_builtins(routing_of(name, settings=settings)), as_json=True)
        return
    moved = change(name, _read(file), reason=reason, settings=settings)
    emit({"model": name, "champion": moved.champion, "revision": moved.revision}, as_json=as_json)
    say(f"next: perene route {name}")


def _read(file: Path) -> dict[str, object]:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ConfigInvalid(f"{file}: too large", where="--file", expected=f"at most {_MOST_BYTES} bytes")
        body = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigInvalid(
            f"{file}: not readable as JSON ({type(error).__name__})", where="--file", expected='{"segments": […]}'
        ) from error
    if not isinstance(body, dict):
        raise ConfigInvalid(f"{file}: no JSON object", where="--file", expected='{"segments": […]}')
    return body
