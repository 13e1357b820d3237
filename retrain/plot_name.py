"""Where a picture may be saved."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from registry.errors import ConfigInvalid

__all__ = ["plot_path"]

KINDS: Final = (".png", ".svg", ".pdf")


def plot_path(to: Path | str, *, example: str) -> Path:
    """The path, if a plot can be saved there: to be asked before hours of work, not after.

    Raises:
        ConfigInvalid: the name ends in no known kind, or there is no such folder.
    """
    path = Path(to)
    if path.suffix.lower() not in KINDS:
        raise ConfigInvalid(
            f"'{path.name}' is no name of a plot", where="plot", expected=", ".join(KINDS), hint=f"name it {example}"
        )
    if not path.parent.is_dir():
        raise ConfigInvalid("there is no such folder", where=str(path.parent), hint="make it first")
    return path
