"""Keeps the processes of one machine running: starts them, restarts what dies, stops all in reverse order."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from registry import child

GRACE_S = 12.0
"""A server drains for up to 10 s before it may be killed."""
MAX_BACKOFF_S = 15.0


@dataclass(frozen=True, slots=True)
class Program:
    """A module to run as a process, with a log file of its own."""

    name: str
    module: str
    arguments: tuple[str, ...]


class Supervisor:
    """Runs `programs` until `stop`. A program that ends is started again, after 0.2 s doubling up to 15 s."""

    def __init__(self, programs: Sequence[Program], logs: Path) -> None:
        self._programs = list(programs)
        self._logs = logs
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._files: dict[str, IO[bytes]] = {}
        self._stopping = threading.Event()
        # one thread starts every child and lives until the end: see registry.child on parent death
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._started = threading.Event()
        self.restarts: dict[str, int] = {program.name: 0 for program in programs}

    def start(self) -> None:
        """Start every program."""
        self._logs.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        self._started.wait()

    def pid(self, name: str) -> int | None:
        """Process id of a running program."""
        process = self._processes.get(name)
        return process.pid if process is not None and process.poll() is None else None

    def stop(self) -> None:
        """End every program, the last one started first; kills what does not end within 12 s."""
        self._stopping.set()
        self._thread.join(timeout=5)
        for program in reversed(self._programs):
            process = self._processes.get(program.name)
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        for process in self._processes.values():
            try:
                process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for file in self._files.values():
            file.close()

    def _watch(self) -> None:
        backoff = {program.name: 0.2 for program in self._programs}
        due = dict.fromkeys(backoff, 0.0)
        started = dict.fromkeys(backoff, 0.0)
        while not self._stopping.is_set():
            now = time.monotonic()
            for program in self._programs:
                name = program.name
                process = self._processes.get(name)
                if process is not None and process.poll() is None:
                    if now - started[name] > 60:
                        backoff[name] = 0.2
                    continue
                if process is not None and due[name] <= started[name]:
                    due[name] = now + backoff[name]
                    backoff[name] = min(MAX_BACKOFF_S, backoff[name] * 2)
                    self.restarts[name] += 1
                if now >= due[name]:
                    self._processes[name] = self._spawn(program)
                    started[name] = now
            self._started.set()
            self._stopping.wait(0.1)

    def _spawn(self, program: Program) -> subprocess.Popen[bytes]:
        log = self._files.get(program.name)
        if log is None:
            log = self._files[program.name] = (self._logs / f"{program.name}.log").open("ab")
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        return subprocess.Popen(
            child.command(program.module, *program.arguments),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment, "DO_NOT_TRACK": "true"},
            # Ctrl-C reaches only us: we stop the children in order
            start_new_session=True,
        )
