"""Keeps the processes of one machine running: starts them, restarts what dies, stops all in reverse order."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from registry import child

GRACE_S = 12.0
"""A server drains for up to 10 s before it may be killed."""
MAX_BACKOFF_S = 15.0
_log = logging.getLogger("perene.supervisor")


@dataclass(frozen=True, slots=True)
class Program:
    """A module to run as a process, with a log file of its own unless it speaks where this process does."""

    name: str
    module: str
    arguments: tuple[str, ...]
    logs_here: bool = False
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables of its environment: unlike its arguments, no other user of the machine sees them."""


Link = Callable[[str], socket.socket]
"""Makes the program's end of a channel between it and this process, each time that it starts."""


class Supervisor:
    """Runs `programs` until `stop`. A program that ends is started again, after 0.2 s doubling up to 15 s.

    With a `link`, each program inherits its end of a channel and is told its number as `--channel`.
    """

    def __init__(self, programs: Sequence[Program], logs: Path, *, link: Link | None = None) -> None:
        self._programs = list(programs)
        self._logs = logs
        self._link = link
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._files: dict[str, IO[bytes]] = {}
        self._stopping = threading.Event()
        # one thread starts every child and lives until the end: see registry.child on parent death
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._started = threading.Event()
        self.restarts: dict[str, int] = {program.name: 0 for program in programs}
        self.codes: dict[str, int] = {}
        """How each program ended that has ended, the last time."""

    def start(self) -> None:
        """Start every program."""
        self._logs.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        self._started.wait()

    def pid(self, name: str) -> int | None:
        """Process id of a running program."""
        process = self._processes.get(name)
        return process.pid if process is not None and process.poll() is None else None

    def stop(self, grace_s: float = GRACE_S) -> None:
        """End every program, the last one started first; kills what does not end in time."""
        self._stopping.set()
        self._thread.join(timeout=5)
        for program in reversed(self._programs):
            process = self._processes.get(program.name)
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
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
                    self.codes[name] = process.returncode
                    self.restarts[name] += 1
                if now >= due[name]:
                    started[name] = now
                    try:
                        self._processes[name] = self._spawn(program)
                    except OSError as error:  # no memory or descriptor left: with this thread every child would end
                        _log.error("supervisor.cannot_start", extra={"program": name, "error": error.strerror})
                        started[name], due[name] = 0.0, now + backoff[name]
                        backoff[name] = min(MAX_BACKOFF_S, backoff[name] * 2)
            self._started.set()
            self._stopping.wait(0.1)

    def _spawn(self, program: Program) -> subprocess.Popen[bytes]:
        log = None if program.logs_here else self._log_of(program.name)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        end = self._link(program.name) if self._link is not None else None
        channel = () if end is None else ("--channel", str(end.fileno()))
        try:
            return subprocess.Popen(
                child.command(program.module, *program.arguments, *channel),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=None if log is None else subprocess.STDOUT,
                env={**environment, "DO_NOT_TRACK": "true", **program.secrets},
                pass_fds=() if end is None else (end.fileno(),),
                # Ctrl-C reaches only us: we stop the children in order
                start_new_session=True,
            )
        finally:
            if end is not None:
                end.close()

    def _log_of(self, name: str) -> IO[bytes]:
        log = self._files.get(name)
        if log is None:
            log = self._files[name] = (self._logs / f"{name}.log").open("ab")
        return log
