"""Which process did something, so that it can be told later whether it still lives."""

from __future__ import annotations

import os
from pathlib import Path


def alive(process: int) -> str:
    """A process by its number and the time of its start, for numbers come again; empty when there is none."""
    try:
        return f"{process}.{Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return f"{process}.0" if process == os.getpid() else ""


def lives(holder: str) -> bool:
    """Whether the process that `alive` named so is still there."""
    number = holder.partition(".")[0]
    return number.isdigit() and alive(int(number)) == holder
