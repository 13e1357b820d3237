"""Reports are made by a child, once each, and wait for nobody."""

from __future__ import annotations

import fcntl
import shutil
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from monitoring.alerting.metrics import WorkerMetrics
from monitoring.erasure.wanted import Wanted
from monitoring.settings import MonitoringSettings
from perene.erasure.places import Aim, Item
from perene.erasure.places import Reports as ErasedReports
from registry.ledger import Ledger
from retrain.places import Places
from retrain.reports.report_spec import FACTS, LOGGED, lock_of
from retrain.reports.reports import Reports
from tests.browser import opened
from tests.integration import retrain_toy as toy

DAILY = MonitoringSettings(daily_report=True, performance_report="weekly", metrics=("tests.integration.own:half",))
NOON = toy.START + timedelta(days=10, hours=12)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 with its bundle in MLflow and in the cache, and eleven days of traffic, drifted since the sixth."""
    home = tmp_path_factory.mktemp("reports")
    toy.establish_in_child(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "PER_DAY", 600)
        played = toy.World(home)
        played.play(5, shift=5.0)
        played.play(6, shift=15.0)
    return home


@pytest.fixture
def home(world: Path, tmp_path: Path) -> Path:
    """A copy that a test may write to; MLflow goes on keeping artifacts where it began."""
    for copy in list(world.glob("artifacts/**/reports")):
        shutil.rmtree(copy)
    to = tmp_path / "home"
    shutil.copytree(world, to)
    return to


class Made:
    """A worker's reports on a home, with its lease."""

    def __init__(self, home: Path) -> None:
        self.places = Places(home)
        self.ledger = Ledger.open(self.places.ledger_url)
        token = self.ledger.acquire("leader", "test", 600.0)
        assert token is not None
        self.token = token
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.reports = Reports(self.places, self.ledger, self.metrics)

    def tend(self, seconds: float = 90.0) -> None:
        """Until nothing is at work or queued any more."""
        end = time.monotonic() + seconds
        while self.reports._queue or self.reports._now:
            assert time.monotonic() < end
            self.reports.tend(quiet=True, token=self.token)
            time.sleep(0.02)

    def bodies(self) -> list[dict[str, Any]]:
        """What the ledger says of reports."""
        return [row.body for row in self.ledger.evidence(toy.MODEL, "report")]

    def __enter__(self) -> Made:
        return self

    def __exit__(self, *_: object) -> None:
        self.reports.stop()
        self.ledger.release("leader", "test", self.token)
        self.ledger.close()


@pytest.fixture(scope="module")
def reported(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A home whose worker reported on a finding, a day and a week; and the ledger's rows of that, newest first."""
    home = tmp_path_factory.mktemp("reported") / "home"
    shutil.copytree(world, home)
    at = NOON - timedelta(days=7)
    body = {
        "model": toy.MODEL, "kind": "feature_drift", "state": "confirmed", "severity": "high", "at": at.isoformat(),
        "detail": {
            "version": 1, "flagged": ["x"], "columns": [{"column": "x", "psi": 0.31}],
            "window": {"start": (at - timedelta(hours=6)).isoformat(), "end": at.isoformat(), "rows": 150},
        },
    }  # fmt: skip
    with Made(home) as made:
        number = made.ledger.record_evidence(toy.MODEL, "finding", body, token=made.token)
        made.reports.ask(toy.MODEL, number, 1, at, DAILY)
        made.reports.look(toy.MODEL, 1, DAILY, NOON)
        made.reports.tend(quiet=False, token=made.token)
        assert made.reports._now is None
        made.tend()
        return home, made.bodies()


def test_a_finding_a_day_and_a_week_are_reported_once_each(
    reported: tuple[Path, list[dict[str, Any]]], world: Path
) -> None:
    """Files, a copy in MLflow, a row that has both verdicts; and again, by another worker, nothing."""
    home, bodies = reported
    rows = {row["kind"]: row for row in bodies}
    assert rows.keys() == {"finding", "daily", "performance"}
    assert rows["daily"]["key"] == "daily-2013-01-10"
    assert rows["daily"]["rows"] == {"reference": 5_000, "window": 600}
    ours = {"finding": 1, "kind": "feature_drift", "state": "confirmed", "flagged": ["x"]}
    assert (rows["finding"]["finding"], rows["finding"]["ours"]) == (1, ours)
    assert rows["finding"]["evidently"] == []
    examples = rows["finding"]["examples"]
    assert [(one["column"], sorted(one)) for one in examples] == [("x", ["at", "column", "id"])] * 5, "ids, no values"
    shown = (Places(home).report(toy.MODEL, rows["finding"]["key"]) / "finding.md").read_text()
    assert all(one["id"] in shown for one in examples)
    assert "x | " in shown
    assert rows["performance"]["window"]["start"] == "2012-12-31T00:00:00+00:00"
    for row in bodies:
        folder = Places(home).report(toy.MODEL, row["key"])
        assert {*row["files"], FACTS, LOGGED} <= {path.name for path in folder.iterdir()}
        assert not list(folder.glob("*.parquet"))
        assert row["mlflow"].startswith("runs:/")
        assert list((world / "artifacts").rglob(f"reports/{row['key']}/{row['files'][0]}"))
    with Made(home) as again:
        again.reports.look(toy.MODEL, 1, DAILY, NOON)
        again.tend()
        assert again.bodies() == bodies
        assert again.ledger.verify() == []
    assert "Traceback" not in (home / "logs" / "reports.txt").read_text()


def test_pages_open_in_a_browser_without_errors_of_their_scripts(
    reported: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """A finding's page and Evidently's, which draws itself, and a performance report; the control is a torn script."""
    home, bodies = reported
    folders = {row["kind"]: Places(home).report(toy.MODEL, row["key"]) for row in bodies}
    wanted = {
        folders["finding"] / "finding.html": "Example rows",
        folders["finding"] / "report.html": "Dataset Drift",
        folders["performance"] / "performance.html": "Traffic",
    }
    for path, text in wanted.items():
        document, errors = opened(path, tmp_path / "browser")
        assert errors == []
        assert text in document
    torn = tmp_path / "torn.html"
    torn.write_text("<!doctype html><script>throw new TypeError('torn')</script>")
    assert opened(torn, tmp_path / "browser")[1] == ["Uncaught TypeError: torn"]


def test_the_report_says_what_happened_in_the_span(reported: tuple[Path, list[dict[str, Any]]]) -> None:
    """Traffic, realised and estimated quality, drift, own metrics, findings with cause, action and both verdicts."""
    home, bodies = reported
    folder = Places(home).report(toy.MODEL, next(row["key"] for row in bodies if row["kind"] == "performance"))
    text = (folder / "performance.md").read_text()
    assert "3600 rows answered" in text
    assert "| 2013-01-03 | 600 | 1.01 | 1.01 | 600 |" in text
    assert "Realised, from labels: mean loss" in text
    assert "Estimated, without labels: mean loss" in text
    assert "| mae | " in text
    assert "| tests.integration.own:half | 0." in text
    assert "| x (PSI 0.31) | ask for labels | " in text
    page = (folder / "performance.html").read_text()
    assert text.count("## ") == page.count("<h2>")


def test_an_erasure_takes_the_copy_in_mlflow_too(
    reported: tuple[Path, list[dict[str, Any]]], world: Path, tmp_path: Path
) -> None:
    """Reports that were made since the subject's first event go, here and there, and are not made anew."""
    home, bodies = reported
    keys = {row["key"] for row in bodies}
    copies = {path for key in keys for path in (world / "artifacts").rglob(f"reports/{key}")}
    assert len(copies) == len(keys) == 3
    place = ErasedReports(home / "reports" / toy.MODEL, Places(home))
    began = min(path.stat().st_mtime for path in (home / "reports" / toy.MODEL).rglob("*.*"))
    planned: list[Item] = []
    place.clear(Aim(Wanted(toy.MODEL, 0.0), since=began + 3_600), planned.append)
    assert planned == []
    assert all(copy.is_dir() for copy in copies)
    place.clear(Aim(Wanted(toy.MODEL, 0.0), since=began - 3_600), planned.append)
    assert {item.name for item in planned} == keys
    assert not any(copy.exists() for copy in copies)
    with Made(home) as made:
        made.reports.look(toy.MODEL, 1, DAILY, NOON)
        made.tend()
    assert list((home / "reports" / toy.MODEL).iterdir()) == []


@pytest.mark.parametrize("moment", [".*.draft/begun.json", "performance-*/facts.json", "performance-*/logged.json"])
def test_a_child_that_is_killed_at_any_moment_leaves_one_report(home: Path, world: Path, moment: str) -> None:
    """While it reads, before the copy, before the row: the next worker goes on to one folder, one row, one copy."""
    with Made(home) as made:
        made.reports.look(toy.MODEL, 1, MonitoringSettings(), NOON)
        made.reports.tend(quiet=True, token=made.token)
        assert made.reports._now is not None
        process = made.reports._now[1].process
        folder = home / "reports" / toy.MODEL
        while process.poll() is None and not list(folder.glob(moment)):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert made.bodies() == []
    with Made(home) as made:
        made.reports.look(toy.MODEL, 1, MonitoringSettings(), NOON)
        made.tend()
        assert len(made.bodies()) == 1
        key = made.bodies()[0]["key"]
        assert [path.name for path in folder.iterdir()] == [key]
        assert len(list((world / "artifacts").rglob(f"reports/{key}"))) == 1


def test_a_report_waits_for_an_erasure_and_a_worker_that_lost_the_lease_writes_no_row(home: Path) -> None:
    """Nothing is read from the lake meanwhile; and what a fenced child made is taken up by whoever leads."""
    lock = lock_of(home)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with Made(home) as made:

        def ended() -> bool:
            return made.reports._now is not None and made.reports._now[1].poll() is not None

        made.reports.look(toy.MODEL, 1, MonitoringSettings(), NOON)
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            made.reports.tend(quiet=True, token=made.token)
            toy.until(ended)
            made.reports.tend(quiet=False, token=made.token)
            assert not (home / "reports" / toy.MODEL).exists()
        made.ledger.release("leader", "test", made.token)
        new = made.ledger.acquire("leader", "other", 600.0)
        assert new is not None
        made.reports._not_before = 0.0
        made.reports.tend(quiet=True, token=made.token)
        toy.until(ended)
        assert len(list((home / "reports" / toy.MODEL).iterdir())) == 1
        assert made.bodies() == []
        made.reports.tend(quiet=False, token=new)
        made.reports._not_before, made.token = 0.0, new
        made.tend()
        assert len(made.bodies()) == 1


def test_a_store_that_is_away_costs_the_copy_and_not_the_report(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow is tried again; then the report stands without it."""
    monkeypatch.setattr("retrain.reports.reports.PAUSE_S", 0.0)
    monkeypatch.setattr("retrain.reports.reports.ATTEMPTS", 2)
    (home / "mlflow.db").write_bytes(b"no database")
    with Made(home) as made:
        made.reports.look(toy.MODEL, 1, MonitoringSettings(), NOON)
        made.tend()
        assert [row["mlflow"] for row in made.bodies()] == [""]


def test_a_model_without_traffic_in_the_period_has_no_report(home: Path) -> None:
    """Counted as empty, and not tried again by the same worker."""
    with Made(home) as made:
        made.reports.look(toy.MODEL, 1, MonitoringSettings(), datetime(2026, 11, 21, tzinfo=UTC))
        made.tend()
        assert made.bodies() == []
        found = made.metrics.registry.get_sample_value(
            "perene_reports_total", {"kind": "performance", "result": "empty"}
        )
        assert found == 1.0


def test_all_alarms_without_a_report_are_taken_up_by_the_next_worker(home: Path) -> None:
    """Oldest first, those about this version; not what ended, nor what there is a report on."""
    with Made(home) as made:
        numbers = []
        for day, version, state in ((1, 1, "confirmed"), (2, 1, "ok"), (3, 9, "confirmed"), (4, 1, "broken")):
            body = {
                "model": toy.MODEL, "kind": "feature_drift", "state": state, "severity": "high",
                "at": (toy.START + timedelta(days=day)).isoformat(), "detail": {"version": version, "flagged": ["x"]},
            }  # fmt: skip
            numbers.append(made.ledger.record_evidence(toy.MODEL, "finding", body, token=made.token))
        told = {"subject": "report", "kind": "finding", "key": f"finding-{numbers[3]}", "finding": numbers[3]}
        made.reports.look(toy.MODEL, 1, DAILY, None)
        assert [task.finding for task in made.reports._queue] == [numbers[0], numbers[3]]
        made.reports.stop()
        made.ledger.record_evidence(toy.MODEL, "report", told, token=made.token)
        made.reports.look(toy.MODEL, 1, DAILY, None)
        assert [task.finding for task in made.reports._queue] == [numbers[0]]
