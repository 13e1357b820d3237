"""The event clock of a replayed model: a request sent with today's date must not carry it off."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from monitoring.drift.detectors import DetectorFailed
from monitoring.lake.lake import Lake
from monitoring.settings import MonitoringSettings
from monitoring.watching.findings import Finding
from registry.bundle import Bundle, read_bundle
from registry.ledger import LEADER, Ledger
from retrain.watch import Watch
from tests.integration import own
from tests.integration import retrain_toy as toy


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The toy's first version, as serving's cache holds it."""
    home = tmp_path_factory.mktemp("champion")
    toy.establish_in_child(home)
    return read_bundle(home / "cache" / "bundles" / toy.MODEL / "1")


def stray(world: toy.World, at: datetime) -> None:
    """One prediction far from the stream, as a pasted curl without `at` leaves it."""
    world._write("prediction", [f"stray-{at}"], [at], {"x": [1.0], "z": [0.0]}, [1], [7.0], None)


def watched(home: Path, champion: Bundle) -> Watch:
    ledger = Ledger.open(f"sqlite:///{home / 'ledger.db'}")
    token = ledger.acquire(LEADER, "test", 60)
    assert token is not None
    watch = Watch(toy.MODEL, ledger, Lake(home / "events"), MonitoringSettings(window_max_age_s=86_400))
    watch.feed(champion, 1, token=token)
    return watch


@pytest.mark.parametrize("first", [False, True], ids=["in the middle", "before the first event"])
def test_a_stray_moves_neither_the_clock_nor_a_window(tmp_path: Path, champion: Bundle, first: bool) -> None:
    """With and without it the clock, the windows and the findings are the same."""
    today = datetime(2026, 11, 21, tzinfo=UTC)
    homes = {}
    for name in ("with", "without"):
        world = toy.World(tmp_path / name)
        if name == "with" and first:
            stray(world, today)
        world.play(5, shift=5.0)
        if name == "with" and not first:
            stray(world, today)
        world.seq = 10_000
        world.play(5, shift=5.0)
        homes[name] = watched(tmp_path / name, champion)
    clean, disturbed = homes["without"], homes["with"]
    newest = toy.START + timedelta(days=10)
    for watch in (clean, disturbed):
        now = watch.now()
        assert now is not None
        assert newest - timedelta(days=1) < now < newest
    assert disturbed.snapshot()["windows"] == clean.snapshot()["windows"]
    assert disturbed.snapshot()["last_event_at"] == clean.snapshot()["last_event_at"]
    assert disturbed.started() == clean.started()


def test_a_stream_that_moves_on_is_followed(tmp_path: Path, champion: Bundle) -> None:
    """A gap of a year is no stray once the stream itself is behind it."""
    world = toy.World(tmp_path)
    world.play(2, shift=5.0)
    world.day = 400
    world.play(2, shift=5.0)
    now = watched(tmp_path, champion).now()
    assert now is not None
    assert now > toy.START + timedelta(days=400)


def test_the_table_of_a_stray_is_kept_in_the_lake(tmp_path: Path) -> None:
    """Left out of monitoring, not lost."""
    world = toy.World(tmp_path)
    stray(world, datetime(2026, 11, 21, tzinfo=UTC))
    table: pa.Table = Lake(tmp_path / "events").read(toy.MODEL, "prediction")
    assert table.num_rows == 1


def test_a_detector_that_fails_in_the_middle_of_a_batch_folds_nothing_in_twice(
    tmp_path: Path, champion: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn fails; once it works again, state and findings are those of a stream without a failure."""
    toy.World(tmp_path).play(6, shift=15.0)
    settings = MonitoringSettings(window_max_age_s=86_400, detector="tests.integration.own:far")
    lake, watches = Lake(tmp_path / "events"), []
    for name in ("smooth", "interrupted"):
        ledger = Ledger.open(f"sqlite:///{tmp_path / name}.db")
        token = ledger.acquire(LEADER, "test", 60)
        assert token is not None
        watch = Watch(toy.MODEL, ledger, lake, settings)
        if name == "interrupted":
            monkeypatch.setattr(own, "FAILS_ON", 5)
            for _ in range(2):
                monkeypatch.setattr(own, "ASKED", 0)
                with pytest.raises(DetectorFailed):
                    watch.feed(champion, 1, token=token)
            assert ledger.load_state(f"worker:{toy.MODEL}") is None
            monkeypatch.setattr(own, "FAILS_ON", 0)
        findings = watch.feed(champion, 1, token=token)
        assert watch.monitor is not None
        rows = [row.body for row in ledger.evidence(toy.MODEL, "finding")]
        watches.append((watch.monitor.state(), watch.labels, [f.to_dict() for f in findings], rows))
        ledger.close()
    assert watches[0] == watches[1]
    assert watches[0][2]


def test_many_findings_of_a_turn_that_a_crash_cut_off_are_recorded_once(tmp_path: Path, champion: Bundle) -> None:
    """The turn is made again from the lake, and its first findings lie far back by then."""
    watch = watched(tmp_path, champion)
    token = watch.ledger.acquire(LEADER, "test", 60)
    assert token is not None
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    found = [Finding(toy.MODEL, "feature_drift", "ok", "none", moment + timedelta(hours=n)) for n in range(150)]
    watch._record(found, token)
    for turn in (found[:10], found):
        watch._record(turn, token)
    rows = watch.ledger.evidence(toy.MODEL, "finding", limit=1_000)
    assert [row.body for row in rows[::-1]] == [one.to_dict() for one in found]


def test_a_worker_that_restarts_after_a_change_of_champion_misses_nothing(tmp_path: Path, champion: Bundle) -> None:
    """What comes between the change and the new champion's first rows is watched, with a restart and without one."""
    states = []
    for name in ("steady", "restarted"):
        home = tmp_path / name
        world = toy.World(home)
        world.play(2, shift=5.0)
        watch = watched(home, champion)
        token = watch.ledger.acquire(LEADER, "test", 60)
        assert token is not None
        watch.feed(champion, 2, token=token)
        world.play(3, shift=5.0)
        if name == "restarted":
            watch = Watch(toy.MODEL, watch.ledger, watch.lake, watch.settings)
        watch.feed(champion, 2, token=token)
        assert watch.monitor is not None
        states.append(watch.monitor.state())
    assert states[0] == states[1]
    assert states[0] != b""
