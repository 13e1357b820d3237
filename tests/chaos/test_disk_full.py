"""Promise 11: a disk that is full under load refuses feedback, fails no prediction, and comes back whole.

`PERENE_CHAOS=full` stays full for a minute, else for three seconds. The control acknowledges what it did not store.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from monitoring.intake.events import LabelEvent
from monitoring.intake.ids import uuid7
from monitoring.intake.shipper import ship_once
from monitoring.intake.spool import Spool
from monitoring.lake.lake import Lake
from monitoring.lake.lake_tables import Kind
from tests.acceptance.test_serving_process import ROOT, Server, cache, offsets, until
from tests.chaos.full_disks import KINDS, Disk, disk, told
from tests.integration.serving_toy import ROW, Cache

__all__ = ["cache", "offsets"]

FULL_S = 60.0 if os.environ.get("PERENE_CHAOS") == "full" else 3.0
BACK_S = 10.0


class Load:
    """Clients that predict and clients that tell, each on a kept connection, and what each was answered."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        self.predicted: list[str] = []
        self.acknowledged: list[str] = []
        self.statuses: Counter[tuple[str, int]] = Counter()
        self._threads = [threading.Thread(target=self._client, args=(n,), daemon=True) for n in range(6)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _client(self, number: int) -> None:
        connection = self._server.connect()
        with contextlib.closing(connection):
            while not self._stop.is_set():
                try:
                    self._tell(connection) if number % 3 == 0 else self._predict(connection)
                except (OSError, http.client.HTTPException):
                    self.statuses["lost connection", 0] += 1
                    connection.close()
                    self._stop.wait(0.1)
                self._stop.wait(0.002)

    def _predict(self, connection: http.client.HTTPConnection) -> None:
        status, body = self._server.on(connection, "POST", "/models/toy/predict", {"rows": [ROW] * 5})
        self.statuses["predict", status] += 1
        if status == 200:
            self.predicted.extend(body["prediction_ids"])

    def _tell(self, connection: http.client.HTTPConnection) -> None:
        ids = [uuid7() for _ in range(3)]
        items = [{"prediction_id": i, "label": 1.5} for i in ids]
        status, _ = self._server.on(connection, "POST", "/models/toy/feedback", items)
        self.statuses["feedback", status] += 1
        if status == 200:
            self.acknowledged.extend(ids)


def ordeal(server: Server, on: Disk) -> tuple[Load, float]:
    """Fill the disk under load and free it again; how long feedback then took to be taken again."""
    server.ready()
    until(lambda: len(server.children()) == 2, "puller and shipper did not start")
    with Load(server) as load:
        until(lambda: len(load.acknowledged) > 100 and len(load.predicted) > 100, "there is no load")
        on.fill()
        time.sleep(FULL_S)
        on.free()
        began, before = time.monotonic(), len(load.acknowledged)
        until(lambda: len(load.acknowledged) > before, "feedback was not taken again")
        back = time.monotonic() - began
        time.sleep(0.5)
    return load, back


def stored(home: Path) -> tuple[Counter[str], Counter[str]]:
    """Ids of predictions and labels by row of file."""
    lake = Lake(home / "events")

    def ids(kind: Kind) -> Counter[str]:
        tables = (lake.read("toy", kind, columns=["_id"], files=[key]) for key in lake.files("toy", kind))
        return Counter(i for table in tables for i in table.column("_id").to_pylist())

    return ids("prediction"), ids("label")


def lost(server: Server) -> int:
    """What the server says that it lost."""
    return int(sum(value for name, value in told(server).items() if name.startswith('["perene_events_lost_total"')))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_refuses_feedback_and_fails_no_prediction(kind: str, cache: Cache, tmp_path: Path) -> None:
    """No acknowledged label is missing, every prediction is answered, and stored or counted; files are whole."""
    key = cache.key({"predict", "feedback"})
    cache.deploy(1)
    with disk(kind, tmp_path / "full") as on, on.start(cache, key, None) as server:
        load, back = ordeal(server, on)
        counted = lost(server)

        def arrived() -> bool:
            predictions, labels = stored(server.home)
            return labels.keys() >= set(load.acknowledged) and predictions.total() + counted >= len(load.predicted)

        until(arrived, "something is missing")
        predictions, labels = stored(server.home)
        assert server.integrity() == {"ok"}
        assert server.process.poll() is None
    print(f"\n{kind}: {dict(load.statuses)}, {len(load.acknowledged)} labels, {counted} lost, back after {back:.2f} s")
    assert {status for what, status in load.statuses if what == "predict"} == {200}
    assert {status for what, status in load.statuses if what == "feedback"} in ({200, 503}, {200, 507}, {200, 503, 507})
    assert ("lost connection", 0) not in load.statuses
    assert back <= BACK_S
    assert set(predictions) <= set(load.predicted)
    assert len(load.predicted) == len(predictions) + counted
    assert set(predictions.values()) | {labels[i] for i in load.acknowledged} == {1}


ACKNOWLEDGES = """
import sys
from concurrent.futures import Future
from monitoring.intake.spool import Spool

durable = Spool.append_durable

def at_once(self, events):
    durable(self, events)
    done = Future()
    done.set_result(None)
    return done

Spool.append_durable = at_once
from serving.main import main
sys.exit(main())
"""


@pytest.mark.timeout(180)
def test_control_acknowledging_without_a_commit_is_caught(cache: Cache, tmp_path: Path) -> None:
    """A build that answers before the disk did is seen by the same check."""
    key = cache.key({"predict", "feedback"})
    cache.deploy(1)
    with disk(KINDS[-1], tmp_path / "full") as on, on.start(cache, key, ACKNOWLEDGES) as server:
        load, _ = ordeal(server, on)
        until(lambda: load.acknowledged[-1] in stored(server.home)[1], "the last label is missing")
        missing = set(load.acknowledged) - stored(server.home)[1].keys()
    assert {status for what, status in load.statuses if what == "feedback"} == {200}
    assert missing


LOSES = """
import json, resource, sys, threading
from pathlib import Path
from monitoring.intake import spool as module
from monitoring.intake.events import PredictionEvent
from monitoring.intake.spool import Spool

module.MAX_BACKLOG = 1_000
spool = Spool.open(Path(sys.argv[1]), commit_interval_s=0.01, journal_bytes=int(sys.argv[3]))
made = 0

def append(times):
    global made
    for _ in range(times):
        made += 1
        event = PredictionEvent(f"id-{made}", 1e9, 1e9, "m", 1, "champion", "", [0.5], 1.0, None, 1.0, "k")
        spool.append([event])

append(500)
while spool.stats().pending:
    threading.Event().wait(0.01)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
append(5_000)
threading.Event().wait(0.3)
if sys.argv[2] == "back":
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
append(5)
spool.close()
stats = spool.stats()
print(json.dumps([made, stats.lost]))
"""


@pytest.mark.parametrize(("then", "journal"), [("back", 1 << 20), ("full", 1 << 20), ("full", 0)])
def test_what_a_full_disk_costs_is_counted_exactly(then: str, journal: int, tmp_path: Path) -> None:
    """Beyond the memory's backlog, and at the end without a journal: made is stored plus lost, to the event."""
    command = [sys.executable, "-c", LOSES, str(tmp_path / "spool"), then, str(journal)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    made, gone = json.loads(said.stdout)
    lake = Lake(tmp_path / "events")
    ship_once(tmp_path / "spool", lake, min_rows=1, max_age_s=0, now=0)
    found = lake.read("m", "prediction").num_rows
    print(f"\n{then}, journal of {journal} bytes: {made} made, {found} in the lake, {gone}")
    assert gone["backlog"] >= 4_000
    assert gone.get("disk", 0) == (0 if then == "back" or journal else 1_000)
    assert found + sum(gone.values()) == made


SHIPS = """
import resource, sys
from pathlib import Path
from monitoring.lake.lake import Lake
from monitoring.intake.shipper import ship_once

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
print(ship_once(Path(sys.argv[1]), Lake(Path(sys.argv[2])), min_rows=1, max_age_s=0, now=0))
"""


def test_a_full_lake_leaves_rows_in_the_spool(tmp_path: Path) -> None:
    """The shipper cannot write its file: no half file is read, no row is gone, and with room all arrive once."""
    folder, lake = tmp_path / "spool", Lake(tmp_path / "events")
    names = [uuid7() for _ in range(20_000)]
    with Spool.open(folder) as spool:
        for n in range(0, len(names), 100):
            spool.append_durable([LabelEvent(name, "m", 1.0, 1e9, 1e9) for name in names[n : n + 100]]).result(30)

    def ship(limit: int) -> str:
        command = [sys.executable, "-c", SHIPS, str(folder), str(tmp_path / "events"), str(limit)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    assert ship(100_000) == "0"
    assert lake.files("m", "label") == []
    assert ship(resource.RLIM_INFINITY) == str(len(names))
    found = lake.read("m", "label").column("_id").to_pylist()
    assert sorted(found) == sorted(names)
    assert [path.name for path in folder.glob("*.spool*")] == []


MOVES = """
import resource, sys
from registry.errors import PereneError
from registry.ledger import Ledger

ledger = Ledger.open(sys.argv[1])
ledger.move("toy", expected_revision=0, champion=1, actor="ann", reason="first")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    ledger.move("toy", expected_revision=1, champion=2, actor="ann", reason="second")
except PereneError as error:
    print(error.code, error.where, "|", error.message)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
ledger.move("toy", expected_revision=1, champion=3, actor="ann", reason="third")
print(ledger.verify(), [row.champion for row in ledger.history("toy")])
"""


def test_a_full_ledger_says_so_and_moves_nothing(tmp_path: Path) -> None:
    """The move is refused by the ledger's name; with room the next one is made, and the chain holds."""
    command = [sys.executable, "-c", MOVES, f"sqlite:///{tmp_path}/ledger.db"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    refused, then = said.stdout.splitlines()
    assert refused.startswith("store_unavailable ledger_url |")
    assert then == "[] [1, 3]"


REGISTERS = """
import resource, sys
from pathlib import Path
from registry.errors import PereneError
from registry.mlflow_store import Store

home, bundle = Path(sys.argv[1]), Path(sys.argv[2])
store = Store(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts")
store.prepare()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    store.register(bundle, "toy")
except PereneError as error:
    print(error.code, error.where, "|", error.message)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(store.register(bundle, "toy"))
"""


def test_a_full_mlflow_says_so_and_registers_nothing(home: Path, toy_bundle: Path) -> None:
    """The version is refused by the store's name, and is the first one once there is room."""
    command = [sys.executable, "-c", REGISTERS, str(home), str(toy_bundle)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert said.returncode == 0, said.stderr[-2_000:]
    refused, then = said.stdout.splitlines()[-2:]
    assert refused.startswith("store_unavailable ")
    assert then == "1"
