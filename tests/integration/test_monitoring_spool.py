"""The spool on a real disk: durability, order, loss counted, refusal."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from monitoring.intake.blocks import decode
from monitoring.intake.events import LabelEvent
from monitoring.intake.spool import Spool, connect
from registry.errors import StoreUnavailable


def _label(number: int, label: Any = 1.0) -> LabelEvent:
    return LabelEvent(f"id-{number}", "m", label, float(number), float(number))


def _stored(spool: Spool) -> list[tuple[int, str]]:
    db = connect(spool.path)
    try:
        rows = db.execute("SELECT seq, body FROM events ORDER BY seq").fetchall()
    finally:
        db.close()
    found = [(seq, decode(body)) for seq, body in rows]
    return [(seq, event.prediction_id) for seq, event in found if isinstance(event, LabelEvent)]


def _wait(spool: Spool) -> None:
    """Everything appended before is on disk when this durable append is."""
    spool.append_durable([]).result(60)


def test_appended_events_are_committed_in_order(tmp_path: Path) -> None:
    """Sequence numbers start at one and follow the order of appending."""
    with Spool.open(tmp_path, commit_interval_s=0.01) as spool:
        for number in range(100):
            spool.append([_label(number)])
        spool.append_durable([_label(100), _label(101)]).result(60)
        assert _stored(spool) == [(n + 1, f"id-{n}") for n in range(102)]
    # after closing: the size is measured behind the acknowledgement, which must not wait for it
    stats = spool.stats()
    assert (stats.stored, stats.pending, stats.lost, stats.refused) == (102, 0, {}, 0)
    assert stats.bytes > 0


def test_background_commit_needs_no_call(tmp_path: Path) -> None:
    """A plain append reaches the disk by itself."""
    with Spool.open(tmp_path, commit_interval_s=0.01) as spool:
        spool.append([_label(1)])
        pause = threading.Event()
        for _ in range(6000):
            if _stored(spool):
                break
            pause.wait(0.01)
        assert _stored(spool) == [(1, "id-1")]


def test_future_resolves_only_after_the_commit(tmp_path: Path) -> None:
    """While another process holds the write lock nothing is acknowledged; after it, the event is there."""
    with Spool.open(tmp_path) as spool:
        db = connect(spool.path)
        db.execute("BEGIN IMMEDIATE")
        done = spool.append_durable([_label(1)])
        with pytest.raises(TimeoutError):
            done.result(0.3)
        db.execute("ROLLBACK")
        db.close()
        done.result(60)
        assert _stored(spool) == [(1, "id-1")]


def test_threads_leave_no_gap(tmp_path: Path) -> None:
    """Eight writers at once: each event once, numbers consecutive."""
    with Spool.open(tmp_path, commit_interval_s=0.005) as spool:

        def work(start: int) -> None:
            for number in range(start, start + 500):
                spool.append([_label(number)])

        threads = [threading.Thread(target=work, args=(n * 500,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _wait(spool)
        stored = _stored(spool)
    assert [seq for seq, _ in stored] == list(range(1, 4001))
    assert {name for _, name in stored} == {f"id-{n}" for n in range(4000)}


def test_full_spool_counts_predictions_and_refuses_feedback(tmp_path: Path) -> None:
    """Beyond `max_bytes` an append is counted, a durable one is answered with an error."""
    with Spool.open(tmp_path, commit_interval_s=0.01, max_bytes=100_000) as spool:
        spool.append_durable([_label(n, "x" * 100) for n in range(2000)]).result(60)
        _wait_until_measured(spool)
        for number in range(7):
            spool.append([_label(number)])
        refused = spool.append_durable([_label(1), _label(2)])
        with pytest.raises(StoreUnavailable, match="spool_full"):
            refused.result(60)
        assert (spool.stats().lost, spool.stats().refused) == ({"spool_full": 7}, 2)
        assert len(_stored(spool)) == 2000


def _wait_until_measured(spool: Spool) -> None:
    pause = threading.Event()
    for _ in range(6000):
        if spool.stats().bytes >= 100_000:
            return
        pause.wait(0.01)


def test_event_that_cannot_be_written_does_not_harm_others(tmp_path: Path) -> None:
    """An unknown type is counted as invalid, or fails its own future; neighbours are stored."""
    bad: Any = object()
    with Spool.open(tmp_path, commit_interval_s=0.01) as spool:
        spool.append([_label(1)])
        spool.append([_label(2, bad)])
        failed = spool.append_durable([_label(3), _label(4, bad)])
        spool.append_durable([_label(5)]).result(60)
        with pytest.raises(TypeError):
            failed.result(60)
        assert _stored(spool) == [(1, "id-1"), (5, "id-5")]
        assert (spool.stats().lost, spool.stats().refused, spool.stats().pending) == ({"invalid": 1}, 2, 0)


def test_disk_that_refuses_and_recovers(tmp_path: Path) -> None:
    """While commits fail feedback is refused and predictions wait; when they succeed again nothing is missing."""
    with Spool.open(tmp_path, commit_interval_s=0.02) as spool:
        db = connect(spool.path)
        db.execute("ALTER TABLE events RENAME TO elsewhere")
        spool.append([_label(1)])
        with pytest.raises(StoreUnavailable):
            spool.append_durable([_label(2)]).result(60)
        spool.append([_label(3)])
        db.execute("ALTER TABLE elsewhere RENAME TO events")
        db.close()
        spool.append_durable([_label(4)]).result(60)
        assert _stored(spool) == [(1, "id-1"), (3, "id-3"), (4, "id-4")]
        assert (spool.stats().lost, spool.stats().refused) == ({}, 1)


def test_close_commits_and_later_appends_are_counted(tmp_path: Path) -> None:
    """Closing flushes; what comes after is lost by name or refused."""
    spool = Spool.open(tmp_path, commit_interval_s=60)
    spool.append([_label(1)])
    spool.close()
    spool.append([_label(2)])
    with pytest.raises(StoreUnavailable, match="closed"):
        spool.append_durable([_label(3)]).result(1)
    spool.close()
    assert _stored(spool) == [(1, "id-1")]
    assert spool.stats().lost == {"closed": 1}


def test_close_counts_what_the_disk_refused(tmp_path: Path) -> None:
    """Events that could never be committed, and that no journal has, are counted as lost when the spool closes."""
    spool = Spool.open(tmp_path, commit_interval_s=0.02, journal_bytes=0)
    db = connect(spool.path)
    db.execute("ALTER TABLE events RENAME TO elsewhere")
    db.close()
    for number in range(3):
        spool.append([_label(number)])
    spool.close()
    assert (spool.stats().lost, spool.stats().pending) == ({"disk": 3}, 0)


def test_contract_is_on_disk_no_later_than_its_events(tmp_path: Path) -> None:
    """A registered contract is committed with the next event, once."""
    with Spool.open(tmp_path) as spool:
        spool.register("m", 1, {"model": "m"})
        spool.register("m", 1, {"model": "m"})
        spool.append_durable([_label(1)]).result(60)
        db = connect(spool.path)
        rows = db.execute("SELECT model, version, body FROM contracts").fetchall()
        db.close()
    assert rows == [("m", 1, b'{"model":"m"}')]


def test_every_open_is_a_new_boot(tmp_path: Path) -> None:
    """Two spools in one folder have two files."""
    with Spool.open(tmp_path) as first, Spool.open(tmp_path) as second:
        assert first.boot < second.boot
        assert {path.stem for path in tmp_path.glob("*.spool")} == {first.boot, second.boot}


def test_commits_are_synced(tmp_path: Path) -> None:
    """The journal is a write-ahead log and each commit waits for the disk."""
    with Spool.open(tmp_path) as spool:
        db = connect(spool.path)
        found = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        db.close()
        assert spool._connection is not None
        assert found == ["wal", 2]
        assert isinstance(spool._connection, sqlite3.Connection)
        assert spool._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    """A path that cannot be a folder is refused at once."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        Spool.open(tmp_path / "file" / "spool")


OUT_OF_HANDLES = """
import os, resource, sys, time
from pathlib import Path
from monitoring.intake.events import LabelEvent
from monitoring.intake.spool import Spool

label = LabelEvent("id-1", "m", 1.0, 1.0, 1.0)
with Spool.open(Path(sys.argv[1]), commit_interval_s=0.01) as spool:
    spool.append_durable([label]).result(60)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        time.sleep(2.5)
    for handle in held:
        os.close(handle)
    spool.append_durable([label]).result(60)
    print(spool.stats().stored)
"""


def test_commits_go_on_after_the_process_was_out_of_file_handles(tmp_path: Path) -> None:
    """Thousands of connections at once may use them all up: labels are taken again once some are free."""
    command = [sys.executable, "-c", OUT_OF_HANDLES, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("2", 0), done.stderr
