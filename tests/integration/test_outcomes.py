"""Named outcomes: from feedback over HTTP through spool and lake to columns of `perene.events`."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from monitoring.erasure.lake_files import Change, rewrite
from monitoring.erasure.wanted import Wanted
from monitoring.intake.events import LabelEvent, encoder
from monitoring.intake.ids import uuid7
from monitoring.lake.lake import Lake
from monitoring.lake.outcomes import MOST_NAMES
from monitoring.lake.tombstones import Tombstone
from monitoring.lake.upkeep import carry_out, merges
from monitoring.reading.api import events, labels
from monitoring.reading.export import export
from perene.cli import app
from perene.client import calls
from perene.client.wire import Patience
from tests.integration.serving_app import SCOPES, run
from tests.integration.serving_toy import Cache, serving
from tests.integration.test_feedback import shipped, tell
from tests.integration.test_monitoring_lake import NOON, _prediction, _write


@pytest.fixture
def deployed(cache: Cache, offsets: dict[int, Path]) -> tuple[Cache, str]:
    """A cache with the toy's first version, and a key of all scopes."""
    cache.add(1, offsets[1])
    key = cache.key(SCOPES)
    cache.deploy(1)
    return cache, key


def test_outcomes_beside_and_instead_of_a_label_become_columns(deployed: tuple[Cache, str]) -> None:
    """Names merge, a name told again is revised, and what comes without a label leaves the label as it is."""
    cache, key = deployed
    ids: list[str] = []

    async def scenario() -> None:
        async with serving(cache, key) as served:
            ids.extend([(await served.predict())["prediction_ids"][0] for _ in range(3)])
            both, alone, _ = ids
            await tell(served, {"prediction_id": both, "label": 7.0, "outcomes": {"revenue": 12.5, "returned": 0}})
            await tell(served, {"prediction_id": both, "label": None, "outcomes": {"revenue": 2}})
            await tell(served, {"prediction_id": alone, "outcomes": {"clicks": 3}})

    run(scenario)
    lake = shipped(cache)
    assert "_outcome_revenue" in events(lake, "toy", labelled=True).columns
    found = {row["_id"]: row for row in Lake(lake).joined("toy").to_pylist()}
    columns = ("_label", "_label_revisions", "_outcome_revenue", "_outcome_returned", "_outcome_clicks")
    assert [found[ids[0]][name] for name in columns] == [7.0, 1, 2.0, 0.0, None]
    assert [found[ids[1]][name] for name in columns] == [None, None, None, None, 3.0]
    assert [found[ids[2]][name] for name in columns] == [None] * 5
    assert labels(lake, "toy")["_label"].tolist() == [7.0]
    out = lake.parent / "out.parquet"
    export(Lake(lake), "toy", out, low=None, high=None, labelled=True)
    assert pq.read_table(out).column("_outcome_revenue").to_pylist() == [2.0, None, None]


@pytest.mark.parametrize(
    "outcomes",
    [
        [1.0],
        "revenue",
        {"revenue": "12"},
        {"revenue": True},
        {"revenue": None},
        {"revenue": 10**400},
        {"": 1},
        {"Revenue": 1},
        {"_id": 1},
        {"x" * 41: 1},
        {"a b": 1},
        {"e\u0301": 1},
        {"a\n": 1},
        {f"n{n}": 1 for n in range(17)},
    ],
)
def test_what_is_no_outcome_is_refused_without_an_echo(deployed: tuple[Cache, str], outcomes: Any) -> None:
    """The item is rejected whole, its label too, and the answer repeats neither values nor strange names."""
    cache, key = deployed

    async def scenario() -> None:
        async with serving(cache, key) as served:
            identifier = (await served.predict())["prediction_ids"][0]
            bad = {"prediction_id": identifier, "label": 1.0, "outcomes": outcomes}
            good = {"prediction_id": identifier, "label": 2.0, "outcomes": {"ok": 1}}
            results = await tell(served, bad, good)
            assert [r["status"] for r in results] == ["rejected", "accepted"]
            said = json.dumps(results[0])
            assert "outcomes" in said
            assert not [text for text in ("Revenue", "x" * 41, '"12"', "400") if text in said]

    run(scenario)


def test_an_item_that_tells_nothing_is_refused(deployed: tuple[Cache, str]) -> None:
    """Neither label nor outcomes is malformed; no label and no names is rejected; NaN is not even JSON."""
    cache, key = deployed

    async def scenario() -> None:
        async with serving(cache, key) as served:
            post = served.client.post
            nothing = await post("/models/toy/feedback", json=[{"prediction_id": uuid7()}])
            assert nothing.status_code == 400
            results = await tell(served, {"prediction_id": uuid7(), "outcomes": {}})
            assert results[0]["status"] == "rejected"
            raw = f'[{{"prediction_id": "{uuid7()}", "outcomes": {{"revenue": NaN}}}}]'
            assert (await post("/models/toy/feedback", content=raw)).status_code in (400, 415)
            twice = f'[{{"prediction_id": "{uuid7()}", "outcomes": {{"a": 1, "a": 2}}}}]'
            headers = {"content-type": "application/json"}
            assert (await post("/models/toy/feedback", content=twice, headers=headers)).status_code == 400

    run(scenario)


def test_spools_of_before_are_read(tmp_path: Path) -> None:
    """A label as it was written without the field decodes, and one with it loses nothing."""
    old = msgspec.msgpack.encode(["l", "id", "m", 1.0, 2.0, 3.0])
    assert msgspec.msgpack.decode(old, type=LabelEvent) == LabelEvent("id", "m", 1.0, 2.0, 3.0)
    new = LabelEvent("id", "m", None, 2.0, 3.0, {"revenue": -1e300})
    assert msgspec.msgpack.decode(encoder().encode(new), type=LabelEvent) == new


def test_upkeep_merges_outcomes_and_the_last_one_received_counts(tmp_path: Path) -> None:
    """Merged or not, the columns are the same; of two told at once the later number counts."""
    lake = Lake(tmp_path)
    _write(lake, [_prediction(1), _prediction(2)])
    for n in range(5):
        told = LabelEvent("id-1", "m", None, NOON + 9, NOON + 9, {"a": float(n), f"b{n}": 1.0})
        _write(lake, [told], first=10 + n)
    before = lake.joined("m")
    assert before.column("_outcome_a").to_pylist() == [4.0, None]
    plans = list(merges("m", "outcome", lake.files("m", "outcome"), before=date(2026, 3, 3), rows=lake.rows))
    assert [len(plan.files) for plan in plans] == [5]
    for plan in plans:
        carry_out(lake, plan)
    assert len(lake.files("m", "outcome")) == 1
    assert lake.joined("m").equals(before)


def test_erasure_takes_outcomes_too(tmp_path: Path) -> None:
    """Those in the lake go with their prediction, and those that come later are left out by the tombstone."""
    lake = Lake(tmp_path)
    wanted = Wanted("m", ids=frozenset({"id-1"}))
    told = [LabelEvent(f"id-{n}", "m", None, NOON, NOON, {"revenue": 1.0}) for n in (1, 2)]
    _write(lake, [_prediction(1), _prediction(2), *told])
    changes: list[Change] = []
    rewrite(lake, wanted, changes.append)
    assert ("outcome", 1) in [(change.kind, change.rows) for change in changes]
    lake.tombstones.add(Tombstone("m", ids=["id-1"]))
    _write(lake, [told[0]], first=10)
    assert lake.read("m", "outcome").column("_id").to_pylist() == ["id-2"]


def test_names_made_of_ids_become_no_more_columns_than_there_may_be(tmp_path: Path) -> None:
    """A caller that uses ids as names gets the most frequent names as columns, and the real one is among them."""
    lake = Lake(tmp_path)
    told = [LabelEvent("id-1", "m", None, NOON, NOON + n, {f"order_{n}": 1.0, "revenue": n * 1.0}) for n in range(200)]
    _write(lake, [_prediction(1), *told])
    columns = [name for name in lake.joined("m").column_names if name.startswith("_outcome_")]
    assert len(columns) == MOST_NAMES
    assert "_outcome_revenue" in columns
    rare = next(f"order_{n}" for n in range(200) if f"_outcome_order_{n}" not in columns)
    asked = [n for n in lake.joined("m", outcomes=[rare]).column_names if n.startswith("_outcome_")]
    assert asked == [f"_outcome_{rare}"]  # as trials ask for theirs: many names must not switch a guardrail off


def test_a_client_sends_outcomes_and_leaves_out_what_is_unknown() -> None:
    """Of a mapping of outcomes, as of frames of pandas, NaN is not sent."""
    items = [
        {"prediction_id": "a", "label": float("nan"), "outcomes": {"revenue": 1.5, "later": float("nan")}},
        {"prediction_id": "b", "label": 1, "outcomes": None},
    ]
    step = next(calls.feedback(Patience(1.0, 1.0, 0), "m", items))
    assert json.loads(step.request.body) == {
        "items": [{"prediction_id": "a", "outcomes": {"revenue": 1.5}}, {"prediction_id": "b", "label": 1}]
    }


@pytest.mark.parametrize("text", ["revenue", "revenue=", "revenue=nan", "revenue=1e999"])
def test_a_command_line_that_is_no_outcome_is_refused(text: str, tmp_path: Path) -> None:
    """Said before anything is sent."""
    said = CliRunner().invoke(app, ["feedback", "toy", "id", "--outcome", text, "--home", str(tmp_path)])
    assert said.exit_code != 0
    assert "NAME=NUMBER" in said.output + str(said.exception)
