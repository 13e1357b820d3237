"""A lake that takes connections and says nothing: predictions go on, the spool grows, later every event is there once.

The store is a real S3 server that is stopped (SIGSTOP), which no connection is refused by. In the second test the
spool is too small for the time that takes: what is lost then is counted to the event, and the check of the first sees
it as loss, which makes it the control. `PERENE_CHAOS=full` stops the store for 30 minutes at 500 requests a second.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.lake.lake import Lake
from monitoring.lake.storage import Storage
from registry.errors import StoreUnavailable
from tests.acceptance.test_serving_process import NO_LEDGER, ROOT, Server, cache, offsets, until
from tests.integration.s3_server import S3
from tests.integration.serving_toy import ROW, Cache

__all__ = ["cache", "offsets"]

FULL = os.environ.get("PERENE_CHAOS") == "full"
BLOCKED_S = 1_800.0 if FULL else 6.0
RATE = 500 if FULL else 60
CLIENTS = 4
CALM_S = 60.0 if FULL else 3.0
ARRIVE_S = 600.0 if FULL else 60.0


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server = S3()
    yield server
    _signal(server, signal.SIGCONT)
    server.stop()


def _signal(server: S3, number: signal.Signals) -> None:
    os.kill(server._process.pid, number)


class Shipping(Server):
    """A serve process whose events go to a lake elsewhere."""

    def __init__(self, home: Path, key: str, lake: str, **settings: Any) -> None:
        self.lake = lake
        super().__init__(home, key, **settings)

    def start(self) -> None:
        command = [sys.executable, "-m", "serving", "--home", str(self.home), "--port", str(self.port)]
        command += ["--settings", str(self.home / "serve.json"), "--ledger-url", NO_LEDGER, "--lake", self.lake]
        with (self.home / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def lost(self) -> float:
        """Events that the server says it lost."""
        connection = self.connect()
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        return sum(sample.value for sample in families["perene_events_lost"].samples if sample.name.endswith("_total"))


class Load:
    """Paced requests on kept connections: the ids that were answered, and how long each answer took."""

    def __init__(self, server: Server, *, rate: float, rows: int = 1) -> None:
        self.ids: list[str] = []
        self.seconds: list[tuple[float, float]] = []
        self.failed: list[int] = []
        self._stop = threading.Event()
        self._server, self._body = server, {"rows": [ROW] * rows}
        self._threads = [threading.Thread(target=self._send, args=(n, rate / CLIENTS)) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _send(self, number: int, rate: float) -> None:
        connection = self._server.connect()
        began = time.monotonic() + number / (rate * CLIENTS)
        for turn in range(10**9):
            if self._stop.wait(max(0.0, began + turn / rate - time.monotonic())):
                break
            asked = time.monotonic()
            status, body = self._server.on(connection, "POST", "/predict", self._body)
            self.seconds.append((asked, time.monotonic() - asked))
            if status == 200:
                self.ids.extend(body["prediction_ids"])
            else:
                self.failed.append(status)
        connection.close()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def p99_ms(self, begin: float, end: float) -> float:
        took = [seconds for asked, seconds in self.seconds if begin <= asked < end]
        return statistics.quantiles(took, n=100)[98] * 1e3


def _arrived(lake: Lake, wanted: int) -> Counter[str]:
    """Ids by row of file, once as many are there; the reader's de-duplication is not allowed to help."""
    deadline = time.monotonic() + ARRIVE_S
    found: Counter[str] = Counter()
    read: set[object] = set()
    while sum(found.values()) < wanted and time.monotonic() < deadline:
        for key in lake.files("toy", "prediction"):
            if key not in read:
                read.add(key)
                found.update(lake.read("toy", "prediction", columns=["_id"], files=[key]).column("_id").to_pylist())
        time.sleep(0.2)
    return found


@pytest.mark.timeout(60 + BLOCKED_S + CALM_S + ARRIVE_S)
def test_a_blocked_lake_costs_no_event_and_no_answer(cache: Cache, s3: S3) -> None:
    """Every answered prediction is in the lake once, though nothing could be written for a while."""
    key = cache.key({"predict"})
    cache.deploy(1)
    lake = Lake(s3.url("events"))
    with Shipping(cache.folder.parent, key, s3.url("events")) as server:
        server.ready()
        load = Load(server, rate=RATE)
        try:
            calm = time.monotonic()
            time.sleep(CALM_S)
            blocked = time.monotonic()
            _signal(s3, signal.SIGSTOP)
            time.sleep(BLOCKED_S)
            over = time.monotonic()
            _signal(s3, signal.SIGCONT)
        finally:
            load.stop()
        print(
            f"{len(load.ids)} answered, p99 {load.p99_ms(calm, blocked):.1f} ms before, "
            f"{load.p99_ms(blocked, over):.1f} ms while the lake was away for {over - blocked:.0f} s"
        )
        assert load.failed == []
        assert len(load.ids) > RATE * BLOCKED_S * 0.5
        assert _arrived(lake, len(load.ids)) == Counter(load.ids)
        assert server.lost() == 0


@pytest.mark.timeout(180)
def test_what_a_full_spool_cannot_take_is_counted_to_the_event(cache: Cache, s3: S3) -> None:
    """Answers go on; the lake has what was not lost, and the counter has the rest."""
    key = cache.key({"predict"})
    cache.deploy(1)
    lake = Lake(s3.url("events"))
    with Shipping(cache.folder.parent, key, s3.url("events"), spool_max_bytes=1 << 20) as server:
        server.ready()
        _signal(s3, signal.SIGSTOP)
        load = Load(server, rate=20, rows=400)
        try:
            until(lambda: server.lost() > 0, "the spool takes it all")
            time.sleep(2)
        finally:
            load.stop()
        _signal(s3, signal.SIGCONT)
        lost = int(server.lost())
        print(f"{len(load.ids)} answered, {lost} lost")
        assert load.failed == []
        assert lost > 0
        found = _arrived(lake, len(load.ids) - lost)
        assert sum(found.values()) == len(load.ids) - lost
        assert found.keys() < set(load.ids)


def test_no_request_waits_for_ever(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that says nothing is an error of ours, by name, after a while."""
    monkeypatch.setattr("monitoring.lake.storage._SILENCE_S", 1.0)
    storage = Storage(s3.url("events"))
    _signal(s3, signal.SIGSTOP)
    with pytest.raises(StoreUnavailable, match="NETWORK_CONNECTION"):
        storage.check()
