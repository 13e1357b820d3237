"""What the commands share: the flags that most of them have, and help that begins with examples."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

P = ParamSpec("P")
Home = Annotated[Path | None, typer.Option(help="Folder of the embedded stores; goes before PERENE__HOME.")]
Config = Annotated[Path | None, typer.Option(help="Another file than ./perene.toml.", envvar="PERENE_CONFIG")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def examples(*lines: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Put examples first in a command's help."""

    def decorate(function: Callable[P, None]) -> Callable[P, None]:
        shown = "\n\n".join(f"`{line}`" for line in lines)

        @wraps(function)
        def command(*args: P.args, **kwargs: P.kwargs) -> None:
            function(*args, **kwargs)

        command.__doc__ = f"{function.__doc__}\n\n**Examples**\n\n{shown}"
        return command

    return decorate
