"""Losses that only the shipper saw: of processes that are gone. A living one counts them, so that metrics tell."""

from __future__ import annotations

import contextlib
from pathlib import Path
from time import monotonic

__all__ = ["Claims", "leave"]

_SUFFIX = ".lost"
_EVERY_S = 1.0


def leave(spool: Path, count: int) -> None:
    """Say that the dead process of `spool` lost so many events; to say it again is harmless until it is claimed."""
    spool.with_suffix(_SUFFIX).write_text(str(count))


class Claims:
    """Looks once a second for what was left in a folder of spools."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._due = 0.0

    def take(self) -> int:
        """Events that dead processes lost without counting them; each is handed out once, to one process."""
        if monotonic() < self._due:
            return 0
        self._due = monotonic() + _EVERY_S
        total = 0
        try:
            files = list(self._folder.glob(f"*{_SUFFIX}"))
        except OSError:  # out of file handles, say: whoever commits events must not end for it, and looks again
            return 0
        for file in files:
            with contextlib.suppress(OSError, ValueError):
                count = int(file.read_text())
                file.unlink()  # of several processes, one removes it: that one counts
                total += count
        return total
