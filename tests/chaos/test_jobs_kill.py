"""What was accepted with 202 is answered, whatever is killed: server, worker, process of jobs, the one that scores.

Each accepted job ends once and well; each row of a file is in its result once; each prediction is in the event log
under the ids that its caller was told, and under the very same ones again only where a kill hit the moment between the
log's commit and the queue's. `PERENE_CHAOS=full` kills 100 times instead of 6.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pyarrow.parquet as pq
import pytest

from monitoring.lake.lake import Lake
from serving.settings import JobSettings
from tests.acceptance.test_serving_process import NO_LEDGER, ROOT, Server
from tests.integration.batch_files import toy_rows, write_parquet
from tests.integration.serving_toy import ROW, Cache

KILLS = 100 if os.environ.get("PERENE_CHAOS") == "full" else 6
ROWS = 20_000
FILE_EVERY = 30 if KILLS < 100 else 60
"""Jobs: each file takes seconds of a core, and is begun anew by each kill that meets it."""
SETTLED_S = 120.0 + 3 * KILLS
WORKERS = 2
BATCH = "application/vnd.apache.parquet"


class Faulty(Server):
    """The server with the bug."""

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.chaos.jobs_serving", "--home", str(self.home), "--port", str(self.port)]
        command += ["--settings", str(self.home / "serve.json"), "--ledger-url", NO_LEDGER]
        with (self.home / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


@dataclass
class Client:
    """Hands jobs in until it is told to stop, each under a key of its own, until it is accepted."""

    server: Server
    file: bytes
    stop: threading.Event = field(default_factory=threading.Event)
    predictions: dict[str, int] = field(default_factory=dict)
    """Accepted, by place: the hour that was asked about."""
    files: list[str] = field(default_factory=list)
    killed: int = 0
    """How often one that answers was."""

    def run(self) -> None:
        """One job after the other; now and then a file."""
        number = 0
        while not self.stop.is_set():
            number += 1
            if number % FILE_EVERY == 1:
                place = self._accepted("/models/toy/batch?keep=id", self.file, {"content-type": BATCH})
                self.files += [place] if place else []
            else:
                hour = number % 24
                body = json.dumps({"rows": [{**ROW, "hour": hour}]}).encode()
                place = self._accepted(
                    "/predict", body, {"content-type": "application/json", "prefer": "respond-async"}
                )
                self.predictions |= {place: hour} if place else {}
            self.stop.wait(0.05)

    def _accepted(self, path: str, body: bytes, headers: dict[str, str]) -> str:
        sent = {**headers, "authorization": f"Bearer {self.server.key}", "idempotency-key": str(uuid4())}
        while not self.stop.is_set():
            connection = self.server.connect()
            try:
                connection.request("POST", path, body, sent)
                reply = connection.getresponse()
                content = reply.read()
                if reply.status == 202:
                    return reply.headers["location"]
                assert reply.status in (409, 429, 503), content
            except (OSError, http.client.HTTPException):
                pass  # killed
            finally:
                connection.close()
            self.stop.wait(0.05)
        return ""


def _victim(server: Server, word: str) -> psutil.Process | None:
    """A descendant of the server with this word in its command."""
    try:
        found = psutil.Process(server.process.pid).children(recursive=True)
        return next((process for process in found if word in process.cmdline()), None)
    except psutil.Error:
        return None


def _storm(server: Server, file: Path, *, kills: int, seed: int, only: tuple[str, ...] = ()) -> Client:
    """Kill at random under load; returns what was accepted."""
    dice, client, pause = random.Random(seed), Client(server, file.read_bytes()), threading.Event()
    thread = threading.Thread(target=client.run)
    thread.start()
    try:
        for _ in range(kills):
            pause.wait(dice.uniform(0.3, 1.5))
            what = dice.choice(only or ("server", "--channel", "serving.jobs.process", "serving.jobs.child"))
            if what == "server":
                client.killed += 1
                server.process.kill()
                server.process.wait()
                server.start()
                server.ready()
                continue
            deadline = time.monotonic() + 5
            while (victim := _victim(server, what)) is None and time.monotonic() < deadline:
                pause.wait(0.02)
            if victim is not None:
                client.killed += what == "--channel"
                pause.wait(dice.uniform(0, 0.8))
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
    finally:
        client.stop.set()
        thread.join()
    return client


def _settled(server: Server, places: list[str]) -> dict[str, Any]:
    """How each job stands once all have ended; those that nobody knows of are left out."""
    deadline, told = time.monotonic() + SETTLED_S, dict[str, Any]()
    pending = list(places)
    while pending and time.monotonic() < deadline:
        for place in list(pending):
            status, body = server.ask("GET", place)
            if status == 404:
                pending.remove(place)
            elif status == 200 and body["state"] not in ("queued", "running"):
                told[place] = body
                pending.remove(place)
        time.sleep(0.1)
    assert pending == [], f"{len(pending)} jobs have not ended, of {len(places)}"
    return told


def _result(server: Server, place: str) -> list[str]:
    connection = server.connect()
    connection.request("GET", f"{place}/result", headers={"authorization": f"Bearer {server.key}"})
    content = connection.getresponse().read()
    connection.close()
    ids: list[str] = pq.read_table(io.BytesIO(content)).column("id").to_pylist()
    return ids


@pytest.fixture
def made(tmp_path: Path, offsets: dict[int, Path]) -> tuple[Cache, str, Path]:
    """A home with one champion, a key, and a file."""
    cache = Cache(tmp_path / "home" / "cache")
    cache.add(1, offsets[1])
    key = cache.key({"predict"})
    cache.deploy(1)
    return cache, key, write_parquet(tmp_path / "in.parquet", toy_rows(ROWS))


JOBS = {"attempts": 50, "max_jobs_per_key": 10_000, "max_jobs": 10_000}


@pytest.mark.timeout(300 + 10 * KILLS)
def test_whatever_is_accepted_is_answered_once(made: tuple[Cache, str, Path]) -> None:
    """No job is lost or done twice, no row, no prediction."""
    cache, key, file = made
    with Server(cache.folder.parent, key, jobs=JOBS, workers=WORKERS) as server:
        server.ready()
        client = _storm(server, file, kills=KILLS, seed=21)
        told = _settled(server, [*client.files, *client.predictions])
        assert told.keys() == {*client.files, *client.predictions}
        assert {facts["state"] for facts in told.values()} == {"done"}
        ids = [row["id"] for row in toy_rows(ROWS)]
        for place in client.files:
            assert _result(server, place) == ids
        answered = Counter[str]()
        for place, hour in client.predictions.items():
            answer = told[place]["answer"]
            assert answer["predictions"] == [hour + 100.0]
            answered.update(answer["prediction_ids"])
        assert set(answered.values()) == {1}
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        lake = Lake(server.home / "events")
        read = Counter(lake.read("toy", "prediction", columns=["_id"]).column("_id").to_pylist())
        on_disk = sum(lake.rows(file) for file in lake.files("toy", "prediction"))
        print(f"{KILLS} kills, {len(client.files)} files, {len(answered)} predictions, {on_disk} events on disk")
        again = sum(read.values()) - len(answered)
        assert read.keys() == answered.keys()
        assert on_disk == sum(read.values())
        # each kill of the server can meet as many as it answers at once
        assert again <= client.killed * WORKERS * JobSettings().parallel


@pytest.mark.timeout(300)
def test_control_a_queue_that_acknowledges_before_the_commit_is_caught(made: tuple[Cache, str, Path]) -> None:
    """A job that somebody was told of is gone."""
    cache, key, file = made
    with Faulty(cache.folder.parent, key, jobs=JOBS) as server:
        server.ready()
        for seed in range(5):
            client = _storm(server, file, kills=3, seed=seed, only=("server",))
            places = [*client.predictions]
            lost = [place for place in places if server.ask("GET", place)[0] == 404]
            print(f"{len(lost)} of {len(places)} are lost")
            if lost:
                return
        raise AssertionError("the check does not see the bug")
