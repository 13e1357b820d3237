"""Lines to a file descriptor from a thread of its own: whoever logs never waits for whoever reads.

What cannot be written is dropped and counted, and the first line that can be written again says how many were lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

Source = Callable[[], bytes]
"""Gives the next whole lines to write, at most some tens of kilobytes; nothing when there are none."""

EVERY_S: Final = 0.1
MOST_WAITING: Final = 4_096
CLOSE_S: Final = 2.0


class LineWriter:
    """Writes lines to `descriptor`: those that are put at once, those of its sources ten times a second."""

    def __init__(self, descriptor: int, *, lost: Callable[[int], bytes]) -> None:
        self._descriptor = descriptor
        self.terminal = os.isatty(descriptor)
        kind = os.fstat(descriptor).st_mode
        self._shared = stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)
        self._lost_line = lost
        self._lines: deque[bytes] = deque()
        self._sources: list[Source] = []
        self._lost = 0
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Write a line, which ends with a newline, soon."""
        if len(self._lines) >= MOST_WAITING:
            self._lost += 1
            return
        self._lines.append(line)
        self._wake.set()

    def add(self, source: Source) -> None:
        """Ask `source` for lines from now on."""
        self._sources.append(source)

    def close(self, seconds: float = CLOSE_S) -> None:
        """Write what waits; a reader that does not read is not waited for."""
        self._closing = True
        self._wake.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        ending = False
        while not ending:
            ending = self._closing  # what was put before is written still
            if not ending:
                self._wake.wait(EVERY_S)
                self._wake.clear()
            self._drain()

    def _drain(self) -> None:
        while self._lines:
            self._write(self._lines.popleft(), 1)
        for source in self._sources:
            while lines := source():
                self._write(lines, lines.count(b"\n"))

    def _write(self, lines: bytes, count: int) -> None:
        if self._lost:
            lost, self._lost = self._lost, 0
            if not self._out(self._lost_line(lost)):
                self._lost += lost + count
                return
        if not self._out(lines):
            self._lost += count

    def _out(self, data: bytes) -> bool:
        if not self._shared:
            return self._written(data)
        # a full pipe takes a write in parts, and what another process writes could come between them
        with contextlib.suppress(OSError):
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            return self._written(data)
        finally:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _written(self, data: bytes) -> bool:
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # somebody made the descriptor non-blocking: the thread waits, nobody else does
                select.select((), (self._descriptor,), (), EVERY_S)
            except OSError:
                return False  # a full disk, or a reader that went away
        return True
