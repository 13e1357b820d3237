"""The real demo, run once with its server and its worker killed on the way; and a server on a home."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from registry.errors import StoreUnavailable
from registry.ledger import Ledger
from tests.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "examples" / "flights" / "perene.toml"
PERENE = Path(sys.executable).with_name("perene")
MODEL = "flight-time"
DEMO_S = 900.0
"""Longest wait for the demo; it takes about 90 s on two cores, and several times that on busy ones."""


def environment(**more: str) -> dict[str, str]:
    """This process's environment without a configuration of Perene, and `more`."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("PERENE") and key != "PYTHONDONTWRITEBYTECODE"
    }
    return {**inherited, "DO_NOT_TRACK": "true", "COLUMNS": "200", **more}


def wait_for(what: Callable[[], Any], *, seconds: float, why: str) -> Any:
    """The first true value of `what`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:.0f} s: {why}")


def perene(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a person would."""
    return subprocess.run(
        [str(PERENE), *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@dataclass
class DemoRun:
    """What a finished demo left behind."""

    home: Path
    status: int
    stdout: str
    stderr: str
    killed: dict[str, int] = field(default_factory=dict)
    """Process ids of the children that were killed."""
    replaced_by: dict[str, int] = field(default_factory=dict)

    @property
    def json(self) -> dict[str, Any]:
        """The report on stdout."""
        data: dict[str, Any] = json.loads(self.stdout)
        return data

    def ledger(self) -> Ledger:
        """The ledger of the run."""
        return Ledger.open(f"sqlite:///{self.home / 'ledger.db'}")


def child_pid(parent: int, module: str) -> int | None:
    """The child of `parent` that runs `module`: only ever a process this test started."""
    try:
        for child in psutil.Process(parent).children():
            if module in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                return child.pid
    except psutil.NoSuchProcess:
        return None
    return None


def run_demo(folder: Path) -> DemoRun:
    """Play the demo until a promotion; kill -9 its server after the first finding, its worker while it trains."""
    home = folder / "home"
    out, err = folder / "stdout", folder / "stderr"
    ports = {"PERENE__SERVING__PORT": str(free_port()), "PERENE__WORKER_PORT": str(free_port())}
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [str(PERENE), "demo", "flights", "--until-promoted", "--json", "--home", str(home)],
            cwd=folder,
            env=environment(**ports),
            stdout=stdout,
            stderr=stderr,
        )
        run = DemoRun(home, -1, "", "")
        try:
            _kill_when(run, process, "serving", _finding)
            _kill_when(run, process, "retrain", _training)
            run.status = process.wait(timeout=DEMO_S)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=60)
    run.stdout, run.stderr = out.read_text(), err.read_text()
    return run


def _kill_when(run: DemoRun, process: subprocess.Popen[bytes], module: str, due: Callable[[Ledger], bool]) -> None:
    def look() -> bool:
        assert process.poll() is None, f"the demo ended before its {module} process could be killed"
        if not (run.home / "ledger.db").is_file():
            return False
        try:
            with closing(run.ledger()) as ledger:
                return due(ledger)
        except StoreUnavailable:  # it is being created
            return False

    wait_for(look, seconds=DEMO_S, why=f"the moment to kill {module}")
    pid = child_pid(process.pid, module)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    run.killed[module] = pid

    def successor() -> int | None:
        found = child_pid(process.pid, module)
        return found if found != pid else None

    run.replaced_by[module] = wait_for(successor, seconds=90, why=f"a new {module} process")


def _finding(ledger: Ledger) -> bool:
    return bool(ledger.evidence(MODEL, "finding", limit=1))


def _training(ledger: Ledger) -> bool:
    return any(run.status == "running" and run.step != "begin" for run in ledger.runs(MODEL, limit=1))


@dataclass
class Server:
    """`perene serve` on a home, as a process that can be killed."""

    home: Path
    port: int
    variables: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until a model is ready."""
        log = (self.home / "logs" / "test-serve.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [str(PERENE), "serve", "--home", str(self.home), "--config", str(CONFIG)],
                cwd=self.home,
                env=environment(PERENE__SERVING__PORT=str(self.port), **self.variables),
                stdout=log,
                stderr=log,
            )
        wait_for(self._ready, seconds=120, why="the server is ready")

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the server ended"
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """Kill -9 the server with its puller and shipper: no process of it gets to do anything more."""
        assert self.process is not None
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children()]
        # stopped first, so that none sees another one die
        for process in family:
            process.suspend()
        for process in family:
            process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it as an operator would."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=60)
