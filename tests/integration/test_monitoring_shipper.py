"""The shipper on real spools and files: when it ships, what a crash leaves, how the process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from monitoring.intake.events import LabelEvent, PredictionEvent
from monitoring.intake.ranges import MAX_ROWS, Range, SpoolReader
from monitoring.intake.shipper import ship_once
from monitoring.intake.spool import Spool, connect
from monitoring.lake.lake import Key, Lake
from registry.contract import Column, Contract, Output

CONTRACT = Contract("m", (Column("x", "float"),), Output("regression"))


class Crash(BaseException):
    """Stands for kill -9: nothing may catch it."""


def _labels(first: int, count: int) -> list[LabelEvent]:
    return [LabelEvent(f"id-{n}", "m", float(n), 1e9 + n, 1e9 + n) for n in range(first, first + count)]


def _add(spool: Spool, first: int, count: int) -> float:
    """Append durably; returns the moment they were stored."""
    spool.append_durable(_labels(first, count)).result(60)
    db = connect(spool.path)
    stored = db.execute("SELECT max(stored) FROM events").fetchone()[0]
    db.close()
    return float(stored)


def _ids(lake: Lake) -> list[str]:
    """Ids by row of file, without the reader's own de-duplication."""
    rows = [lake.read("m", "label", files=[path]).column("_id").to_pylist() for path in lake.files("m", "label")]
    return sorted((identifier for part in rows for identifier in part), key=lambda name: int(name[3:]))


def _expected(count: int) -> list[str]:
    return [f"id-{n}" for n in range(count)]


def _drain(folder: Path, lake: Lake) -> int:
    return ship_once(folder, lake, min_rows=1, max_age_s=0, now=0)


def test_rows_wait_until_they_are_many_or_old(tmp_path: Path) -> None:
    """Below the count and younger than the age nothing moves; either makes the range due."""
    lake = Lake(tmp_path / "lake")
    with Spool.open(tmp_path / "spool") as spool:
        stored = _add(spool, 0, 9)
        assert ship_once(tmp_path / "spool", lake, min_rows=10, max_age_s=5, now=stored + 4.9) == 0
        assert lake.models() == []
        assert ship_once(tmp_path / "spool", lake, min_rows=10, max_age_s=5, now=stored + 5.1) == 9
        stored = _add(spool, 9, 10)
        assert ship_once(tmp_path / "spool", lake, min_rows=10, max_age_s=5, now=stored) == 10
        assert ship_once(tmp_path / "spool", lake, min_rows=10, max_age_s=5, now=stored + 99) == 0
    assert _ids(lake) == _expected(19)


def test_predictions_travel_with_their_contract(tmp_path: Path) -> None:
    """The contract registered in the spool types and names the lake's columns."""
    lake = Lake(tmp_path / "lake")
    with Spool.open(tmp_path / "spool") as spool:
        spool.register("m", 3, CONTRACT.to_dict())
        spool.append([PredictionEvent("a", 1e9, 1e9, "m", 3, "champion", "", [1.5], 2.5, None, 0.1, "k")])
    assert _drain(tmp_path / "spool", lake) == 1
    row = lake.read("m", "prediction", columns=["x", "_prediction", "_version", "_boot"]).to_pylist()
    assert row == [{"x": 1.5, "_prediction": 2.5, "_version": 3, "_boot": spool.boot}]


def test_dead_spool_is_drained_and_removed_a_living_one_stays(tmp_path: Path) -> None:
    """A closed spool ships whatever its age and leaves no file; a living one keeps its own."""
    lake = Lake(tmp_path / "lake")
    dead = Spool.open(tmp_path / "spool")
    _add(dead, 0, 3)
    dead.close()
    with Spool.open(tmp_path / "spool") as living:
        _add(living, 3, 1)
        assert ship_once(tmp_path / "spool", lake, min_rows=100, max_age_s=1e9, now=0) == 3
        assert [p.stem for p in (tmp_path / "spool").glob("*.spool*") if p.suffix == ".spool"] == [living.boot]
        _add(living, 4, 1)
    assert _drain(tmp_path / "spool", lake) == 2
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["shipper.lock"]
    assert _ids(lake) == _expected(5)


def test_many_rows_become_several_ranges(tmp_path: Path) -> None:
    """A range is bounded; together they hold everything once."""
    lake = Lake(tmp_path / "lake")
    with Spool.open(tmp_path / "spool") as spool:
        _add(spool, 0, MAX_ROWS + 5)
    assert _drain(tmp_path / "spool", lake) == MAX_ROWS + 5
    assert {path.stem.split("-", 5)[5] for path in lake.files("m", "label")} == {
        f"1-{MAX_ROWS}",
        f"{MAX_ROWS + 1}-{MAX_ROWS + 5}",
    }
    assert _ids(lake) == _expected(MAX_ROWS + 5)


def _crash_before(target: type, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def install(patch: pytest.MonkeyPatch) -> None:
        def crash(*_: Any, **__: Any) -> None:
            raise Crash

        patch.setattr(target, name, crash)

    return install


def _crash_halfway(patch: pytest.MonkeyPatch) -> None:
    """The lake has only part of the range, under the range's name."""
    original = Lake.write

    def crash(self: Lake, rows: Sequence[Any], **more: Any) -> list[Path]:
        original(self, [row for row in rows if int(row[1].prediction_id[3:]) < 3], **more)
        raise Crash

    patch.setattr(Lake, "write", crash)


CRASHES = {
    "before the files": _crash_before(Lake, "write"),
    "among the files": _crash_halfway,
    "before the delete": _crash_before(SpoolReader, "delete"),
}


@pytest.mark.parametrize("crash", CRASHES.values(), ids=CRASHES.keys())
def test_crash_then_more_rows_ships_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """After a crash at any step the range is the one chosen before, though rows were added since."""
    lake = Lake(tmp_path / "lake")
    with Spool.open(tmp_path / "spool") as spool:
        stored = _add(spool, 0, 7)
        with monkeypatch.context() as patch:
            crash(patch)
            with pytest.raises(Crash):
                ship_once(tmp_path / "spool", lake, min_rows=1, max_age_s=0, now=stored)
        _add(spool, 7, 5)
        assert ship_once(tmp_path / "spool", lake, min_rows=1, max_age_s=0, now=stored) == 12
        assert [path.name for path in lake.files("m", "label")] == [
            f"{spool.boot}-1-7.parquet",
            f"{spool.boot}-8-12.parquet",
        ]
    assert _ids(lake) == _expected(12)


def test_forgetting_the_choice_would_duplicate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without the remembered range the crash test above sees rows twice."""
    monkeypatch.setattr(SpoolReader, "_chosen", lambda self: None)
    lake = Lake(tmp_path / "lake")
    with Spool.open(tmp_path / "spool") as spool:
        stored = _add(spool, 0, 7)
        with monkeypatch.context() as patch:
            _crash_before(SpoolReader, "delete")(patch)
            with pytest.raises(Crash):
                ship_once(tmp_path / "spool", lake, min_rows=1, max_age_s=0, now=stored)
        _add(spool, 7, 5)
        ship_once(tmp_path / "spool", lake, min_rows=1, max_age_s=0, now=stored)
    assert len(_ids(lake)) == 19
    assert lake.read("m", "label").num_rows == 12  # readers still see each once


def test_second_shipper_keeps_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one works on the folder another does nothing: it could write a range the first is deleting."""
    lake = Lake(tmp_path / "lake")
    others: list[int] = []
    original = Lake.write

    def meanwhile(self: Lake, rows: Sequence[Any], **more: Any) -> list[Key]:
        others.append(_drain(tmp_path / "spool", lake))
        return original(self, rows, **more)

    monkeypatch.setattr(Lake, "write", meanwhile)
    with Spool.open(tmp_path / "spool") as spool:
        _add(spool, 0, 3)
    assert _drain(tmp_path / "spool", lake) == 3
    assert others == [0]


def test_spool_in_trouble_does_not_stop_the_others(tmp_path: Path) -> None:
    """A file that is no database is left alone and reported."""
    lake = Lake(tmp_path / "lake")
    with Spool.open(tmp_path / "spool") as spool:
        _add(spool, 0, 3)
    (tmp_path / "spool" / "0.spool").write_bytes(b"not a database" * 100)
    assert _drain(tmp_path / "spool", lake) == 3
    assert (tmp_path / "spool" / "0.spool").exists()


def test_leftovers_of_a_writer_that_died_while_starting_are_swept(tmp_path: Path) -> None:
    """An old lock without spool goes with its draft; a fresh one may belong to a writer that is starting."""
    folder = tmp_path / "spool"
    folder.mkdir()
    for name in ("old.lock", "old.new", "fresh.lock"):
        (folder / name).touch()
    os.utime(folder / "old.lock", (1, 1))
    now = (folder / "fresh.lock").stat().st_mtime
    assert ship_once(folder, Lake(tmp_path / "lake"), min_rows=1, max_age_s=0, now=now) == 0
    assert {path.name for path in folder.iterdir()} == {"fresh.lock", "shipper.lock"}


def test_range_survives_reopening(tmp_path: Path) -> None:
    """The choice is on disk: another reader gets the same one."""
    with Spool.open(tmp_path) as spool:
        stored = _add(spool, 0, 4)
        reader = SpoolReader(spool.path)
        first = reader.seal(min_rows=1, max_age_s=0, now=stored)
        reader.close()
        _add(spool, 4, 4)
        again = SpoolReader(spool.path)
        assert (first, again.seal(min_rows=1, max_age_s=0, now=stored)) == (Range(1, 4), Range(1, 4))
        again.close()


def _command(tmp_path: Path) -> list[str]:
    paths = ["--spool-dir", str(tmp_path / "spool"), "--lake", str(tmp_path / "lake")]
    return [sys.executable, "-m", "monitoring.intake.shipper", *paths, "--interval", "0.05", "--min-rows", "1000000"]


def _until(happens: Callable[[], bool]) -> bool:
    pause = threading.Event()
    for _ in range(2400):
        if happens():
            return True
        pause.wait(0.05)
    return False


def test_process_ships_from_a_living_writer_and_drains_on_sigterm(tmp_path: Path) -> None:
    """Old rows move while the writer lives; at SIGTERM the rest moves, and the exit is clean."""
    lake = Lake(tmp_path / "lake")
    with Spool.open(tmp_path / "spool") as spool:
        _add(spool, 0, 3)
        with subprocess.Popen([*_command(tmp_path), "--max-age", "0.2"]) as process:
            assert _until(lambda: lake.files("m", "label") != [])
            process.terminate()
            assert process.wait(30) == 0
        with subprocess.Popen([*_command(tmp_path), "--max-age", "3600"]) as process:
            _add(spool, 3, 3)
            assert _until(lambda: (tmp_path / "spool" / "shipper.lock").stat().st_size == 0 and _handles(process.pid))
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    assert _ids(lake) == _expected(6)


def _handles(pid: int) -> bool:
    """Whether the process has installed its handler of SIGTERM."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line.split()[1] for line in lines if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_process_ends_with_its_parent(tmp_path: Path) -> None:
    """When the parent is killed the shipper drains and ends by itself."""
    with Spool.open(tmp_path / "spool") as spool:
        _add(spool, 0, 3)
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(sys.argv[1:])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, *_command(tmp_path), "--max-age", "3600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert _until(lambda: _handles(child))
        parent.kill()
    assert _until(lambda: not Path(f"/proc/{child}").exists() or "Z" in _state(child))
    assert _ids(Lake(tmp_path / "lake")) == _expected(3)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"
