"""Acknowledged feedback survives a loss of power (promise 2).

A process appends labels durably; strace records every write, truncation and sync that it asks its disk for, the
request for each label and its acknowledgement among them. Then power is lost at 200 points of that record: what was not
synced is there or not, by chance, whole or torn. Each label that had been acknowledged before must be in the spool.
Between request and acknowledgement there is a sync. The control does not sync, and the same check sees its loss.
Predictions may be lost with the power, but only those that were answered since the commit before (promise 3).
`PERENE_CHAOS=full` takes 5,000 points.
"""

from __future__ import annotations

import os
import random
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from monitoring.intake.blocks import decode
from monitoring.intake.events import LabelEvent
from monitoring.intake.recovery import recover
from monitoring.intake.spool import connect
from tests.chaos.disk_trace import Operation, left_over, traced

CUTS = 5_000 if os.environ.get("PERENE_CHAOS") == "full" else 200

WRITER = """
import os, sys, threading, time
from pathlib import Path
from monitoring.intake.events import LabelEvent
from monitoring.intake.ids import uuid7
from monitoring.intake.spool import Spool

spool = Spool.open(Path(sys.argv[1]), journal_bytes=65_536)
if sys.argv[3] == "careless":
    spool._connection.execute("PRAGMA synchronous = OFF")
# many checkpoints in a short record; or none, so that a sync of the log is a commit
spool._connection.execute(f"PRAGMA wal_autocheckpoint = {0 if sys.argv[3] == 'predict' else 40}")
file = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def work():
    for _ in range(40):
        name = uuid7()
        os.write(file, f"?{name}\\n".encode())
        spool.append_durable([LabelEvent(name, "m", 1.0, 1e9, 1e9)]).result()
        os.write(file, f"!{name}\\n".encode())

def predict():
    for _ in range(10):
        for _ in range(80):
            name = uuid7()
            spool.append([LabelEvent(name, "m", 1.0, 1e9, 1e9)])  # any event that nobody waits for
            os.write(file, f"!{name}\\n".encode())
            time.sleep(0.001)
        while spool.stats().pending:  # however slow the disk is, there are commits in between
            time.sleep(0.001)

threads = [threading.Thread(target=predict)]
if sys.argv[3] != "predict":
    threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
os.write(file, b"=\\n")
os._exit(0)
"""


def _record(tmp_path: Path, manner: str) -> tuple[list[Operation], Path, str]:
    """The operations of a run up to its last acknowledgement, its folder and the file of acknowledgements."""
    folder, acks = (tmp_path / "spool").resolve(), str((tmp_path / "acks").resolve())
    folder.mkdir()
    found = traced([sys.executable, "-c", WRITER, str(folder), acks, manner], tmp_path / "trace")
    end = next(n for n, o in enumerate(found) if o.path == acks and o.data == b"=\n")
    return found[:end], folder, acks


def _said(operations: Sequence[Operation], acks: str, mark: bytes) -> dict[str, int]:
    """When each label was asked for or acknowledged."""
    return {
        o.data[1:].strip().decode(): n for n, o in enumerate(operations) if o.path == acks and o.data.startswith(mark)
    }


def _survivors(folder: Path) -> set[str]:
    """Labels of the spools of a folder, after what a shipper does to a dead one first; none of a file in ruins."""
    found: set[str] = set()
    for path in folder.glob("*.spool"):
        try:
            recover(path)
            with closing(connect(path)) as db:
                if db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                    continue
                events = [decode(body) for (body,) in db.execute("SELECT body FROM events")]
        except sqlite3.DatabaseError:
            continue
        found |= {event.prediction_id for event in events if isinstance(event, LabelEvent)}
    return found


def _lost(tmp_path: Path, record: tuple[list[Operation], Path, str], cuts: int) -> tuple[int, int]:
    """Acknowledged labels over all cuts, and those of them that were lost."""
    operations, folder, acks = record
    dice = random.Random(11)
    acknowledged = _said(operations, acks, b"!")
    total = lost = 0
    first = min(acknowledged.values())
    for cut in range(cuts):
        at = dice.randint(first, len(operations))
        left = tmp_path / f"cut-{cut}"
        left.mkdir()
        left_over(operations[:at], folder, left, dice)
        promised = {name for name, when in acknowledged.items() if when < at}
        total += len(promised)
        lost += len(promised - _survivors(left))
    return total, lost


@pytest.mark.timeout(120 + CUTS)
def test_no_acknowledged_label_is_lost_with_the_power(tmp_path: Path) -> None:
    """200 points, each with its own chance; and every acknowledgement has a sync of its own before it."""
    record = _record(tmp_path, "careful")
    operations, folder, acks = record
    asked, acknowledged = _said(operations, acks, b"?"), _said(operations, acks, b"!")
    assert len(acknowledged) == 160
    synced = [n for n, o in enumerate(operations) if o.what == "synced" and o.path.endswith("-wal")]
    between = [sum(asked[name] < n < when for n in synced) for name, when in acknowledged.items()]
    assert min(between) >= 1
    total, lost = _lost(tmp_path, record, CUTS)
    writes = sum(o.what == "write" and Path(o.path).parent == folder for o in operations)
    print(f"{writes} writes, {len(synced)} syncs of the log, {CUTS} cuts, {total} acknowledged, {lost} lost")
    assert (total > 10 * CUTS, lost) == (True, 0)


def test_control_without_syncs_is_caught(tmp_path: Path) -> None:
    """The same check sees loss where commits do not wait for the disk."""
    record = _record(tmp_path, "careless")
    total, lost = _lost(tmp_path, record, 20)
    print(f"control: {total} acknowledged, {lost} lost")
    assert lost > 0


def test_the_power_takes_only_predictions_of_the_last_moments(tmp_path: Path) -> None:
    """What was answered before the last few commits were synced is there, whatever became of the journal."""
    operations, folder, acks = _record(tmp_path, "predict")
    answered = _said(operations, acks, b"!")
    begun = [n for n, o in enumerate(operations) if o.what == "sync" and o.path.endswith("-wal")]
    dice = random.Random(12)
    oldest, lost, late = 0.0, 0, []
    for cut in range(min(CUTS, 200)):
        at = dice.randint(begun[5], len(operations) - 1)  # the first commit syncs the head of the log as well
        left = tmp_path / f"cut-{cut}"
        left.mkdir()
        left_over(operations[:at], folder, left, dice)
        safe = [n for n in begun if n < at][-4]  # the last may not have ended, the one before it took what was there
        missing = {name for name, when in answered.items() if when < at} - _survivors(left)
        lost += len(missing)
        late += [name for name in missing if answered[name] < safe]
        ages = [operations[at].when - operations[answered[name]].when for name in missing]
        oldest = max([oldest, *ages])
    print(f"{lost} predictions lost over all cuts, the oldest {oldest * 1e3:.0f} ms before the loss of power")
    assert (late, lost > 0) == ([], True)
