"""Every prediction that was answered with 2xx is in the lake once, whatever kills the server (promise 3, short form).

A serve process is killed with SIGKILL under load over HTTP, at a random moment, and another takes its port. In the end
each prediction id that a client has read is in the lake's files exactly once, and what is missing among the sequence
numbers of a process is what the shipper counted as lost when it brought the process's spool back. The control serves
without a journal: the same check sees its loss. `PERENE_CHAOS=full` kills 500 times instead of 30.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from monitoring.intake.shipper import ship_once
from monitoring.lake.lake import Lake
from tests.chaos.nursery import nursery
from tests.integration.serving_toy import ROW, Cache
from tests.ports import free_port

KILLS = 500 if os.environ.get("PERENE_CHAOS") == "full" else 30
CLIENTS = 4

SERVE = """
import functools, os, sys
from pathlib import Path
from monitoring.intake.spool import Spool
from serving.fleet.process import answer
from serving.settings import ServingSettings

home, port = Path(sys.argv[1]), int(sys.argv[2])

def work(manner):
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(null, number)
    if manner == "forgetful":
        Spool.open = functools.partial(Spool.open, journal_bytes=0)
    answer(ServingSettings(port=port, device="cpu", request_log=False, **SETTINGS.get(manner, {})), home)

SETTINGS = {"strict": {"strict": True}}
"""


class _Load:
    """Clients that ask as fast as they are answered, and note the ids that they have read."""

    def __init__(self, port: int, key: str) -> None:
        self.ids: list[str] = []
        self._port = port
        self._head = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _ask(self, number: int) -> None:
        dice = random.Random(number)
        while not self._over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            try:
                while not self._over.is_set():
                    rows = [ROW] * dice.choice((1, 1, 1, 5, 300))
                    body = json.dumps({"rows": rows, "entity": f"someone-{dice.randrange(100)}"})
                    connection.request("POST", "/models/toy/predict", body, self._head)
                    reply = connection.getresponse()
                    text = reply.read()
                    if reply.status == 200:
                        self.ids += json.loads(text)["prediction_ids"]
            except (OSError, http.client.HTTPException, ValueError):
                self._over.wait(0.01)
            finally:
                connection.close()


def _shipper(home: Path) -> subprocess.Popen[bytes]:
    options = ["--interval", "0.05", "--min-rows", "500", "--max-age", "0.1"]
    places = ["--spool-dir", str(home / "spool"), "--lake", str(home / "events")]
    with (home / "shipper.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "monitoring.intake.shipper", *places, *options], stderr=log)


def _storm(cache: Cache, *, kills: int, manner: str) -> tuple[list[str], Counter[str], dict[str, list[int]]]:
    """Kill the server so often; returns the ids read, how often each is in the lake, and the numbers by boot."""
    home, port, dice, pause = cache.folder.parent, free_port(), random.Random(9), threading.Event()
    key = cache.key({"predict"})
    cache.deploy(1)
    (home / "spool").mkdir()
    shipper = _shipper(home)
    with nursery(SERVE, home, port) as servers:
        load = _Load(port, key)
        try:
            for cycle in range(kills):
                before = len(load.ids)
                servers.fork(manner)
                for _ in range(2_000):
                    if len(load.ids) > before:
                        break
                    pause.wait(0.01)
                assert len(load.ids) > before, "it did not begin to answer"
                pause.wait(dice.uniform(0.02, 0.3))
                servers.kill()
                if cycle % 10 == 9:
                    shipper.kill()
                    shipper.wait()
                    shipper = _shipper(home)
        finally:
            load.stop()
            shipper.terminate()
            shipper.wait()
    ship_once(home / "spool", Lake(home / "events"), min_rows=1, max_age_s=0, now=0)
    found: Counter[str] = Counter()
    numbers: dict[str, list[int]] = defaultdict(list)
    lake = Lake(home / "events")
    for file in lake.files("toy", "prediction"):
        for row in lake.read("toy", "prediction", columns=["_id", "_boot", "_seq"], files=[file]).to_pylist():
            found[row["_id"]] += 1
            numbers[row["_boot"]].append(row["_seq"])
    return load.ids, found, numbers


def _counted(home: Path) -> dict[str, int]:
    """Losses by boot, as the shipper said them."""
    lines = [json.loads(line) for line in (home / "shipper.log").read_text().splitlines() if line.startswith("{")]
    done = [line for line in lines if line.get("event") == "recovery.done"]
    return {line["spool"].partition(".")[0]: line["lost"] for line in done}


@pytest.fixture
def cache(tmp_path: Path, offsets: dict[int, Path]) -> Cache:
    made = Cache(tmp_path / "home" / "cache")
    made.add(1, offsets[1])
    return made


@pytest.mark.timeout(120 + 4 * KILLS)
def test_every_answered_prediction_is_in_the_lake_once(cache: Cache) -> None:
    """Single rows, several, and many by columns: nothing that a client read is missing, nothing is there twice."""
    read, found, numbers = _storm(cache, kills=KILLS, manner="whole")
    print(f"{len(read)} answers read, {sum(found.values())} in the lake, {KILLS} kills, {len(numbers)} boots")
    assert len(numbers) > 0.8 * KILLS  # on a busy machine a life may end before its first answer
    assert [identifier for identifier in read if found[identifier] != 1] == []
    assert [identifier for identifier, times in found.items() if times > 1] == []
    missing = {boot: gap for boot, seen in numbers.items() if (gap := max(seen) - len(set(seen)))}
    assert missing == {boot: lost for boot, lost in _counted(cache.folder.parent).items() if lost}


def test_control_without_a_journal_is_caught(cache: Cache) -> None:
    """The same check sees the answers that were waiting in memory."""
    read, found, _ = _storm(cache, kills=3, manner="forgetful")
    lost = [identifier for identifier in read if not found[identifier]]
    print(f"{len(read)} answers read, {len(lost)} lost")
    assert lost != []


def test_in_strict_mode_no_answer_is_without_its_event(cache: Cache) -> None:
    """Every answer that a client read was on disk before it left."""
    read, found, _ = _storm(cache, kills=3, manner="strict")
    print(f"{len(read)} answers read in strict mode")
    assert [identifier for identifier in read if found[identifier] != 1] == []
