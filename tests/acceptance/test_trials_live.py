"""A worse candidate under load, on a real server and a real worker: it is taken back, by evidence that replays."""

from __future__ import annotations

import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from perene import api
from registry import approvals, experiment_requests
from registry.bundle import read_bundle
from registry.ledger import Experiment, Ledger
from retrain.evidence import replay
from retrain.places import Places
from retrain.trials import looks
from tests.integration.registered_toy import MODEL, Shelf
from tests.integration.serving_toy import ROW
from tests.ports import free_port

pytestmark = pytest.mark.timeout(480)

WAIT_S = 120.0
OFFSET = 100.0


@dataclass
class Load:
    """Threads that ask, each time for another entity, and soon tell the truth: `hour + 100`, and noise of a tenth."""

    port: int
    cap: float
    answers: list[tuple[float, float, int, int]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, count: int = 3) -> None:
        """Begin to ask."""
        self._threads = [threading.Thread(target=self._ask, args=(n,), daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop asking."""
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)

    def all_are(self, version: int) -> bool:
        """Whether the last answers all name it: more than chance gives of an arm that others are on, too."""
        last = self.answers[-200:]
        return len(last) == 200 and {answer[3] for answer in last} == {version}

    def _ask(self, number: int) -> None:
        rng = random.Random(number)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        told: list[dict[str, Any]] = []
        try:
            while not self._stop.wait(0.02):  # seldom enough that a worker that is slow to look meets no crowd
                hour, began = rng.randrange(24), time.time()
                body = {"rows": [{**ROW, "hour": hour}], "entity": f"{number}-{rng.getrandbits(48)}"}
                status, said = _post(connection, f"/models/{MODEL}/predict", body)
                self.answers.append((began, time.time(), status, said.get("version", 0)))
                truth = hour + OFFSET + rng.gauss(0.0, self.cap / 10)
                told.append({"prediction_id": said["prediction_ids"][0], "label": truth})
                if len(told) == 20:
                    status, _ = _post(connection, f"/models/{MODEL}/feedback", told)
                    if status >= 300:
                        self.broken.append(str(status))
                    told = []
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            self.broken.append(type(error).__name__)
        finally:
            connection.close()


def _post(connection: http.client.HTTPConnection, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read())


def until(holds: Callable[[], Any], what: str) -> Any:
    """Wait until it holds; returns what it gave."""
    deadline = time.monotonic() + WAIT_S
    while not (found := holds()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


@contextmanager
def process(home: Path, module: str, settings: Mapping[str, Any], *more: str) -> Iterator[None]:
    """A server or a worker over `home`; ended at the latest with the test."""
    path = home / f"{module}.json"
    path.write_text(json.dumps(settings))
    command = [sys.executable, "-m", module, "--home", str(home), "--settings", str(path), *more]
    with (home / f"{module}.log").open("ab") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "DO_NOT_TRACK": "true"})
    try:
        yield
    finally:
        started.terminate()
        try:
            started.wait(20)
        finally:
            started.kill()
            started.wait()


def ready(port: int) -> bool:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False


def test_a_candidate_of_five_points_more_loss_is_rolled_back_under_load(
    home: Path, toy_bundle: Path, tmp_path: Path
) -> None:
    """It answers half of the callers until harm is proved; no caller sees an error, and nobody did anything.

    Afterwards every answer is the champion's, the trial's row says why, and its evidence decides the same again.
    """
    cap = float(read_bundle(toy_bundle).reference["quality"]["cap"])
    shelf = Shelf(home, toy_bundle, tmp_path)
    # |N(0, 0.1)| has the mean 0.080, |N(0.1115, 0.1)| 0.130 of the cap
    good, worse = shelf.add(OFFSET), shelf.add(OFFSET + 0.1115 * cap)
    api.promote(MODEL, good, reason="first", settings=shelf.settings())
    table = {"trial": {"stages": ["canary:0.1", "ab:0.5"], "dwell": "1s", "canary_units": 20}}
    worker = {"models": {MODEL: table}, "port": 0, "reports": False, "tick_s": 0.2, "lease_ttl_s": 3.0}
    # on a busy machine some would be refused for the others' sake: right, but not what is looked at here
    patient = {"queue": {"seconds": 60}}
    serve = {"auth": False, "device": "cpu", "seal_seconds": 0.3, "poll_seconds": 0.1, **patient}
    port = free_port()
    with (
        process(home, "serving", serve, "--port", str(port)),
        process(home, "retrain", worker),
        closing(Ledger.open(Places(home).ledger_url)) as ledger,
    ):
        until(lambda: ready(port), "the server did not become ready")
        approvals.record(ledger, MODEL, worse, kind="registered", actor="ann", digest="d")
        load = Load(port, cap)
        load.start()
        try:
            asked = experiment_requests.start(ledger, MODEL, worse, actor="ann", reason="it looked good")

            def over() -> Experiment | None:
                found = ledger.experiments(MODEL, limit=1)
                return found[0] if found and found[0].stage == "done" else None

            trial: Experiment = until(over, "the candidate was not taken back")
            moved = ledger.history(MODEL)[-1]
            until(lambda: load.all_are(good) or load.broken, "the champion does not answer everybody")
            settled = time.time()
            until(lambda: load.answers[-1][0] > settled + 2.0 or load.broken, "nobody asks any more")
        finally:
            load.stop()
    assert load.broken == []
    assert {status for _, _, status, _ in load.answers} == {200}
    assert trial.experiment_id == asked["experiment_id"]
    assert (trial.state, trial.body["cause"]) == ("rolled_back", "harm"), (trial.body["why"], trial.body["facts"])
    assert (moved.champion, moved.candidate, moved.actor) == (good, None, "worker")
    with closing(Ledger.open(Places(home).ledger_url)) as ledger:
        bodies = [row.body for row in ledger.evidence(MODEL, "decision")]
        assert [body["action"] for body in bodies] == ["rollback", "advance"]
        assert all(replay(body) for body in bodies)
        assert moved.evidence_id == trial.body["evidence_id"]
        assert {look.stage for look in looks.read(ledger, trial.experiment_id)} == {"canary:0.1", "ab:0.5"}
        assert ledger.verify() == []
    treated = [ended for _, ended, _, version in load.answers if version == worse]
    late = max(treated) - moved.at.timestamp()
    print(f"{len(treated)} treated answers; the last one {late:.3f} s after the rollback's row")
    assert [b for b, _, _, v in load.answers if v == worse and b > settled] == []
    assert trial.body["facts"]["n_candidate"] < 2_000
