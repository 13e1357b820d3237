"""A server under measurement: pinned to its cores, watched with all its descendants, and ended with them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil

SERVER_CORE = "0"
LOAD_CORE = 1
_SUBREAPER = 36
_STOP_S = 15.0


def be_the_load() -> None:
    """Pin this process to the core of the load, and adopt what servers leave behind, so that nothing outlives us."""
    os.sched_setaffinity(0, {LOAD_CORE})
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


class Server:
    """One server: every process below this one, except those that had been there before. Use it as a context."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        cores: str = SERVER_CORE,
    ) -> None:
        self._before = {child.pid for child in psutil.Process().children(recursive=True)}
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "DO_NOT_TRACK": "true", **(env or {})}
        self.began = time.perf_counter()
        with log.open("wb") as file:
            self.main = subprocess.Popen(
                ["taskset", "-c", cores, *command], stdout=file, stderr=file, env=environment, cwd=cwd
            )

    def __enter__(self) -> Server:
        """The server itself; it may not be ready yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask it to end; after a while, end it and whatever it left."""
        self.main.send_signal(signal.SIGTERM)
        try:
            self.main.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            self.main.kill()
            self.main.wait()
        for sign in (signal.SIGTERM, signal.SIGKILL):
            left = self.processes()
            for process in left:
                _send(process, sign)
            psutil.wait_procs(left, timeout=3)

    def processes(self) -> list[psutil.Process]:
        """The server and all its descendants, adopted ones included."""
        return [child for child in psutil.Process().children(recursive=True) if child.pid not in self._before]

    def cpu_seconds(self) -> float:
        """User and system time of all of them."""
        total = 0.0
        for process in self.processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    def memory_mib(self) -> float:
        """Memory of all of them, pages that they share counted once."""
        total = 0
        for process in self.processes():
            try:
                total += process.memory_full_info().pss
            except psutil.NoSuchProcess:
                continue
        return total / 2**20

    def rss_mib(self) -> float:
        """Resident memory of the main process alone."""
        return float(psutil.Process(self.main.pid).memory_info().rss) / 2**20

    def ended(self) -> bool:
        """Whether the main process is gone."""
        return self.main.poll() is not None

    def last_words(self, lines: int) -> str:
        """The end of what it printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def _send(process: psutil.Process, sign: signal.Signals) -> None:
    try:
        process.send_signal(sign)
    except psutil.NoSuchProcess:
        return
