"""Which process did something, so that it can be told later whether it still lives."""

from __future__ import annotations

import os
from pathlib import Path


def alive(process: int) -> str:
    """A process by its number and the time of its start, for numbers come again; empty when there is none."""
    try:
        return _named(process)
    except (OSError, IndexError):
        return f"{process}.0" if process == os.getpid() else ""


def lives(holder: str) -> bool:
    """Whether the process that `alive` named so is still there."""
    number = holder.partition(".")[0]
    try:
        return number.isdigit() and _named(int(number)) == holder
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return holder == f"{os.getpid()}.0"
    except OSError:  # it cannot be looked up, as without a free descriptor: nobody is taken for dead because of that
        return True


def _named(process: int) -> str:
    return f"{process}.{Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[19]}"
