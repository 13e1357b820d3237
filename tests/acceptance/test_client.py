"""The Python clients against a live server: rows, tables, labels, refusals, and a network that fails."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

import perene
from monitoring.intake.pseudonyms import load_pseudonyms
from monitoring.lake.lake import Lake
from perene.client import frames
from perene.client.errors import (
    ContractViolation,
    IdempotencyConflict,
    Limited,
    ModelUnknown,
    NameInvalid,
    NotAllowed,
    TooLarge,
    Unauthenticated,
    Unreachable,
)
from tests.acceptance.client_server import Live, live_server
from tests.acceptance.gate import CUT, gate, refusal
from tests.acceptance.test_serving_process import ROOT, Server, until
from tests.conftest import Toy, toy_frame
from tests.integration.serving_toy import ROW, Cache, answer, offset_bundle


@pytest.fixture(scope="module")
def live(toy_bundle: Path, classification: Toy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_server(tmp_path_factory.mktemp("client"), toy_bundle, classification) as running:
        yield running


@pytest.fixture
def client(live: Live) -> Iterator[perene.Client]:
    with perene.Client(live.url, live.server.key) as made:
        yield made


@dataclasses.dataclass
class Row:
    temp: float | None
    hour: Any
    late: bool
    carrier: str


def test_rows_of_every_form_are_answered(client: perene.Client) -> None:
    """A mapping, a list, dataclasses, a frame, values of NumPy and pandas: the same answer."""
    frame = pd.DataFrame([ROW]).astype({"carrier": "category", "hour": "Int64"})
    forms = [ROW, [ROW], Row(**ROW), [Row(float("nan"), np.int64(7), True, "AA")], frame]
    found = [client.predict("toy", rows) for rows in forms]
    assert [a["predictions"] for a in found] == [[answer(100, ROW)]] * len(forms)
    assert len({a["prediction_ids"][0] for a in found}) == len(forms)
    pinned = client.predict("toy", ROW, version=1, entity="e", at=pd.Timestamp("2013-04-01T12:00:00Z"))
    assert (pinned["arm"], pinned["version"]) == ("pinned", 1)


def test_labels_come_back_with_a_result_each(client: perene.Client) -> None:
    """Items or a table; a label that cannot be is rejected by itself."""
    ids = client.predict("toy", [ROW, ROW])["prediction_ids"]
    items = [{"prediction_id": ids[0], "label": np.float32(1.5)}, {"prediction_id": ids[1], "label": "x"}]
    assert [r["status"] for r in client.feedback("toy", items)["results"]] == ["accepted", "rejected"]
    table = pd.DataFrame({"prediction_id": ids, "label": [1.0, 2.0], "at": [pd.Timestamp.now("UTC"), pd.NaT]})
    assert [r["status"] for r in client.feedback("toy", table)["results"]] == ["accepted"] * 2


def test_what_is_deployed_is_listed(client: perene.Client) -> None:
    """With the schema of a row."""
    assert [m["name"] for m in client.models()] == ["is-late.v2", "toy"]
    assert client.schema("toy")["required"] == ["temp", "hour", "late", "carrier"]


def test_a_stub_is_written_from_the_live_contract(live: Live) -> None:
    """By the command; what it defines answers."""
    command = [sys.executable, "-m", "perene.cli", "stub", "is-late.v2", "--url", live.url, "--key", live.server.key]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    names: dict[str, Any] = {}
    exec(compile(done.stdout, "late.py", "exec"), names)
    assert list(names["Row"].__annotations__) == list(ROW)
    assert get_args(names["Value"]) == (0, 1)
    with perene.Client(live.url, live.server.key) as client:
        assert names["predict"](client, ROW)["model"] == names["MODEL"] == "is-late.v2"


def test_refusals_come_as_exceptions_with_their_facts(live: Live, client: perene.Client) -> None:
    """Of the server's own classes, with the request's id."""
    with pytest.raises(ContractViolation) as caught:
        client.predict("toy", [ROW, {**ROW, "hour": "seven", "carier": "AA"}])
    found = {e.path: e for e in caught.value.errors}
    assert found["rows[1].carier"].hint == "did you mean 'carrier'?"
    assert found["rows[1].hour"].got == "string"
    assert len(caught.value.request_id) == 36
    with pytest.raises(ModelUnknown, match="toy"):
        client.predict("toi", ROW)
    with pytest.raises(NameInvalid):
        client.predict("../admin", ROW)
    with perene.Client(live.url, live.weak_key) as weak:
        assert weak.predict("toy", ROW)["version"] == 1
        with pytest.raises(NotAllowed):
            weak.predict("is-late.v2", ROW)
        with pytest.raises(NotAllowed):
            weak.models()
    with perene.Client(live.url, "prn_wrong") as stranger, pytest.raises(Unauthenticated):
        stranger.predict("toy", ROW)


def test_a_bound_model_refuses_wrong_rows_before_they_are_sent(live: Live, client: perene.Client) -> None:
    """In the server's words, without the server."""
    model = client.model("is-late.v2")
    assert (model.name, list(model.classes), model.contract.names) == ("is-late.v2", [0, 1], list(ROW))
    assert model.predict(ROW)["predictions"][0] in model.classes
    with gate(live.server.port) as way, perene.Client(way.url, live.server.key) as watched:
        bound = watched.model("toy")
        asked = len(way.heads)
        with pytest.raises(ContractViolation) as caught:
            bound.predict({**{k: v for k, v in ROW.items() if k != "carrier"}, "carier": "AA"})
        assert [e.hint for e in caught.value.errors if e.path == "rows[0].carier"] == ["did you mean 'carrier'?"]
        with pytest.raises(ContractViolation, match="missing column"):
            bound.predict_frame(pd.DataFrame([{**ROW}]).rename(columns={"carrier": "carier"}))
        assert len(way.heads) == asked
        assert bound.feedback({"prediction_id": "x", "label": 1})["results"][0]["status"] == "rejected"


def test_a_bound_model_follows_a_contract_that_changed(client: perene.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old contract is fetched again before it refuses what the server would take."""
    model = client.model("toy")
    old = dataclasses.replace(model.contract, columns=model.contract.columns[:3])
    model._known.contract = old
    with pytest.raises(ContractViolation):
        model.predict(ROW)
    model._known.fetched -= 60
    assert model.predict(ROW)["predictions"] == [answer(100, ROW)]
    assert len(model.contract.columns) == 4


def test_a_table_of_25000_rows_goes_through_in_parts(live: Live, client: perene.Client) -> None:
    """With its own index, every answer beside its row, ids that labels can be sent for, and the estimator's answers."""
    frame = toy_frame(25_000, seed=3)
    frame.index = pd.Index([f"row-{n}" for n in range(len(frame))], name="who")
    found = client.predict_frame("toy", frame)
    assert list(found.columns) == ["prediction", "prediction_id", "version"]
    assert found.index.equals(frame.index)
    assert (found["prediction"] == frame["hour"] + 100.0).all()
    assert (found["prediction_id"].is_unique, set(found["version"])) == (True, {1})
    labels = pd.DataFrame({"prediction_id": found["prediction_id"], "label": frame["hour"] + 100.5})
    assert len(client.feedback("toy", labels)["results"]) == len(frame)
    lake = Lake(live.server.home / "events")
    until(lambda: lake.joined("toy").num_rows >= len(frame), "events and labels were not shipped")

    late = client.model("is-late.v2").predict_frame(frame.assign(other="not of the contract").iloc[:12_000])
    assert list(late.columns) == ["prediction", "probabilities", "prediction_id", "version"]
    expected = live.late.estimator.predict_proba(frame.iloc[:12_000])
    np.testing.assert_allclose(np.array(late["probabilities"].tolist()), expected, atol=1e-5)
    assert client.predict_frame("toy", frame.iloc[:0]).empty


def test_a_table_goes_as_json_where_pyarrow_is_not(client: perene.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same table comes back."""
    frame = toy_frame(200)
    by_arrow = client.predict_frame("is-late.v2", frame)
    monkeypatch.setattr(frames, "find_spec", lambda _name: None)
    by_json = client.predict_frame("is-late.v2", frame)
    pd.testing.assert_frame_equal(by_arrow.drop(columns="prediction_id"), by_json.drop(columns="prediction_id"))


def test_the_row_at_fault_is_named_by_its_place_in_the_whole_table(client: perene.Client) -> None:
    """Not in the part that was sent."""
    frame = toy_frame(1_500).astype({"hour": float})
    frame.loc[1_234, "hour"] = 1.5
    with pytest.raises(ContractViolation) as caught:
        client.predict_frame("toy", frame, chunk_rows=500)
    assert caught.value.errors[0].path == "rows[1234].hour"


def test_parts_shrink_until_the_server_takes_them(live: Live, tmp_path: Path, toy_bundle: Path) -> None:
    """Whatever its limits are; nobody has to tell the client."""
    cache = Cache(tmp_path / "home" / "cache")
    cache.add(1, offset_bundle(toy_bundle, tmp_path / "1", 100.0))
    key = cache.key({"predict", "feedback"})
    cache.deploy(1)
    with Server(cache.folder.parent, key, max_rows=300, max_body_bytes=16_384) as server:
        server.ready()
        with perene.Client(f"http://127.0.0.1:{server.port}", key) as client:
            frame = toy_frame(1_000)
            found = client.predict_frame("toy", frame)
            assert (found["prediction"] == frame["hour"] + 100.0).all()
            labels = pd.DataFrame({"prediction_id": found["prediction_id"], "label": 1.0})
            assert len(client.feedback("toy", labels)["results"]) == 1_000
            with pytest.raises(TooLarge):
                client.predict("toy", frame)


def test_the_page_for_apps_says_what_works(live: Live) -> None:
    """Its Python, block by block, with the names of this test's model."""
    text = (ROOT / "docs" / "how-to" / "call-from-an-app.md").read_text()
    for old, new in (
        ("http://127.0.0.1:8000", live.url),
        ("churn", "is-late.v2"),
        ('{"age": 41, "plan": "basic"}', repr(ROW)),
    ):
        assert old in text
        text = text.replace(old, new)
    text = text.replace("from is-late.v2 import", "from stub import")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    with perene.Client(live.url, live.server.key) as client:
        ids = client.predict("is-late.v2", [ROW, ROW])["prediction_ids"]
        names: dict[str, Any] = {"perene": perene, "pd": pd, "asyncio": asyncio, "url": live.url}
        names |= {"key": live.server.key, "row": ROW, "features": list(ROW), "frame": toy_frame(50).assign(id=1)}
        names |= {"labels": pd.DataFrame({"prediction_id": ids, "label": [0, 1]})}
        ours = [block for block in blocks if "from stub import" not in block]
        assert len(ours) == len(blocks) - 1  # the module of types has a test of its own
        for block in ours:
            exec(block, names)
            names["client"] = client  # the first block closes its own
    assert names["answer"]["model"] == "is-late.v2"
    assert set(names["frame"]["is-late.v2s"]) <= {0, 1}
    assert len(asyncio.run(names["ask"]([ROW, ROW]))) == 2


def test_a_server_that_is_killed_and_comes_back_is_waited_for(live: Live) -> None:
    """Every caller gets its answer, late."""
    with perene.Client(live.url, live.server.key, deadline_s=60, retries=100) as client:
        client.predict("toy", ROW)
        live.server.process.kill()
        live.server.process.wait()
        answers: list[Any] = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.predict("toy", ROW)["predictions"]), daemon=True)
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        assert answers == []
        live.server.start()
        for thread in threads:
            thread.join(60)
        assert answers == [[answer(100, ROW)]] * 4


def test_nobody_at_the_address_is_said_after_the_deadline() -> None:
    """And without patience, at once."""
    patient = perene.Client("http://127.0.0.1:9", "", deadline_s=0.5, retries=100)
    with patient as client, pytest.raises(Unreachable, match="ConnectError"):
        client.models()
    with perene.Client("http://127.0.0.1:9", "", retries=0) as client, pytest.raises(Unreachable, match="1 attempt,"):
        client.models()


def test_a_server_s_wish_to_wait_is_honoured(live: Live) -> None:
    """429 and 503 with `Retry-After`, then the answer; one key for all attempts, another for another prediction."""
    plan = [refusal("429 Too Many Requests", "retry-after: 1"), refusal("503 Service Unavailable", "retry-after: 1")]
    with gate(live.server.port, *plan) as way, perene.Client(way.url, live.server.key) as client:
        assert client.predict("toy", ROW)["predictions"] == [answer(100, ROW)]
        assert len(way.times) == 3
        assert all(later - earlier >= 1.0 for earlier, later in zip(way.times, way.times[1:], strict=False))
        client.predict("toy", ROW)
    keys = way.header("idempotency-key")
    assert len(set(keys[:3])) == 1
    assert (keys[3] != keys[0], [len(key) for key in keys]) == (True, [36] * 4)
    with gate(live.server.port, refusal("429 Too Many Requests", "retry-after: 3600")) as way:
        with perene.Client(way.url, live.server.key) as client, pytest.raises(Limited) as caught:
            client.predict("toy", ROW)
        assert (caught.value.retry_after_s, len(way.heads)) == (3600.0, 1)


def test_a_client_keeps_to_its_key_s_rate(tmp_path: Path, toy_bundle: Path) -> None:
    """A real server's 429s: every caller is answered, later; without retries some are not."""
    cache = Cache(tmp_path / "home" / "cache")
    cache.add(1, offset_bundle(toy_bundle, tmp_path / "1", 100.0))
    key = cache.key({"predict"})
    cache.deploy(1)

    async def ask(url: str, retries: int) -> list[Any]:
        async with perene.AsyncClient(url, key, retries=retries) as client:
            asked = (client.predict("toy", ROW) for _ in range(25))
            found: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
            return found

    with Server(cache.folder.parent, key, limits={"requests_per_second": 10.0}) as server:
        server.ready()
        found = asyncio.run(ask(f"http://127.0.0.1:{server.port}", 10))
        assert [a["predictions"] for a in found] == [[answer(100, ROW)]] * 25
        refused = [e for e in asyncio.run(ask(f"http://127.0.0.1:{server.port}", 0)) if isinstance(e, Limited)]
        assert refused
        assert all(error.retry_after_s >= 1.0 for error in refused)


def test_a_prediction_whose_answer_was_lost_counts_once(live: Live) -> None:
    """The connection ends after the server has answered: the next attempt gets the stored answer."""
    with gate(live.server.port, CUT) as way, perene.Client(way.url, live.server.key) as client:
        cut = client.predict("toy", ROW, entity="lost-answer")
        assert len(way.heads) == 2
        again = client.predict("toy", ROW, idempotency_key="order-7")
        assert client.predict("toy", ROW, idempotency_key="order-7") == again
        with pytest.raises(IdempotencyConflict):
            client.predict("toy", {**ROW, "hour": 8}, idempotency_key="order-7")
    lake = Lake(live.server.home / "events")
    mine = load_pseudonyms(live.server.home)("lost-answer")

    def column(name: str) -> list[str]:
        found: list[str] = lake.read("toy", "prediction", columns=["_id", "_entity"]).column(name).to_pylist()
        return found

    wanted = {cut["prediction_ids"][0], again["prediction_ids"][0]}
    until(lambda: wanted <= set(column("_id")), "the events were not shipped")
    assert column("_entity").count(mine) == 1
    assert column("_id").count(again["prediction_ids"][0]) == 1


def test_the_asynchronous_client_asks_many_at_once(live: Live) -> None:
    """Below asyncio, over few connections, and through the same calls."""

    async def scenario() -> None:
        async with perene.AsyncClient(live.url, live.server.key, connections=8) as client:
            rows = [{**ROW, "hour": n % 24} for n in range(200)]
            found = await asyncio.gather(*(client.predict("toy", row) for row in rows))
            assert [a["predictions"] for a in found] == [[answer(100, row)] for row in rows]
            model = await client.model("toy")
            table = await model.predict_frame(toy_frame(1_000), chunk_rows=300)
            assert len(table) == 1_000
            assert [m["name"] for m in await client.models()] == ["is-late.v2", "toy"]
            assert "temp" in (await client.schema("toy"))["properties"]
            items = [{"prediction_id": found[0]["prediction_ids"][0], "label": 1.0}]
            assert (await model.feedback(items))["results"][0]["status"] == "accepted"
            with pytest.raises(ContractViolation):
                await model.predict({"temp": 1})

    asyncio.run(scenario())


def test_the_asynchronous_client_tries_again_too(live: Live) -> None:
    """It has no retries of its own: these are the same steps."""

    async def scenario() -> None:
        with gate(live.server.port, refusal("503 Service Unavailable"), CUT) as way:
            async with perene.AsyncClient(way.url, live.server.key) as client:
                found = await client.predict("toy", ROW)
                assert found["predictions"] == [answer(100, ROW)]
            assert len(way.heads) == 3

    asyncio.run(scenario())
