"""Acknowledged feedback survives kill -9 of its writer and of the shipper (promises 1 and 3, short form).

A writer process appends labels durably and notes each acknowledged id in a file. It is killed at a random moment;
so is a shipper that works beside it. In the end every noted id must be in the lake's files exactly once. The control
notes ids before their commit, a bug this test must see as loss. `PERENE_CHAOS=full` kills 500 times instead of 20.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from monitoring.lake import Lake
from monitoring.shipper import ship_once

CYCLES = 500 if os.environ.get("PERENE_CHAOS") == "full" else 20

WRITER = """
import os, sys, threading
from pathlib import Path
from monitoring.events import LabelEvent
from monitoring.ids import uuid7
from monitoring.spool import Spool

folder, acks, careless = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "careless"
spool = Spool.open(folder)
file = os.open(acks, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def work():
    while True:
        names = [uuid7() for _ in range(3)]
        done = spool.append_durable([LabelEvent(name, "m", 1.0, 1e9, 1e9) for name in names])
        if careless:
            threading.Event().wait(0.0005)
        else:
            done.result()
        os.write(file, "".join(f"{name}\\n" for name in names).encode())

for _ in range(8):
    threading.Thread(target=work).start()
"""


def _writer(folder: Path, acks: Path, manner: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(acks), manner])


def _shipper(folder: Path, lake: Path) -> subprocess.Popen[bytes]:
    options = ["--interval", "0.01", "--min-rows", "50", "--max-age", "0.05"]
    command = [sys.executable, "-m", "monitoring.shipper", "--spool-dir", str(folder), "--lake", str(lake), *options]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _storm(tmp_path: Path, *, cycles: int, manner: str, seed: int) -> tuple[Counter[str], Counter[str]]:
    """Kill writers and shippers `cycles` times; returns how often each id was acknowledged, and lies in the lake."""
    dice = random.Random(seed)
    pause = threading.Event()
    spool, lake, acks = tmp_path / "spool", tmp_path / "lake", tmp_path / "acks"
    spool.mkdir()
    shipper = _shipper(spool, lake)
    for cycle in range(cycles):
        acks_before = acks.stat().st_size if acks.exists() else 0
        writer = _writer(spool, acks, manner)
        while not acks.exists() or acks.stat().st_size == acks_before:
            assert writer.poll() is None
            pause.wait(0.01)
        pause.wait(dice.uniform(0, 0.4))
        if cycle % 2:
            _kill(shipper)
            _kill(writer)
            shipper = _shipper(spool, lake)
        else:
            _kill(writer)
    _kill(shipper)
    ship_once(spool, Lake(lake), min_rows=1, max_age_s=0, now=0)
    assert [path.name for path in spool.glob("*.spool*")] == []
    acknowledged = Counter(line for line in acks.read_text().splitlines() if len(line) == 36)
    return acknowledged, _found(Lake(lake))


def _found(lake: Lake) -> Counter[str]:
    """Ids by row of file: the reader's de-duplication is not allowed to help."""
    found: Counter[str] = Counter()
    for path in lake.files("m", "label"):
        found.update(lake.read("m", "label", columns=["_id"], files=[path]).column("_id").to_pylist())
    return found


@pytest.mark.timeout(120 + 4 * CYCLES)
def test_every_acknowledged_label_is_in_the_lake_once(tmp_path: Path) -> None:
    """The writer is killed in each cycle, the shipper in every other: nothing is missing, nothing there twice."""
    acknowledged, found = _storm(tmp_path, cycles=CYCLES, manner="careful", seed=7)
    print(f"{len(acknowledged)} acknowledged, {len(found)} found, {CYCLES} kills")
    assert len(acknowledged) >= 100 * CYCLES
    assert [name for name in acknowledged if found[name] == 0] == []
    assert [name for name, times in found.items() if times > 1] == []


def test_control_acknowledging_before_the_commit_is_caught(tmp_path: Path) -> None:
    """The same check sees loss when ids are noted before they are on disk."""
    acknowledged, found = _storm(tmp_path, cycles=4, manner="careless", seed=8)
    lost = [name for name in acknowledged if found[name] == 0]
    print(f"{len(acknowledged)} acknowledged, {len(lost)} lost")
    assert lost != []
