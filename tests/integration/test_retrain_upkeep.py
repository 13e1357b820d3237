"""Upkeep beside a monitor: what it has folded becomes few files or goes, what it has not stays, no row counts twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from prometheus_client import CollectorRegistry

from monitoring.alerting.metrics import WorkerMetrics
from monitoring.lake import upkeep
from monitoring.lake.consumed import MERGED, Consumed, spool_range
from monitoring.lake.lake import Key, Lake
from monitoring.lake.lake_tables import Kind
from monitoring.lake.upkeep_run import Job, Result, round_of
from monitoring.settings import MonitoringSettings
from registry.bundle import Bundle, read_bundle
from registry.ledger import LEADER, Ledger
from retrain.places import Places
from retrain.upkeep import Upkeep
from retrain.watch import Watch
from retrain.worker import create_worker
from tests.integration import retrain_toy as toy

PARTS = 6
AFTER = toy.START + timedelta(days=30)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the toy's first version."""
    home = tmp_path_factory.mktemp("champion")
    toy.establish_in_child(home)
    return home


@pytest.fixture(scope="module")
def champion(made: Path) -> Bundle:
    return read_bundle(made / "cache" / "bundles" / toy.MODEL / "1")


def split(lake: Lake, folder: Path) -> None:
    """Every file of the toy's days as the shipper would have written it in a busier world: several small ones."""
    for kind in upkeep.KINDS:
        for key in lake.files(toy.MODEL, kind):
            if key.name.startswith(MERGED) or "part" in key.name:
                continue
            table = pq.ParquetFile(folder / key).read()
            size = -(-table.num_rows // PARTS)
            for first in range(0, table.num_rows, size):
                rows = table.slice(first, size)
                numbers = rows.column("_seq").to_pylist()
                version = "" if kind == "label" else "-v1"
                name = f"part-{min(numbers)}-{max(numbers)}{version}.parquet"
                pq.write_table(rows, (folder / key).with_name(name))
            (folder / key).unlink()


class Home:
    """One home with its watch, under a lease of its own."""

    def __init__(self, folder: Path, champion: Bundle) -> None:
        self.lake = Lake(folder / "events")
        self.ledger = Ledger.open(f"sqlite:///{folder / 'ledger.db'}")
        self.world = toy.World(folder)
        self._champion, self._folder = champion, folder
        found = self.ledger.acquire(LEADER, "test", 600)
        assert found is not None
        self._token = found
        self.restart()

    def restart(self) -> None:
        """The next worker knows what the ledger knows."""
        settings = MonitoringSettings(window_max_age_s=86_400)
        self.watch = Watch(toy.MODEL, self.ledger, self.lake, settings)

    def play(self, days: int) -> None:
        self.world.play(days, shift=15.0)
        split(self.lake, self._folder / "events")

    def feed(self) -> None:
        for _ in range(4):
            self.watch.feed(self._champion, 1, token=self._token)

    def job(self, keep_days: int | None = None) -> Job:
        saved = self.watch.saved
        assert saved is not None
        names, marks = sorted(saved.names), dict(saved.marks)
        return Job(toy.MODEL, AFTER.date(), keep_days, watched=True, names=names, marks=marks)

    def tidy(self) -> Result:
        return round_of(self.lake, [self.job()], seconds=60)

    def picture(self) -> tuple[object, ...]:
        """What the monitor makes of all it has seen."""
        return self.watch.snapshot(), self.watch.labels, self.watch.now(), self.watch.started()


def test_a_monitor_sees_each_row_once_however_files_are_merged(tmp_path: Path, champion: Bundle) -> None:
    """With upkeep after every look, and a restart in between, all that it knows is what it knows without."""
    kept, tidied = Home(tmp_path / "kept", champion), Home(tmp_path / "tidied", champion)
    merged = 0
    for days in (3, 2, 4):
        for home in (kept, tidied):
            home.play(days)
            home.feed()
        merged += sum(tidied.tidy().merged.values())
        tidied.restart()
        tidied.feed()
    assert merged == 9 * 2 * PARTS
    assert tidied.picture() == kept.picture()
    assert len(tidied.lake.files(toy.MODEL, "prediction")) == 9
    assert tidied.lake.joined(toy.MODEL).equals(kept.lake.joined(toy.MODEL))
    saved = tidied.watch.saved
    assert saved is not None
    assert len(saved.names) == 2 * PARTS * 4  # of the last look; the rest are marks


def test_control_a_merged_file_taken_for_a_new_one_is_caught(
    tmp_path: Path, champion: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same comparison sees rows that were folded twice."""
    home = Home(tmp_path, champion)
    home.play(3)
    home.feed()
    before = home.picture()
    home.tidy()
    monkeypatch.setattr("monitoring.lake.consumed.MERGED", "no such name")
    home.feed()
    assert home.watch.labels == 2 * 3 * toy.PER_DAY
    assert home.picture() != before


def test_what_no_monitor_has_seen_is_left_alone(tmp_path: Path, champion: Bundle) -> None:
    """Files that came after the last look are neither merged nor removed, though their day is over its time."""
    home = Home(tmp_path, champion)
    home.play(2)
    home.feed()
    job = home.job(keep_days=5)
    home.play(2)
    round_of(home.lake, [job], seconds=60)
    left = home.lake.files(toy.MODEL, "prediction")
    assert len(left) == 2 * PARTS
    assert home.lake.read(toy.MODEL, "prediction").num_rows == 2 * toy.PER_DAY
    home.feed()
    assert home.watch.snapshot()["last_event_at"] >= (toy.START + timedelta(days=3)).timestamp()


def test_a_range_shipped_again_after_its_merge_counts_once(tmp_path: Path, champion: Bundle) -> None:
    """A shipper that died before its delete writes the small file anew: it is known, and goes with the next round."""
    home = Home(tmp_path, champion)
    home.play(3)
    [first, *_] = home.lake.files(toy.MODEL, "prediction")
    body = (tmp_path / "events" / first).read_bytes()
    home.feed()
    home.play(1)
    home.feed()
    home.tidy()
    before = home.picture()
    (tmp_path / "events" / first).write_bytes(body)
    home.restart()
    home.feed()
    assert home.picture() == before
    home.tidy()
    assert first not in home.lake.files(toy.MODEL, "prediction")
    assert _bare_rows(home.lake, "prediction") == 4 * toy.PER_DAY


def _bare_rows(lake: Lake, kind: Kind) -> int:
    """Rows of files: no reader's de-duplication may help."""
    return sum(lake.rows(key) for key in lake.files(toy.MODEL, kind))


def test_old_days_go_and_are_counted(tmp_path: Path, champion: Bundle) -> None:
    """By event time and the model's own number of days; what stays is complete."""
    home = Home(tmp_path, champion)
    home.play(10)
    home.feed()
    job = home.job(keep_days=25)
    found = round_of(home.lake, [job], seconds=60)
    assert found.expired == {toy.MODEL: {"prediction": 5 * toy.PER_DAY, "label": 5 * toy.PER_DAY}}
    left = home.lake.read(toy.MODEL, "prediction").column("_at").to_pylist()
    assert min(left) == toy.START + timedelta(days=5)
    assert len(left) == 5 * toy.PER_DAY
    assert round_of(home.lake, [home.job(keep_days=25)], seconds=60).expired == {}


def test_the_worker_tidies_in_a_child(tmp_path: Path, made: Path) -> None:
    """Of its models by its settings; a home that is being tidied is left to whoever does it; numbers are metrics."""
    toy.World(made).play(4, shift=5.0)
    split(Lake(made / "events"), made / "events")
    settings = toy.settings().model_copy(update={"upkeep_s": 0.01, "retention_days": 2})
    worker = create_worker(settings, made, registry=CollectorRegistry(), wall=lambda: datetime(2014, 1, 1, tzinfo=UTC))
    try:
        lake, m = worker.lake, worker.gauges.metrics
        worker.aliases._due = float("inf")
        toy.until(lambda: m.lake_upkeep_last_success_timestamp_seconds._value.get() > 0, worker.tick)
        toy.until(lambda: len(lake.files(toy.MODEL, "prediction")) == 2 + PARTS, worker.tick)
        assert m.lake_upkeep_failures_total._value.get() == 0
        gone = m.lake_events_expired_total.labels(toy.MODEL, "prediction")._value.get()
        assert gone == toy.PER_DAY  # the model's clock is that of 2013
        assert m.lake_files_merged_total.labels(toy.MODEL)._value.get() == 2 * 2 * PARTS  # not of the last day
    finally:
        worker.close()


def test_a_round_that_fails_is_counted_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that refuses: the failure is a number."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    away = "s3://b/x?scheme=http&endpoint_override=127.0.0.1:1&region=us-east-1"
    metrics = WorkerMetrics(CollectorRegistry())
    rounds = Upkeep(Places(tmp_path, lake_url=away), metrics, 0.01)
    jobs = [Job("m", AFTER.date())]
    try:
        toy.until(
            lambda: metrics.lake_upkeep_failures_total._value.get() >= 2,
            lambda: rounds.tend(lambda: jobs, quiet=True),
        )
    finally:
        rounds.stop()


def test_a_name_is_known_by_its_mark() -> None:
    """Shuffled listings, several versions and days: the same files count as folded in few words as in many."""

    def name(boot: str, n: int, version: int, day: int) -> str:
        return f"kind=prediction/date=2026-03-{day:02}/{boot}-{n * 10 + 1}-{n * 10 + 10}-v{version}.parquet"

    old = [name(boot, n, version, day) for boot in "ab" for n in range(20) for version in (1, 2) for day in (1, 2)]
    new = [name("a", n, 1, 2) for n in range(20, 23)]
    many = Consumed().add(old)
    few = many.settled([*new, *old[::-1]])
    assert few.names == frozenset()
    assert len(few.marks) == 8
    assert all(file in few for file in old)
    assert not any(file in few for file in new)
    gap = Consumed().add([name("a", 0, 1, 1), name("a", 2, 1, 1)]).settled([name("a", n, 1, 1) for n in range(3)])
    assert [name("a", n, 1, 1) in gap for n in range(4)] == [True, False, True, False]


def test_folders_of_the_lake_are_keys() -> None:
    """A name that no shipper gives, and a merged one, have no range."""
    assert spool_range("0199-7abc-8def-1-20-v3.parquet") == ("0199-7abc-8def", 1, 20)
    assert spool_range(Key("x/by-hand.parquet").name) is None
