"""What happens to a label: revisions, repeats, clocks, and labels for nobody; by HTTP to the lake."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from monitoring.intake.ids import uuid7
from monitoring.intake.shipper import ship_once
from monitoring.lake.lake import Lake
from monitoring.reading.api import events, labels
from monitoring.reading.unmatched import known
from perene.cli import app
from perene.config import load
from perene.status import overview
from registry.bundle import Bundle, read_bundle
from registry.ledger import Ledger
from retrain.watch import label_facts
from retrain.worker import create_worker
from tests.integration import retrain_toy as toy
from tests.integration.serving_app import SCOPES, run
from tests.integration.serving_toy import Cache, Served, serving
from tests.integration.test_retrain_watch import watched


@pytest.fixture(scope="module")
def established(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose ledger has the toy's first version; made once, since it takes seconds."""
    home = tmp_path_factory.mktemp("established")
    toy.establish_in_child(home)
    return home


@pytest.fixture(scope="module")
def champion(established: Path) -> Bundle:
    """That version, as serving's cache holds it."""
    return read_bundle(established / "cache" / "bundles" / toy.MODEL / "1")


@pytest.fixture
def deployed(cache: Cache, offsets: dict[int, Path]) -> tuple[Cache, str]:
    cache.add(1, offsets[1])
    key = cache.key(SCOPES)
    cache.deploy(1)
    return cache, key


async def tell(served: Served, *items: dict[str, Any], **headers: str) -> list[dict[str, Any]]:
    """Feedback that must be taken."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    reply = await served.client.post("/models/toy/feedback", json=list(items), headers=sent)
    assert reply.status_code == 200, reply.text
    results: list[dict[str, Any]] = reply.json()["results"]
    return results


def shipped(cache: Cache) -> Path:
    """Everything in the lake."""
    home = cache.folder.parent
    ship_once(home / "spool", Lake(home / "events"), min_rows=1, max_age_s=0, now=0)
    return home / "events"


def test_revisions_are_kept_and_the_last_one_received_wins(deployed: tuple[Cache, str]) -> None:
    """Told 1, 1 again, 2, and 1: three revisions; a repeat under one idempotency key is not even a second row."""
    cache, key = deployed
    ids: list[str] = []

    async def scenario() -> None:
        async with serving(cache, key) as served:
            changed, plain = [(await served.predict())["prediction_ids"][0] for _ in range(2)]
            ids.extend((changed, plain))
            for value in (1.0, 1.0, 2.0, 1.0):
                await tell(served, {"prediction_id": changed, "label": value})
            for _ in range(3):
                await tell(served, {"prediction_id": plain, "label": 5.0}, idempotency_key="once")

    run(scenario)
    changed, plain = ids
    lake = shipped(cache)
    frame = events(lake, "toy", labelled=True)
    found = {row["_id"]: (row["_label"], row["_label_revisions"]) for row in frame.to_dict("records")}
    assert found == {changed: (1.0, 3), plain: (5.0, 1)}
    told = labels(lake, "toy")
    mine = told[told["_id"] == changed]
    assert list(zip(mine["_label"], mine["_revision"], strict=True)) == [(1.0, 1), (1.0, 1), (2.0, 2), (1.0, 3)]
    assert told["_received"].is_monotonic_increasing
    assert len(told[told["_id"] == plain]) == 1


def test_a_clock_that_goes_back_does_not_bring_back_an_old_label(deployed: tuple[Cache, str]) -> None:
    """The machine's clock is set back by an hour between two labels: the second one counts."""
    cache, key = deployed

    async def scenario() -> None:
        async with serving(cache, key) as served:
            identifier = (await served.predict())["prediction_ids"][0]
            plane = served.app.state.service.plane
            real = plane._clock
            await tell(served, {"prediction_id": identifier, "label": 1.0})
            plane._clock = lambda: real() - 3_600
            await tell(served, {"prediction_id": identifier, "label": 2.0})

    run(scenario)
    assert events(shipped(cache), "toy", labelled=True)["_label"].tolist() == [2.0]


def test_labels_out_of_time_are_refused_or_joined(deployed: tuple[Cache, str]) -> None:
    """More than a day ahead is refused; before its prediction is taken, and joined with it."""
    cache, key = deployed

    async def scenario() -> None:
        async with serving(cache, key) as served:
            identifier = (await served.predict())["prediction_ids"][0]
            late, early = "2199-01-01T00:00:00Z", "2001-01-01T00:00:00Z"
            results = await tell(
                served,
                {"prediction_id": identifier, "label": 3.0, "at": late},
                {"prediction_id": identifier, "label": 4.0, "at": early},
            )
            assert [r["status"] for r in results] == ["rejected", "accepted"]

    run(scenario)
    frame = events(shipped(cache), "toy", labelled=True)
    assert frame["_label"].tolist() == [4.0]
    assert frame["_label_at"].tolist() == [pd.Timestamp("2001-01-01", tz="UTC")]


def test_labels_for_nobody_are_kept_and_listed(deployed: tuple[Cache, str]) -> None:
    """An id that no prediction has is accepted, and `perene events labels --unmatched` names it."""
    cache, key = deployed
    stray = uuid7()

    async def scenario() -> None:
        async with serving(cache, key) as served:
            identifier = (await served.predict())["prediction_ids"][0]
            results = await tell(
                served, {"prediction_id": identifier, "label": 1.0}, {"prediction_id": stray, "label": 2.0}
            )
            assert [r["status"] for r in results] == ["accepted", "accepted"]

    run(scenario)
    lake = shipped(cache)
    assert labels(lake, "toy", unmatched=True)["_id"].tolist() == [stray]
    asked = ["events", "labels", "toy", "--unmatched", "--json", "--home", str(cache.folder.parent)]
    said = CliRunner().invoke(app, asked)
    assert said.exit_code == 0, said.output
    assert [row["_id"] for row in json.loads(said.stdout.splitlines()[0])] == [stray]


def test_ids_are_found_wherever_their_file_lies(tmp_path: Path) -> None:
    """In any day's file, and none that is not there; a file that was merged away meanwhile is no trouble."""
    world = toy.World(tmp_path)
    world.play(5, shift=5.0)
    lake = Lake(tmp_path / "events")
    there = ["0000-0000", "0003-0100", "0004-0239"]
    assert known(lake, toy.MODEL, [*there, "0003-0240", "", "zzzz"]) == set(there)
    assert known(lake, toy.MODEL, []) == set()


def test_the_worker_counts_labels_that_it_gives_up(tmp_path: Path, champion: Bundle) -> None:
    """Of a candidate's label, one of a forgotten prediction and one of none, parked for a day, the last is counted."""
    world = toy.World(tmp_path)
    world.play(1, shift=5.0, ab=2)
    watched(tmp_path, champion)
    stray = [toy.START.replace(hour=20)]
    world._save("label", stray[0], {"_id": ["9999-9999"], "_label": [1.0], "_at": stray, "_received": stray}, "")
    world.day = 1
    for _ in range(2):
        world.play(1, shift=5.0, ab=2)
        watch = watched(tmp_path, champion)
    assert watch.unmatched == 1
    assert watch.snapshot()["labels_parked"] == 0
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    facts = label_facts(ledger, toy.MODEL)
    assert facts is not None
    assert (facts["p95_s"], facts["unmatched"], facts["parked"]) == (3_600.0, 1, 0)
    assert facts["within"]["1h"] == 1.0
    assert label_facts(ledger, "another") is None
    ledger.close()


def test_the_lake_away_postpones_the_count(tmp_path: Path, champion: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """While files cannot be read nothing is called unmatched; it is looked for again."""
    world = toy.World(tmp_path)
    world.play(1, shift=5.0)
    stray = [toy.START]
    world._save("label", stray[0], {"_id": ["9999-9999"], "_label": [1.0], "_at": stray, "_received": stray}, "")
    world.play(1, shift=5.0)

    def away(*_: object) -> set[str]:
        raise OSError("the disk is away")

    with monkeypatch.context() as patched:
        patched.setattr("monitoring.reading.unmatched.known", away)
        before = watched(tmp_path, champion)
    assert (before.unmatched, before.snapshot()["labels_parked"]) == (0, 1)
    world.play(1, shift=5.0)
    assert watched(tmp_path, champion).unmatched == 1


def test_gauges_and_status_tell_how_long_labels_take(tmp_path: Path, established: Path) -> None:
    """The worker's numbers, and the row of `perene status`."""
    home = tmp_path / "home"
    shutil.copytree(established, home)
    toy.World(home).play(3, shift=5.0)
    worker = create_worker(toy.settings(), home, registry=CollectorRegistry())
    try:
        worker.aliases._due = math.inf  # aliases have tests of their own
        worker.tick()
        value = worker.gauges.metrics.registry.get_sample_value
        assert value("perene_label_lag_seconds", {"model": toy.MODEL, "quantile": "0.95"}) == 3_600.0
        assert value("perene_labels_within_ratio", {"model": toy.MODEL, "within": "1h"}) == 1.0
        assert value("perene_labels_within_ratio", {"model": toy.MODEL, "within": "7d"}) is None
        assert value("perene_labels_unmatched_total", {"model": toy.MODEL}) == 0.0
        assert value("perene_labels_received_total", {"model": toy.MODEL}) == 3 * toy.PER_DAY
    finally:
        worker.close()
    row = overview(load(home=home), toy.MODEL)[0]
    assert row["labels"]["p50_s"] == 3_600.0
    watch = row["watch"]
    assert watch["predictions"] == 3 * toy.PER_DAY
    assert set(watch["reasons"]) == {kind for kind, state in watch["states"].items() if state == "insufficient"}
