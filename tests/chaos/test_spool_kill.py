"""Acknowledged feedback survives kill -9 of its writer and of the shipper (promise 1), and so do predictions (3).

A process of 32 writers appends labels durably and notes each acknowledged id in a file; four more threads append
predictions and note each id as soon as `append` returns, which is before its commit. The process is killed at a random
moment; so is a shipper that works beside it. In the end every noted id must be in the lake's files exactly once. There
are two controls: labels noted before their commit, and predictions without a journal; the same check sees their loss.
`PERENE_CHAOS=full` kills 500 times instead of 100.
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

from monitoring.intake.shipper import ship_once
from monitoring.lake.lake import Lake
from tests.chaos.nursery import Nursery, nursery

CYCLES = 500 if os.environ.get("PERENE_CHAOS") == "full" else 100
LINE = 37
"""Bytes of an id in the file of acknowledgements."""

WRITER = """
import os, sys, threading, time
from pathlib import Path
from monitoring.intake.blocks import Answered
from monitoring.intake.events import LabelEvent
from monitoring.intake.ids import uuid7
from monitoring.intake.journal import SEGMENT_BYTES
from monitoring.intake.spool import Spool
from registry.contract import Column, Contract, Output

folder, acks = Path(sys.argv[1]), sys.argv[2]
contract = Contract("m", (Column("x", "float"), Column("who", "string", policy="hash")), Output("regression"))

def work(manner):
    spool = Spool.open(folder, journal_bytes=0 if manner == "forgetful" else SEGMENT_BYTES)
    spool.register("m", 1, contract.to_dict())
    file = os.open(acks, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(names):
        os.write(file, "".join(f"{name}\\n" for name in names).encode())

    def label():
        while True:
            names = [uuid7() for _ in range(3)]
            done = spool.append_durable([LabelEvent(name, "m", 1.0, 1e9, 1e9) for name in names])
            if manner != "careless":
                done.result()
            note(names)

    def predict():
        while True:
            names = [uuid7(), uuid7()]
            rows = [(1.0, "anna"), (2.0, "bob")]
            spool.append(
                Answered(contract, 1, "champion", 1e9, 1e9, "e", "k", 0.5, names, rows, [1.0, 2.0], None)
            )
            note(names)
            time.sleep(0.002)

    for _ in range(0 if manner == "forgetful" else 32):
        threading.Thread(target=label).start()
    for _ in range(0 if manner == "careless" else 4):
        threading.Thread(target=predict).start()
    threading.Event().wait()
"""


def _shipper(folder: Path, lake: Path) -> subprocess.Popen[bytes]:
    options = ["--interval", "0.01", "--min-rows", "50", "--max-age", "0.05"]
    command = [
        sys.executable,
        "-m",
        "monitoring.intake.shipper",
        "--spool-dir",
        str(folder),
        "--lake",
        str(lake),
        *options,
    ]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _one_life(writers: Nursery, acks: Path, manner: str, seconds: float) -> None:
    """Start a process, wait until it has acknowledged something, and kill it so many seconds later."""
    pause = threading.Event()
    before = acks.stat().st_size if acks.exists() else 0
    writers.fork(manner)
    for _ in range(2_000):
        if acks.exists() and acks.stat().st_size > before:
            break
        pause.wait(0.005)
    pause.wait(seconds)
    writers.kill()


def _storm(tmp_path: Path, *, cycles: int, manner: str, seed: int, least: int = 0) -> tuple[Counter[str], Counter[str]]:
    """Kill writers and shippers `cycles` times; returns how often each id was acknowledged, and lies in the lake.

    On a slow disk a life acknowledges little: there are more lives until `least` ids are.
    """
    dice = random.Random(seed)
    spool, lake, acks = tmp_path / "spool", tmp_path / "lake", tmp_path / "acks"
    spool.mkdir()
    shipper = _shipper(spool, lake)
    with nursery(WRITER, spool, acks) as writers:
        cycle = 0
        while cycle < cycles or acks.stat().st_size < least * LINE:
            _one_life(writers, acks, manner, dice.uniform(0, 0.2))
            cycle += 1
            if cycle % 10 == 0:
                _kill(shipper)
                shipper = _shipper(spool, lake)
    _kill(shipper)
    ship_once(spool, Lake(lake), min_rows=1, max_age_s=0, now=0)
    assert [path.name for path in spool.iterdir() if path.suffix not in (".lock", ".lost")] == []
    acknowledged = Counter(line for line in acks.read_text().splitlines() if len(line) == 36)
    return acknowledged, _found(Lake(lake))


def _found(lake: Lake) -> Counter[str]:
    """Ids by row of file: the reader's de-duplication is not allowed to help."""
    found: Counter[str] = Counter()
    for kind in ("label", "prediction"):
        for path in lake.files("m", kind):
            found.update(lake.read("m", kind, columns=["_id"], files=[path]).column("_id").to_pylist())
    return found


@pytest.mark.timeout(120 + 4 * CYCLES)
def test_every_acknowledged_label_is_in_the_lake_once(tmp_path: Path) -> None:
    """The writers are killed in each cycle, the shipper in every tenth: nothing is missing, nothing there twice."""
    acknowledged, found = _storm(tmp_path, cycles=CYCLES, manner="careful", seed=7, least=100 * CYCLES)
    print(f"{len(acknowledged)} acknowledged, {len(found)} found, {CYCLES} kills or more")
    assert [name for name in acknowledged if found[name] == 0] == []
    assert [name for name, times in found.items() if times > 1] == []


@pytest.mark.parametrize("manner", ["careless", "forgetful"])
def test_control_acknowledging_before_the_commit_is_caught(tmp_path: Path, manner: str) -> None:
    """The same check sees loss when labels are noted before they are on disk, and predictions without a journal."""
    acknowledged, found = _storm(tmp_path, cycles=4, manner=manner, seed=8)
    lost = [name for name in acknowledged if found[name] == 0]
    print(f"{manner}: {len(acknowledged)} acknowledged, {len(lost)} lost")
    assert lost != []
