"""Children of the worker: they die with it, with a time limit, and their output is kept."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

__all__ = ["Child", "limit_memory"]


def limit_memory(megabytes: int) -> None:
    """Bound private writable memory; address space is not bounded, for ONNX Runtime and OpenMP reserve much of it."""
    resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))


@dataclass
class Child:
    """A started child process. `poll` is None while it runs; 124 means that it ran out of time."""

    process: subprocess.Popen[bytes]
    deadline: float
    log: IO[bytes]
    expired: bool = field(default=False, init=False)

    @classmethod
    def start(
        cls, arguments: Sequence[str], *, log: Path, seconds: float, secrets: Mapping[str, str] | None = None
    ) -> Child:
        """Run `python -m …` in its own process group, its output appended to `log`, `secrets` in its environment."""
        log.parent.mkdir(parents=True, exist_ok=True)
        out = log.open("ab")
        # threads that spin beside busy neighbours cost more than they bring: 20 s instead of 1 for 66,000 rows
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "DO_NOT_TRACK": "true", **(secrets or {})}
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        return cls(process, time.monotonic() + seconds, out)

    def poll(self) -> int | None:
        """The exit status, or None; kills the group once its time is up."""
        status = self.process.poll()
        if status is None and time.monotonic() > self.deadline:
            self.expired = True
            self.stop()
            status = 124
        if status is not None and not self.log.closed:
            self.log.close()
        return 124 if self.expired else status

    def stop(self) -> None:
        """Kill the whole group and reap it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()
