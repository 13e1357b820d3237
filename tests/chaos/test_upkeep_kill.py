"""Upkeep survives kill -9 at each of its steps: every row is read once throughout, and lies in one file in the end.

The child is killed while it writes its draft, before the rename, after it, and after each removal. The control removes
before it writes, a bug that the same check must see as loss.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from monitoring.intake.events import LabelEvent
from monitoring.lake.lake import Lake
from monitoring.lake.upkeep_run import Job, round_of
from registry.errors import StoreUnavailable

NOON = 1_772_366_400.0
FILES = 8
JOB = Job("m", date(2026, 3, 20))

CHILD = """
import os, signal, stat, sys
from datetime import date
from pathlib import Path
from monitoring.lake import upkeep
from monitoring.lake.lake import Lake

lake, step, manner = Lake(sys.argv[1]), sys.argv[2], sys.argv[3]
left = [int(step)] if step.isdigit() else []

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def between(_):
    if left:
        left[0] -= 1
        if left[0] < 0:
            die()

if step == "draft":
    def cut(handle):
        if stat.S_ISREG(os.fstat(handle).st_mode):
            os.ftruncate(handle, 100)
            die()
    os.fsync = cut
elif step == "rename":
    Path.replace = lambda self, target: die()
[merge] = upkeep.merges("m", "label", lake.files("m", "label"), before=date(2026, 3, 20), rows=lake.rows)
if manner == "careless":
    bodies = lake.read("m", "label", files=merge.files)
    for file in merge.files:
        lake.storage.remove(file)
upkeep.carry_out(lake, merge, between=between)
"""


def _fill(lake: Lake) -> None:
    for number in range(FILES):
        first = number * 10 + 1
        rows = [(seq, LabelEvent(f"id-{seq}", "m", 1.0, NOON + seq, NOON + seq)) for seq in range(first, first + 10)]
        lake.write(rows, boot="b", first=first, last=first + 9, contracts={})


def _tidied_to_death(root: Path, step: str, manner: str = "careful") -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, str(root), step, manner], capture_output=True, check=False)
    assert done.returncode != 0
    assert manner == "careless" or done.returncode == -signal.SIGKILL, done.stderr.decode()


def _ids(lake: Lake) -> list[str]:
    return sorted(lake.read("m", "label").column("_id").to_pylist())


def _bare(root: Path) -> Counter[str]:
    """Ids by row of file, as a reader sees them that knows nothing of us."""
    found: Counter[str] = Counter()
    for path in root.rglob("*.parquet"):
        if not path.name.startswith("."):
            found.update(pq.read_table(path, columns=["_id"]).column("_id").to_pylist())
    return found


EVERY = sorted(f"id-{seq}" for seq in range(1, FILES * 10 + 1))


@pytest.mark.parametrize("step", ["draft", "rename", *map(str, range(FILES))])
def test_killed_at_any_step_each_row_is_there_once(tmp_path: Path, step: str) -> None:
    """For our readers at once; for those of bare Parquet after the next round."""
    lake = Lake(tmp_path)
    _fill(lake)
    _tidied_to_death(tmp_path, step)
    assert _ids(lake) == EVERY
    assert set(_bare(tmp_path)) == set(EVERY)
    assert lake.storage.sweep(before=time.time() - 3600) == 0
    assert lake.storage.sweep(before=time.time() + 3600) == (step in ("draft", "rename"))
    round_of(lake, [JOB], seconds=60)
    assert _ids(lake) == EVERY
    assert _bare(tmp_path) == Counter(EVERY)


def test_control_removing_before_writing_is_caught(tmp_path: Path) -> None:
    """The same check sees the loss."""
    lake = Lake(tmp_path)
    _fill(lake)
    _tidied_to_death(tmp_path, "0", "careless")
    assert _ids(lake) != EVERY


def test_readers_beside_upkeep_see_each_row_once(tmp_path: Path) -> None:
    """Listing, then reading, while files vanish: a reader lists anew. Control: files named beforehand are missed."""
    wrong: list[object] = []
    stop = threading.Event()
    lake = Lake(tmp_path)
    _fill(lake)

    def read() -> None:
        mine = Lake(tmp_path)
        while not stop.is_set():
            try:
                found = _ids(mine)
                if found != EVERY:
                    wrong.append(len(found))
            except Exception as error:  # whatever it is, the test shows it
                wrong.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    listed = lake.files("m", "label")
    for _ in range(15):
        round_of(lake, [JOB], seconds=60)
        _fill(lake)  # as after a shipper's crash: the same ranges, in the same files
    round_of(lake, [JOB], seconds=60)
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert _bare(tmp_path) == Counter(EVERY)
    with pytest.raises(StoreUnavailable, match="gone"):
        lake.read("m", "label", files=listed)
