"""What a worker tells Prometheus: only while it leads, when labels came, and a turn that failed as one that failed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from monitoring.alerting.catalogue import WORKER
from retrain.gauges import OTHERS
from retrain.settings import WorkerSettings
from retrain.worker import Worker, create_worker
from tests.integration import retrain_toy as toy


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion and four calm days. Copied by each test."""
    home = tmp_path_factory.mktemp("watched")
    toy.establish_in_child(home)
    toy.World(home).play(4, shift=5.0)
    return home


@pytest.fixture
def home(watched: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "home"
    shutil.copytree(watched, copied)
    return copied


@contextmanager
def working(home: Path) -> Iterator[Worker]:
    """A worker that watches and does not retrain."""
    # its lease ends when a test says so, not because a turn takes long on a slow machine
    settings = WorkerSettings(port=0, reports=False, lease_ttl_s=600.0)
    worker = create_worker(settings, home, registry=CollectorRegistry())
    worker.aliases.revision = worker.ledger.revision()
    try:
        yield worker
    finally:
        worker.close()


def value(worker: Worker, name: str, **labels: str) -> float | None:
    return worker.gauges.metrics.registry.get_sample_value(f"perene_{name}", labels)


def about_models(worker: Worker) -> set[str]:
    """Gauges that say something about some model now."""
    gauges = {metric.name for metric in WORKER if metric.kind == "gauge" and metric.labels}
    return {sample.name for family in worker.gauges.metrics.registry.collect() for sample in family.samples} & gauges


def test_who_no_longer_leads_tells_nothing_about_models(home: Path) -> None:
    """Its last word about drift would stand beside the leader's, and an alert on it would never end."""
    with working(home) as first, working(home) as second:
        assert first.tick()
        assert {"perene_drift_state", "perene_champion_version"} <= about_models(first)
        assert not second.tick()
        assert about_models(second) == set()
        first.leader.release()
        assert second.tick()
        assert "perene_drift_state" in about_models(second)
        assert not first.tick()
        assert about_models(first) == set()
        assert value(first, "scheduler_is_leader") == 0
        assert value(first, "monitor_failures_total", model=toy.MODEL) == 0


def test_a_wide_model_does_not_flood_prometheus(home: Path) -> None:
    """The 50 largest columns and the largest of the rest; what is no longer among them, or no longer sent, goes."""
    with working(home) as worker:
        assert worker.tick()
        facts = worker._watches[toy.MODEL].snapshot()
        wide = {f"column {n}": {"1": n / 100, "4": 0.0} for n in range(200)}
        worker.gauges.monitor(toy.MODEL, facts | {"psi": wide, "null_ratio": dict.fromkeys(wide, 0.5)})
        psi = shown(worker, "perene_drift_psi_corrected")
        assert len(psi) == 51 * 2
        assert (psi["column 199", "1"], psi["column 150", "1"], psi[OTHERS, "1"]) == (1.99, 1.5, 1.49)
        assert len(shown(worker, "perene_feature_null_ratio")) == 51
        worker.gauges.monitor(toy.MODEL, facts | {"psi": {"column 0": {"1": 2.0}}})
        assert shown(worker, "perene_drift_psi_corrected") == {("column 0", "1"): 2.0}


def test_quality_is_told_with_its_estimate_and_of_this_champion_only(home: Path) -> None:
    """States, loss beside its estimate with bounds and limit; what is not known any more is not shown."""
    with working(home) as worker:
        assert worker.tick()
        facts = worker._watches[toy.MODEL].snapshot()
        worker.gauges.monitor(
            toy.MODEL,
            facts
            | {
                "states": facts["states"] | {"estimated": "confirmed"},
                "performance_state": "watch",
                "performance": facts["performance"] | {"metric": "log_loss", "realized": 0.5, "loss": 0.3},
                "estimated": {"estimated_loss": 0.2, "lower": 0.1, "upper": 0.4, "metrics": {"accuracy": 0.9}},
                "causes": {"x": 0.2},
            },
        )
        assert value(worker, "estimated_state", model=toy.MODEL) == 2
        assert value(worker, "performance_state", model=toy.MODEL) == 1
        assert value(worker, "drift_threshold", model=toy.MODEL) == 0.02
        assert shown(worker, "perene_performance_realized") == {("log_loss",): 0.5, ("loss",): 0.3}
        assert shown(worker, "perene_performance_estimated") == {("accuracy",): 0.9, ("loss",): 0.2}
        assert shown(worker, "perene_performance_estimated_lower") == {("loss",): 0.1}
        assert shown(worker, "perene_performance_estimated_upper") == {("loss",): 0.4}
        assert shown(worker, "perene_drift_cause") == {("x",): 0.2}
        unknown = dict.fromkeys(facts["performance"]) | {"metric": "mae"}
        worker.gauges.monitor(toy.MODEL, facts | {"performance": unknown, "estimated": {}, "causes": {}})
        for name in ("realized", "reference", "loss_limit", "evalue", "estimated", "estimated_upper"):
            assert shown(worker, f"perene_performance_{name}") == {}, name
        assert shown(worker, "perene_drift_cause") == {}


def shown(worker: Worker, name: str) -> dict[tuple[str, ...], float]:
    """Values of the toy by column and, where there is one, scale."""
    samples = [s for family in worker.gauges.metrics.registry.collect() for s in family.samples if s.name == name]
    return {tuple(v for k, v in s.labels.items() if k != "model"): s.value for s in samples}


def test_when_the_newest_label_came_is_told_and_survives_a_restart(home: Path) -> None:
    """By arrival; not by when somebody looked."""
    with working(home) as worker:
        assert worker.tick()
        told = value(worker, "label_last_timestamp_seconds", model=toy.MODEL)
        assert told is not None
        day = toy.START + timedelta(days=3, hours=1)
        assert day.timestamp() < told < (day + timedelta(days=1)).timestamp()
    with working(home) as another:
        assert another.tick()
        assert value(another, "label_last_timestamp_seconds", model=toy.MODEL) == told


def test_a_damaged_file_fails_the_turn_and_not_the_worker(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever rots: no completed turn is claimed, the log names the file, and without it the watch goes on."""
    folder = next((home / "events" / f"model={toy.MODEL}" / "kind=prediction").iterdir())
    contents = {"short": b"PAR1 nothing else PAR1", "zeros": b"PAR1" + bytes(64) + b"PAR1", "empty": b""}
    for failures, (name, content) in enumerate(contents.items(), 1):
        damaged = folder / f"{name}-1-2-v1.parquet"
        damaged.write_bytes(content)
        with working(home) as worker:
            for _ in range(failures):
                assert worker.tick()
            assert value(worker, "monitor_failures_total", model=toy.MODEL) == failures
            assert value(worker, "monitor_last_success_timestamp_seconds", model=toy.MODEL) is None
            assert damaged.name in caplog.text
            damaged.unlink()
            assert worker.tick()
            assert value(worker, "monitor_last_success_timestamp_seconds", model=toy.MODEL) is not None


def test_what_nobody_foresaw_fails_the_turn_and_not_the_worker(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that somebody put beside the days: the turn is counted as failed, and the next model has its own."""
    foreign = home / "events" / f"model={toy.MODEL}" / "kind=prediction" / "export.parquet"
    foreign.write_bytes(next(foreign.parent.rglob("*.parquet")).read_bytes())
    with working(home) as worker:
        assert worker.tick()
        assert value(worker, "monitor_failures_total", model=toy.MODEL) == 1
        assert "retrain.turn_broke: ValueError" in caplog.text
        foreign.unlink()
        assert worker.tick()
        assert value(worker, "monitor_last_success_timestamp_seconds", model=toy.MODEL) is not None
