"""A process that has imported everything and forks the ones that are to be killed: a cycle takes milliseconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Nursery", "nursery"]

ROOT = Path(__file__).parents[2]

_LOOP = """

def _nurse():
    import os, sys
    for line in sys.stdin:
        word = line.strip()
        if word == "reap":
            print(os.waitpid(child, 0)[1], flush=True)
            continue
        child = os.fork()
        if not child:
            try:
                work(word)
            finally:
                os._exit(3)
        print(child, flush=True)

_nurse()
"""


class Nursery:
    """Forks a child that runs `work(word)` of the script, and kills it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.child = 0

    def fork(self, word: str) -> None:
        """Start a child."""
        self.child = int(self._ask(word))

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; it must not have ended by itself."""
        os.kill(self.child, signal.SIGKILL)
        assert int(self._ask("reap")) == signal.SIGKILL
        self.child = 0

    def _ask(self, word: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@contextmanager
def nursery(script: str, *arguments: object) -> Iterator[Nursery]:
    """Run a script that defines `work(word)`, and let it fork; a child that is still there in the end is killed."""
    command = [sys.executable, "-c", script + _LOOP, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    made = Nursery(process)
    try:
        with process:
            yield made
            assert process.stdin is not None
            process.stdin.close()
    finally:
        if made.child:
            os.kill(made.child, signal.SIGKILL)
        process.kill()
