"""Promise 9: from `rollback` until every answer is the earlier champion's, on one node with a real serve process.

`python -m bench.registry.rollback [--rounds 20] [--workers 2]` prints JSON: seconds of the Python call in a running
process, and of the whole `perene rollback` command. The home is a temporary one with two versions of a small model.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perene import api
from perene.config import Settings
from registry.ledger import Ledger

WAIT_S = 60.0
SETTINGS: dict[str, Any] = {"auth": False, "device": "cpu"}
"""Of the server, beside its number of workers."""
RollBack = Callable[[Settings], "subprocess.Popen[bytes] | None"]
"""Rolls the model back, or starts the process that will."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply: when it was asked for and complete (monotonic seconds), its status and the version it names."""

    began: float
    ended: float
    status: int
    version: int


@dataclass
class Clients:
    """Threads that ask a hundred times a second each and keep every answer."""

    port: int
    model: str
    row: dict[str, Any]
    answers: list[Answer] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, count: int = 4) -> None:
        """Begin to ask."""
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop asking."""
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)

    def _ask(self) -> None:
        body = json.dumps({"rows": [self.row]})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                connection.request("POST", f"/models/{self.model}/predict", body, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                said = json.loads(reply.read())
                self.answers.append(Answer(began, time.monotonic(), reply.status, said.get("version", 0)))
                self._stop.wait(0.01)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.broken.append(type(error).__name__)
        finally:
            connection.close()

    def all_are(self, version: int, *, since: float) -> bool:
        """Whether a good number of answers begun after `since` came, and the last ones all name `version`."""
        last = [a for a in self.answers[-40:] if a.began > since]
        return len(last) >= 20 and {a.version for a in last[-20:]} == {version}


@contextmanager
def serving(home: Path, workers: int) -> Iterator[int]:
    """A server over `home` without keys, of so many processes; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    settings = home / "serve.json"
    settings.write_text(json.dumps({**SETTINGS, "workers": workers}))
    command = [sys.executable, "-m", "serving", "--home", str(home), "--port", str(port), "--settings", str(settings)]
    with (home / "serve.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        # a new connection goes to any of the workers: each of them must be ready
        _until(lambda: all(_ready(port) for _ in range(16)), "the server did not become ready")
        yield port
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.wait()


def measure(
    home: Path,
    model: str,
    row: dict[str, Any],
    *,
    old: int,
    new: int,
    rounds: int,
    roll_back: RollBack,
    workers: int = 1,
) -> tuple[list[float], Clients]:
    """Seconds of each round from the call until the last answer of `new` was complete; and every answer there was."""
    settings = Settings(home=home)
    with serving(home, workers) as port, closing(Ledger.open(settings.places.ledger_url)) as ledger:
        clients = Clients(port, model, row)
        clients.start()
        seconds: list[float] = []
        try:
            for _ in range(rounds):
                began = time.monotonic()
                _deploy(ledger, model, new)
                _until(lambda since=began: clients.all_are(new, since=since), "it was not promoted")  # type: ignore[misc]
                called = time.monotonic()
                begun = roll_back(settings)
                _until(lambda since=called: clients.all_are(old, since=since), "it was not rolled back")  # type: ignore[misc]
                late = [a.ended for a in clients.answers if a.version == new and a.ended > called]
                seconds.append(max(late, default=called) - called)
                if begun is not None:
                    begun.wait(WAIT_S)
        finally:
            clients.stop()
    return seconds, clients


def by_call(model: str) -> RollBack:
    """`perene.rollback` in this process."""

    def call(settings: Settings) -> None:
        api.rollback(model, reason="bench", settings=settings)

    return call


def by_command(model: str) -> RollBack:
    """The command, from its start; it goes on with MLflow's aliases while the answers change."""

    def run(settings: Settings) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "perene.cli", "rollback", model, "--home", str(settings.home)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return run


def _deploy(ledger: Ledger, model: str, version: int) -> None:
    current = ledger.deployment(model)
    revision = current.revision if current else 0
    ledger.move(model, expected_revision=revision, champion=version, actor="bench", reason="forward")


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.01)


def prepare(home: Path) -> tuple[str, dict[str, Any]]:
    """Two versions of a small model in a fresh home, the first one deployed; its name and a row for it."""
    import numpy as np
    import pandas as pd
    from sklearn.linear_model import LinearRegression

    rng = np.random.default_rng(0)
    X = pd.DataFrame({"x": rng.uniform(0, 10, 2_000), "z": rng.normal(size=2_000)}).astype(np.float32)
    for shift in (5.0, 15.0):
        y = 2 * X["x"].to_numpy() + 5 * X["z"].to_numpy() + shift + rng.normal(0, 3, 2_000)
        api.log_model(LinearRegression().fit(X, y), X, y, name="toy", settings=Settings(home=home))
    return "toy", {"x": 1.5, "z": 0.5}


def main() -> None:
    """Measure both ways and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.registry.rollback")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    told = parser.parse_args()
    rounds, workers = told.rounds, told.workers
    result: dict[str, Any] = {"cores": os.cpu_count(), "rounds": rounds, "workers": workers}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        model, row = prepare(home)
        for name, how in (("call", by_call(model)), ("command", by_command(model))):
            seconds, clients = measure(home, model, row, old=1, new=2, rounds=rounds, roll_back=how, workers=workers)
            bad = sum(a.status != 200 for a in clients.answers) + len(clients.broken)
            result[name] = {
                "median_s": round(statistics.median(seconds), 3),
                "max_s": round(max(seconds), 3),
                "answers": len(clients.answers),
                "not_200": bad,
            }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
