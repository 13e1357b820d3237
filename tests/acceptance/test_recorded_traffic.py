"""What a real server recorded: replayed it is the same, exported it is the same, billed it is what clients know.

Two workers, two keys, a real model and one of each kind of contract. The controls are a graph that answers something
else, and prices by what one key used.
"""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from monitoring.lake.lake import Lake
from monitoring.reading.usage import usage
from perene.cli import app
from perene.config import Settings
from perene.replay import replay_onto
from registry.bundle import read_bundle, seal
from serving.replay.job import Replay
from tests.acceptance.test_serving_process import ROOT, WAIT_S, Server, in_threads, offsets, until
from tests.integration.dialect_models import CONTRACTS, make_bundles, rows_of
from tests.integration.serving_toy import Cache

__all__ = ["offsets"]

MODELS = (*CONTRACTS, "real")
REQUESTS = 60
CLIENTS = 4


class Traffic:
    """A home in which a server has answered, and what its clients counted by key and model."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.lake = Lake(home / "events")
        self.known: Counter[tuple[str, str, str]] = Counter()
        self.counters: dict[tuple[str, str], float] = {}

    def command(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "perene.cli", *map(str, arguments), "--home", str(self.home)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    def said(self, *arguments: object) -> Any:
        done = self.command(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def traffic(toy_bundle: Path, offsets: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Traffic:
    folder = tmp_path_factory.mktemp("recorded")
    cache = Cache(folder / "home" / "cache")
    bundles = make_bundles(toy_bundle, folder / "kinds") | {"real": _named(toy_bundle, folder / "real", "real")}
    for name, bundle in bundles.items():
        cache.add(1, bundle, model=name)
    cache.add(2, _named(offsets[2], folder / "other", "real"), model="real")
    keys = [cache.key({"predict", "feedback"}) for _ in range(2)]
    for name in bundles:
        cache.deploy(1, model=name)
    made = Traffic(folder / "home")
    with Server(made.home, keys[0], workers=2, queue={"seconds": 30}) as server:
        server.ready()
        until(lambda: len(list((server.home / "spool").glob("*.spool"))) == 2, "a worker is missing")
        clients = in_threads(CLIENTS, lambda n: _work(server, made, keys[n % 2], n))
        for client in clients:
            client.join()
        with closing(server.connect()) as connection:
            connection.request("GET", "/metrics")
            page = connection.getresponse().read().decode()
        made.counters = {
            (sample.name, sample.labels["key"]): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if "key" in sample.labels
        }
        server.process.terminate()
        server.process.wait(WAIT_S)
    for bundle in (made.home / "cache" / "bundles").glob("*/[12]"):
        _golden(bundle)
    return made


def _work(server: Server, made: Traffic, key: str, n: int) -> None:
    """Requests of one to forty rows, of which some are labelled afterwards."""
    dice = random.Random(n)
    mine: Counter[tuple[str, str, str]] = Counter()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with closing(server.connect()) as connection:
        for i in range(REQUESTS):
            name = dice.choice(MODELS)
            contract = read_bundle(server.home / "cache" / "bundles" / name / "1").contract
            rows = rows_of(contract, dice.choice((1, 1, 2, 40)), seed=1_000 * n + i)
            connection.request("POST", f"/models/{name}/predict", json.dumps({"rows": rows}).encode(), headers)
            reply = connection.getresponse()
            body = json.loads(reply.read())
            assert reply.status == 200, body
            who = key.split("_")[1][:8]
            mine.update({(who, name, "requests"): 1, (who, name, "rows"): len(rows)})
            if i % 5 == 0 and contract.output.kind == "regression" and not contract.output.targets:
                items = [{"prediction_id": body["prediction_ids"][0], "label": 1.0}]
                connection.request("POST", f"/models/{name}/feedback", json.dumps(items).encode(), headers)
                assert connection.getresponse().read()
    made.known.update(mine)


def _named(bundle: Path, to: Path, name: str) -> Path:
    """The same bundle as one of another model."""
    shutil.copytree(bundle, to)
    contract = json.loads((to / "contract.json").read_text())
    (to / "contract.json").write_text(json.dumps(contract | {"model": name}))
    seal(to)
    return to


def _golden(folder: Path) -> None:
    """As the puller leaves a version whose golden rows it ran."""
    folder.with_name(f"{folder.name}.golden.json").write_text("[]")


@pytest.mark.parametrize("name", MODELS)
def test_rows_replayed_onto_the_version_that_answered_are_identical(
    traffic: Traffic, tmp_path: Path, name: str
) -> None:
    """Bit for bit, for every kind of contract: numbers, texts, nulls, classes, probabilities, several targets."""
    if name == "real":
        found = traffic.said("events", "replay", name, "--onto", 1, "--out", tmp_path / "diff.parquet")
    else:
        asked = Replay(tmp_path / "diff.parquet", None, 2**52)
        found = replay_onto(asked, name, 1, Settings(home=traffic.home), report=lambda *_: None)
    rows = sum(count for (_, model, what), count in traffic.known.items() if (model, what) == (name, "rows"))
    print(name, found)
    assert rows > 10
    assert (found["rows"], found["compared"], found["identical"]) == (rows, rows, rows)
    assert (found["changed"], found["skipped"]) == (0, {})


def test_another_version_differs_row_by_row_and_by_loss(traffic: Traffic, tmp_path: Path) -> None:
    """The control: a graph that answers `hour + 200`; what the labels say of both is told."""
    out = tmp_path / "diff.parquet"
    found = traffic.said("events", "replay", "real", "--onto", 2, "--out", out)
    rows = pq.read_table(out).to_pylist()
    served = {row["_id"]: row for row in traffic.lake.joined("real").to_pylist()}
    assert {row["_id"] for row in rows} == served.keys()
    assert found["changed"] == found["rows"] == len(rows)
    assert found["identical"] == 0
    for row in rows:
        was = served[row["_id"]]
        assert (row["recorded"], row["label"], row["_version"]) == (was["_prediction"], was["_label"], 1)
        assert row["replayed"] == was["hour"] + 200.0
        assert row["difference"] == abs(row["replayed"] - row["recorded"])
    labelled = [row for row in rows if row["label"] is not None]
    assert found["labelled"] == len(labelled) > 0
    assert found["loss_replayed"] == pytest.approx(sum(abs(r["replayed"] - 1) for r in labelled) / len(labelled))
    assert found["loss_recorded"] == pytest.approx(sum(abs(r["recorded"] - 1) for r in labelled) / len(labelled))
    assert found["difference"]["max"] == max(row["difference"] for row in rows)


@pytest.mark.parametrize("name", ["words"])
def test_an_export_is_what_the_lake_holds(traffic: Traffic, tmp_path: Path, name: str) -> None:
    """All columns, with labels and shadow answers; CSV has the same rows."""
    whole = traffic.lake.joined(name)
    said = traffic.said("events", "export", name, "--out", tmp_path / "events.parquet", "--labelled")
    found = pq.read_table(tmp_path / "events.parquet")
    assert said["rows"] == whole.num_rows > 0
    assert found.column_names == whole.column_names
    assert found.to_pylist() == whole.to_pylist()
    traffic.said("events", "export", name, "--out", tmp_path / "events.csv")
    with (tmp_path / "events.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["_id"] for row in rows] == whole.column("_id").to_pylist()
    assert [int(row["hour"]) for row in rows] == whole.column("hour").to_pylist()


def test_usage_equals_what_clients_know_and_what_the_server_counts(traffic: Traffic) -> None:
    """Requests and rows of each key and model; latency is that of each request once."""
    billed: Counter[tuple[str, str, str]] = Counter()
    for whose, used in usage(traffic.lake, low=None, high=None).items():
        billed.update(
            {(whose.key, whose.model, "requests"): used.requests, (whose.key, whose.model, "rows"): used.rows}
        )
    assert billed == traffic.known
    rows = traffic.said("usage", "--by", "key")
    assert len(rows) == 2
    for row in rows:
        assert row["rows"] == traffic.counters["perene_key_rows_total", row["key"]]
        assert row["requests"] == traffic.counters["perene_key_requests_total", row["key"]]
        assert 0 < Decimal(row["latency_seconds"]) < 60


def test_a_bill_by_csv_adds_up_to_the_last_digit(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices of a key, of a model and of all others, as decimals; rolled up by model it is the same."""
    dear = sorted({key for key, _, _ in traffic.known})[0]
    prices = {"": "0.1", "real": "0.333333333", dear: "7.7"}
    monkeypatch.setenv("PERENE__USAGE__PRICE_PER_1000_ROWS", prices[""])
    monkeypatch.setenv("PERENE__USAGE__MODELS", json.dumps({"real": prices["real"]}))
    monkeypatch.setenv("PERENE__USAGE__KEYS", json.dumps({dear: prices[dear]}))
    monkeypatch.setenv("PERENE__USAGE__CURRENCY", "EUR")
    fine = _usage(traffic)
    rows = list(csv.DictReader(io.StringIO(fine)))
    assert [(r["key"], r["model"], r["day"]) for r in rows] == sorted((r["key"], r["model"], r["day"]) for r in rows)
    due = sum(
        Decimal(prices.get(key, prices.get(model, prices[""]))) * count / 1000
        for (key, model, what), count in traffic.known.items()
        if what == "rows"
    )
    assert sum(Decimal(row["cost"]) for row in rows) == due
    by_model = list(csv.DictReader(io.StringIO(_usage(traffic, "--by", "model"))))
    assert sum(Decimal(row["cost"]) for row in by_model) == due
    assert {row["currency"] for row in by_model} == {"EUR"}
    assert _usage(traffic) == fine


def _usage(traffic: Traffic, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["usage", "--csv", "--home", str(traffic.home), *arguments])
    assert done.exit_code == 0, done.stderr
    return done.stdout
