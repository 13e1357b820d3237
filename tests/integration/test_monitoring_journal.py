"""What waits for its commit outlives its process: the journal, and what the shipper makes of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from monitoring.intake import recovery
from monitoring.intake.blocks import MANY, Answered, Block, decode
from monitoring.intake.events import LabelEvent
from monitoring.intake.journal import SEGMENT_BYTES, SUFFIXES, Journal, Kind, read_segment
from monitoring.intake.losses import Claims
from monitoring.intake.recovery import Recovered, recover
from monitoring.intake.shipper import ship_once
from monitoring.intake.spool import Spool, connect
from monitoring.lake.lake import Lake
from registry.contract import Column, Contract, Output
from registry.errors import StoreUnavailable
from serving.decode import Decoder
from serving.dialects.json_rows import read_rows

CONTRACT = Contract(
    "m",
    (
        Column("x", "float", nullable=True),
        Column("city", "string"),
        Column("email", "string", policy="hash"),
        Column("secret", "string", policy="drop"),
    ),
    Output("classification", ("no", "yes")),
)
NEVER = 3600.0
"""Commit interval of a spool whose thread does nothing by itself: what it holds is in memory and in the journal."""


def _answered(first: int, count: int = 1, **changes: Any) -> Answered:
    numbers = range(first, first + count)
    given: dict[str, Any] = {
        "arm": "champion",
        "entity": "anna@example.org",
        "rows": [(None if n % 3 == 0 else n / 2, "Oslo", f"mail-{n}@example.org", "do-not-keep") for n in numbers],
        "predictions": ["yes"] * count,
        "values": [[0.25, 0.75]] * count,
        **changes,
    }
    ids = [f"id-{n}" for n in numbers]
    return Answered(
        contract=CONTRACT, version=1, at=1e9 + first, received=1e9, key="k", latency_ms=0.5, ids=ids, **given
    )


def _bulk(first: int, count: int) -> Answered:
    rows = _answered(first, count).rows
    batch = read_rows(Decoder(CONTRACT, max_rows=count), [dict(zip(CONTRACT.names, row, strict=True)) for row in rows])
    return _answered(first, count, rows=batch.rows)


def _dead(spool: Spool) -> None:
    """What kill -9 leaves: the lock is free, the files are as they are, and the thread of the spool never ran."""
    os.close(spool._lock_file)
    spool._lock_file = -1


def _drain(folder: Path, lake: Path) -> list[dict[str, Any]]:
    ship_once(folder, Lake(lake), min_rows=1, max_age_s=0, now=0)
    table = Lake(lake).read("m", "prediction")
    rows: list[dict[str, Any]] = table.drop_columns(["_boot"]).to_pylist() if table.num_rows else []
    return sorted(rows, key=lambda row: row["_seq"])


def _abandoned(folder: Path, events: list[Answered], *, journal_bytes: int = SEGMENT_BYTES) -> Spool:
    """A spool that died before its first commit."""
    spool = Spool.open(folder, commit_interval_s=NEVER, journal_bytes=journal_bytes)
    spool.register("m", 1, CONTRACT.to_dict())
    for event in events:
        spool.append(event)
    _dead(spool)
    return spool


def test_what_died_uncommitted_is_in_the_lake_as_if_it_had_been_committed(tmp_path: Path) -> None:
    """Single rows, several, many by columns and shadows: the same rows as from a spool that was closed."""
    events = [
        *(_answered(1), _answered(2, 3), _bulk(5, MANY + 7), _answered(5 + MANY + 7, entity="")),
        _answered(600, 2, arm="shadow", rows=[], entity=""),
    ]
    with Spool.open(tmp_path / "whole") as whole:
        whole.register("m", 1, CONTRACT.to_dict())
        for event in events:
            whole.append(event)
    _abandoned(tmp_path / "killed", events)
    wanted = _drain(tmp_path / "whole", tmp_path / "lake-whole")
    assert len(wanted) == 1 + 3 + MANY + 7 + 1
    assert _drain(tmp_path / "killed", tmp_path / "lake-killed") == wanted
    shadows = [Lake(tmp_path / f"lake-{name}").read("m", "shadow").num_rows for name in ("whole", "killed")]
    assert shadows == [2, 2]
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["shipper.lock"]


def test_the_journal_keeps_to_the_policies_and_is_wiped_after_the_commit(tmp_path: Path) -> None:
    """No raw hashed or dropped value is in it at any time, and nothing at all once the events are committed."""
    with Spool.open(tmp_path, commit_interval_s=NEVER) as spool:
        spool.register("m", 1, CONTRACT.to_dict())
        for event in (_answered(1), _answered(2, 3), _bulk(5, MANY)):
            spool.append(event)
        files = [spool.path.with_suffix(suffix) for suffix in SUFFIXES]
        held = b"".join(file.read_bytes() for file in files)
        assert b"Oslo" in held
        assert [word for word in (b"mail-", b"do-not-keep", b"anna@") if word in held] == []
        spool.append_durable([]).result(60)
        spool.append_durable([]).result(60)  # the thread is behind the first one's wiping now
        assert b"".join(file.read_bytes() for file in files).strip(b"\0") == b""
    assert list(tmp_path.glob("*.j?")) == []


def test_each_event_comes_back_once_wherever_recovery_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its commit, and between its commit and the removal of the journal: the next one finishes the work."""

    class Crash(BaseException):
        """Stands for kill -9: nothing may catch it."""

    def crash(*_: Any, **__: Any) -> None:
        raise Crash

    spool = _abandoned(tmp_path / "spool", [_answered(n) for n in range(1, 8)])
    for target, name in ((recovery, "restored"), (Path, "unlink")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, crash)
            with pytest.raises(Crash):
                recover(spool.path)
    assert recover(spool.path) == Recovered(events=0, lost=0, uncounted=0, refused=0)
    assert recover(spool.path) is None
    assert [row["_id"] for row in _drain(tmp_path / "spool", tmp_path / "lake")] == [f"id-{n}" for n in range(1, 8)]


def test_what_was_committed_already_is_not_brought_back(tmp_path: Path) -> None:
    """Killed after the commit and before the wiping: the mark in the spool says that the records are stored."""
    folder = tmp_path / "spool"
    spool = _abandoned(folder, [_answered(n) for n in range(1, 4)])
    before = next(p for s in SUFFIXES if b"Oslo" in (p := spool.path.with_suffix(s)).read_bytes())
    unwiped = before.read_bytes()
    spool.append_durable([]).result(60)
    with closing(connect(spool.path)) as db:
        db.execute("BEGIN IMMEDIATE")  # nothing is committed from here on
        for n in range(4, 6):
            spool.append(_answered(n))
        shutil.copytree(folder, tmp_path / "killed", ignore=shutil.ignore_patterns("*-shm"))
    killed = tmp_path / "killed" / spool.path.name
    others = [read_segment(killed.with_suffix(s))[0] for s in SUFFIXES if s != before.suffix]
    if not any(others):  # the segments took turns an even number of times
        records = unwiped[: len(unwiped.rstrip(b"\0"))]
        killed.with_suffix(next(s for s in SUFFIXES if s != before.suffix)).write_bytes(records)
    else:
        killed.with_suffix(before.suffix).write_bytes(unwiped)
    assert recover(killed) == Recovered(events=2, lost=0, uncounted=0, refused=0)
    assert len(_drain(tmp_path / "killed", tmp_path / "lake")) == 5


def test_a_record_that_was_being_written_ends_the_journal(tmp_path: Path) -> None:
    """Half a record, or one that does not check, is no event; those before it are."""
    for name, cut in (("half", slice(-5, None)), ("flipped", slice(-40, -39))):
        spool = _abandoned(tmp_path / name, [_answered(n) for n in range(1, 4)])
        segment = next(p for s in SUFFIXES if (p := spool.path.with_suffix(s)).read_bytes().strip(b"\0"))
        data = bytearray(segment.read_bytes())
        end = len(data.rstrip(b"\0"))
        data[:end] = bytes([*data[:end][: cut.start], *(b ^ 255 for b in data[:end][cut])]).ljust(end, b"\0")
        segment.write_bytes(data)
        assert recover(spool.path) == Recovered(events=2, lost=0, uncounted=0, refused=0)


def test_a_damaged_record_costs_itself_and_is_counted(tmp_path: Path) -> None:
    """Pages of a mapping reach the disk in any order: after a loss of power one may be missing before others."""
    spool = _abandoned(tmp_path / "spool", [_answered(n) for n in range(1, 6)])
    segment = spool.path.with_suffix(SUFFIXES[0])
    data = segment.read_bytes()
    assert data.count(b"id-3") == 1
    segment.write_bytes(data.replace(b"id-3", b"\0\0\0\0"))
    assert recover(spool.path) == Recovered(events=4, lost=1, uncounted=1, refused=0)
    assert [row["_id"] for row in _drain(tmp_path / "spool", tmp_path / "lake")] == ["id-1", "id-2", "id-4", "id-5"]
    assert Claims(tmp_path / "spool").take() == 1


@pytest.mark.parametrize("bit", [63, 50])
def test_a_damaged_note_neither_stops_the_shipper_nor_counts_as_losses(tmp_path: Path, bit: int) -> None:
    """The number at the front of a segment has no checksum; what no process can have counted is not believed."""
    spool = _abandoned(tmp_path / "spool", [_answered(n) for n in range(1, 4)])
    segment = spool.path.with_suffix(SUFFIXES[0])
    data = bytearray(segment.read_bytes())
    data[bit // 8] |= 1 << bit % 8
    segment.write_bytes(data)
    assert len(_drain(tmp_path / "spool", tmp_path / "lake")) == 3
    assert Claims(tmp_path / "spool").take() == 0


def test_events_without_room_in_the_journal_are_counted_and_missed_exactly(tmp_path: Path) -> None:
    """A full journal neither waits nor raises: the spool counts, and after a kill recovery counts the same."""
    spool = Spool.open(tmp_path / "spool", commit_interval_s=NEVER, journal_bytes=4_096)
    spool.register("m", 1, CONTRACT.to_dict())
    spool._journal._crowded = lambda: None  # the thread is not woken: a disk that takes its time
    for n in range(1, 101):
        spool.append(_answered(n))
    at_risk = spool.stats().unjournaled
    assert 0 < at_risk < 100
    _dead(spool)
    found = recover(spool.path)
    assert found == Recovered(events=100 - at_risk, lost=at_risk, uncounted=at_risk, refused=0)
    rows = _drain(tmp_path / "spool", tmp_path / "lake")
    assert [row["_seq"] for row in rows] == list(range(1, 101 - at_risk))
    with Spool.open(tmp_path / "spool") as living:
        living.append_durable([]).result(60)
    assert living.stats().lost == {"crash": at_risk}
    assert Claims(tmp_path / "spool").take() == 0


def test_numbers_of_the_lost_and_the_refused_are_told_apart(tmp_path: Path) -> None:
    """Durable appends nobody was answered are no loss; predictions that a full spool turned away are counted once."""
    with closing(Spool.open(tmp_path, commit_interval_s=NEVER)) as spool:
        spool.register("m", 1, CONTRACT.to_dict())
        spool.append_durable([LabelEvent("a", "m", 1.0, 1e9, 1e9)]).result(60)
        db = connect(spool.path)
        db.execute("BEGIN IMMEDIATE")
        waiting = spool.append_durable([LabelEvent("b", "m", 1.0, 1e9, 1e9)])  # its commit waits for the lock
        spool.append(_answered(1))
        spool._max_bytes, kept = 0, spool._max_bytes
        spool.append(_answered(2, 5))
        spool._max_bytes = kept
        copies = [(path := spool.path.with_suffix(s), path.read_bytes()) for s in SUFFIXES]
        db.execute("ROLLBACK")
        waiting.result(60)
        spool.append_durable([]).result(60)  # the thread is done with what came while it waited, and writes no more
        db.execute("DELETE FROM events WHERE seq > 1")
        db.execute("UPDATE mark SET high = 1, stored = 1, refused = 0, lost = 0")
        db.close()
        _dead(spool)
        for path, data in copies:
            path.write_bytes(data)
        assert recover(spool.path) == Recovered(events=1, lost=5, uncounted=5, refused=1)


def test_what_the_disk_refuses_until_the_end_stays_in_the_journal(tmp_path: Path) -> None:
    """A spool that is closed while its disk refuses leaves its journal to the shipper, and has lost nothing."""
    spool = Spool.open(tmp_path / "spool", commit_interval_s=0.02)
    spool.register("m", 1, CONTRACT.to_dict())
    spool.append_durable([]).result(60)
    db = connect(spool.path)
    db.execute("ALTER TABLE events RENAME TO elsewhere")
    for n in range(3):
        spool.append(_answered(n))
    spool.close()
    assert (spool.stats().lost, spool.stats().pending) == ({}, 0)
    db.execute("ALTER TABLE elsewhere RENAME TO events")
    db.close()
    assert len(_drain(tmp_path / "spool", tmp_path / "lake")) == 3


def test_a_commit_that_was_said_to_fail_and_did_not_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails behind the commit: the file is asked how far it is, and each event is there once."""
    spool = Spool.open(tmp_path / "spool", commit_interval_s=NEVER)
    spool.register("m", 1, CONTRACT.to_dict())
    spool.append_durable([]).result(60)
    write = spool._write

    def fails(*given: Any) -> None:
        write(*given)
        assert spool._connection is not None
        spool._connection.close()
        spool._connection = None
        monkeypatch.setattr(spool, "_write", write)
        raise OSError("the disk failed")

    monkeypatch.setattr(spool, "_write", fails)
    spool.append(_answered(1))
    with pytest.raises(StoreUnavailable):
        spool.append_durable([]).result(60)
    spool.append(_answered(2))
    spool.append_durable([]).result(60)
    spool.close()
    assert (spool.stats().stored, spool.stats().lost) == (2, {})
    assert [row["_seq"] for row in _drain(tmp_path / "spool", tmp_path / "lake")] == [1, 2]


def test_a_disk_without_room_leaves_a_spool_without_a_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spool opens and takes events; those are counted as at risk."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full, raising=False)
        spool = Spool.open(tmp_path)
    with spool:
        spool.append(_answered(1))
    assert (spool.stats().unjournaled, spool.stats().stored) == (1, 1)
    assert list(tmp_path.glob("*.j?")) == []


def test_segments_take_turns_and_are_used_again(tmp_path: Path) -> None:
    """A segment is wiped only when all of it is stored, and then takes records again."""
    journal = Journal.create(tmp_path / "b.spool", size=4_096, crowded=lambda: None)
    paths = [tmp_path / f"b{suffix}" for suffix in SUFFIXES]
    with closing(_Closing(journal)):
        for turn in range(10):
            first = 10 * turn + 1
            assert all(journal.write(Kind.EVENTS, n, 1, b"x" * 90) for n in range(first, first + 10))
            journal.turn(first + 9)
            journal.settle(first + 8)
            found = sorted(r.first for path in paths for r in read_segment(path)[0])
            assert found == list(range(first, first + 10))
            journal.settle(first + 9)
            assert [read_segment(path)[0] for path in paths] == [[], []]


class _Closing:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def close(self) -> None:
        self._journal.close(remove=True)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.integration.test_monitoring_journal import CONTRACT, NEVER, _answered
from monitoring.intake.spool import Spool

spool = Spool.open(Path(sys.argv[1]), commit_interval_s=NEVER, journal_bytes=int(sys.argv[2]))
spool.register("m", 1, CONTRACT.to_dict())
for n in range(1, 1001):
    spool.append(_answered(n))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("journal_bytes", "survive"), [(SEGMENT_BYTES, 1000), (0, 0)], ids=["journal", "control"])
def test_a_real_kill_takes_nothing_that_the_journal_has(tmp_path: Path, journal_bytes: int, survive: int) -> None:
    """A thousand answers and SIGKILL at once: all are there; without a journal, the control, none is."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "spool"), str(journal_bytes)]
    subprocess.run(command, check=False, cwd=Path(__file__).parents[2])
    rows = _drain(tmp_path / "spool", tmp_path / "lake")
    assert [row["_seq"] for row in rows] == list(range(1, survive + 1))


def test_an_answer_that_cannot_come_back_does_not_keep_the_others(tmp_path: Path) -> None:
    """One strange request among good ones is lost and counted; the rest comes back."""
    events = [_answered(1), _answered(2, values=7), _answered(3)]
    spool = _abandoned(tmp_path, events)
    found = recover(spool.path)
    assert found == Recovered(events=2, lost=1, uncounted=1, refused=0)
    with closing(connect(spool.path)) as db:
        bodies = [decode(body) for (body,) in db.execute("SELECT body FROM events ORDER BY seq")]
    assert [body.first for body in bodies if isinstance(body, Block)] == [[1], [3]]
