"""Answers over a real cache, engine and spool, and feedback that is durable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from monitoring.intake.events import LabelEvent, PredictionEvent
from tests.conftest import Toy
from tests.integration.serving_app import (
    SCOPES,
    refused,
    run,
)
from tests.integration.serving_toy import (
    ROW,
    Cache,
    answer,
    serving,
    stored_events,
)


def test_it_answers_as_the_estimator_does(cache: Cache, toy_bundle: Path, regression: Toy) -> None:
    """Rows of the training frame, and every promised header."""
    cache.add(1, toy_bundle)
    key = cache.key({"predict"})
    cache.deploy(1)
    frame = regression.X.head(50)
    rows = json.loads(frame.to_json(orient="records"))

    async def scenario() -> None:
        async with serving(cache, key) as served:
            reply = await served.client.post(
                "/models/toy/predict", json={"rows": rows, "entity": "e"}, headers={"x-request-id": "r-1"}
            )
            body = reply.json()
            assert reply.status_code == 200
            wanted = regression.estimator.predict(frame)
            np.testing.assert_allclose(body["predictions"], wanted, rtol=1e-5, atol=1e-5)
            assert (body["model"], body["version"], body["arm"]) == ("toy", 1, "champion")
            assert len(set(body["prediction_ids"])) == 50
            assert reply.headers["x-request-id"] == "r-1"
            assert reply.headers["x-model-name"] == "toy"
            assert reply.headers["x-model-version"] == "1"
            assert reply.headers["x-prediction-id"] == body["prediction_ids"][0]

    run(scenario)


def test_a_bare_row_the_bare_route_and_a_pinned_version(cache: Cache, offsets: dict[int, Path]) -> None:
    """Each shorter form; a pinned version answers whatever the trial says and is logged as pinned."""
    for version, bundle in offsets.items():
        cache.add(version, bundle)
    key = cache.key(SCOPES)
    cache.deploy(1, 2, "ab", 0.0)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            bare = await served.client.post("/predict", json={**ROW, "carrier": "rows"})
            assert bare.json()["predictions"] == [answer(100, ROW)]
            pinned = await served.predict(path="/models/toy/versions/2/predict")
            assert (pinned["predictions"], pinned["version"], pinned["arm"]) == ([answer(200, ROW)], 2, "pinned")
            path = served.spool.path
        events = [e for e in stored_events(path) if isinstance(e, PredictionEvent)]
        assert [(e.version, e.arm) for e in events] == [(1, "champion"), (2, "pinned")]

    run(scenario)


def test_an_unknown_model_or_version_comes_with_a_suggestion(cache: Cache, offsets: dict[int, Path]) -> None:
    """404 and the nearest name, or the versions there are."""
    cache.add(1, offsets[1])
    key = cache.key(SCOPES)
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            for path in ("/models/toi/predict", "/models/toi/feedback"):
                error = await refused(served, path, json.dumps({"rows": [ROW]}).encode(), 404)
                assert (error["code"], error["hint"]) == ("model_unknown", "did you mean 'toy'?")
            for version in ("2", "01x", "-1", "9" * 30, "²"):
                error = await refused(served, f"/models/toy/versions/{version}/predict", b"{}", 404)
                assert error["code"] == "version_unknown"
            assert (await refused(served, "/models/toy/versions/2/predict", b"{}", 404))["expected"] == "1"

    run(scenario)


def test_a_model_that_is_not_loaded_yet_may_be_asked_again(cache: Cache, offsets: dict[int, Path]) -> None:
    """503 with `Retry-After`, not 404: before anything is handed over, and for a model whose bundle is damaged."""
    key = cache.key(SCOPES)
    body = json.dumps({"rows": [ROW]}).encode()

    async def nothing() -> None:
        async with serving(cache, key) as served:
            assert (await refused(served, "/models/toy/predict", body, 503))["code"] == "not_ready"

    run(nothing)
    cache.add(1, offsets[1])
    for file in cache.add(1, offsets[1], model="other").glob("*.onnx"):
        file.write_bytes(b"damaged")
    cache.deploy(1)
    cache.deploy(1, model="other")

    async def damaged_one() -> None:
        async with serving(cache, key) as served:
            await served.predict(path="/models/toy/predict")
            error = await refused(served, "/models/other/predict", body, 503)
            assert (error["code"], error["where"]) == ("not_ready", "model")
            await refused(served, "/models/nobody/predict", body, 404)

    run(damaged_one)


def test_the_read_routes_tell_what_is_deployed(cache: Cache, offsets: dict[int, Path]) -> None:
    """List, facts with certificate, schema that accepts the example row, card."""
    import jsonschema

    folder = cache.add(1, offsets[1])
    key = cache.key({"read"})
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            listed = (await served.client.get("/models")).json()["models"]
            assert [(m["name"], m["champion"], m["digest"]) for m in listed] == [
                ("toy", 1, cache.bundles["toy"]["1"].digest)
            ]
            assert (await served.client.get("/models/toy")).json()["certificate"]["rows"] == 2_000
            schema = (await served.client.get("/models/toy/schema")).json()
            jsonschema.validate(ROW, schema)
            card = await served.client.get("/models/toy/card")
            assert card.text == (folder / "card.md").read_text()
            docs = await served.client.get("/docs")
            assert "http://" not in docs.text
            assert "https://" not in docs.text

    run(scenario)


def test_feedback_is_on_disk_before_it_is_acknowledged(cache: Cache, offsets: dict[int, Path]) -> None:
    """Per-item results in order; another connection to the spool sees the good ones while the server runs."""
    cache.add(1, offsets[1])
    key = cache.key(SCOPES)
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            first, second = (await served.predict([ROW, ROW]))["prediction_ids"]
            items = [
                {"prediction_id": first, "label": 3, "at": "2013-04-01T12:00:00+02:00"},
                {"prediction_id": "nope", "label": 3},
                {"prediction_id": second, "label": "x"},
                {"prediction_id": second, "label": -2.5},
            ]
            reply = await served.client.post("/models/toy/feedback", json=items)
            assert reply.status_code == 200
            labels = [e for e in stored_events(served.spool.path) if isinstance(e, LabelEvent)]
            assert [(e.prediction_id, e.model, e.label) for e in labels] == [
                (first, "toy", 3.0),
                (second, "toy", -2.5),
            ]
            assert labels[0].at == 1364810400.0
            results = reply.json()["results"]
            assert [r["status"] for r in results] == ["accepted", "rejected", "rejected", "accepted"]
            assert [r["prediction_id"] for r in results] == [first, "nope", second, second]
            again = await served.client.post("/feedback", json={**items[0], "model": "toy"})
            assert again.json()["results"][0]["status"] == "accepted"
            nameless = await served.client.post("/feedback", json=items)
            assert (nameless.status_code, nameless.json()["error"]["message"]) == (400, "item 0 has no model")
            assert "/models/{name}/feedback" in nameless.json()["error"]["hint"]

    run(scenario)
