"""Readiness, the OpenAPI document and the counters tell what is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.integration.serving_app import (
    ID,
    SCOPES,
    metrics,
    refused,
    run,
)
from tests.integration.serving_toy import (
    ROW,
    Cache,
    offset_bundle,
    serving,
)


def test_ready_only_once_a_model_is_loaded(cache: Cache, offsets: dict[int, Path]) -> None:
    """503 with a reason before the first hand-over; alive throughout."""

    async def scenario() -> None:
        async with serving(cache, auth=False) as served:
            before = await served.client.get("/readyz?verbose")
            assert (before.status_code, before.json()["status"]) == (503, "not ready")
            assert "no deployed model" in before.json()["reason"]
            assert (await served.client.get("/livez")).status_code == 200
            early = await served.client.post("/predict", json=ROW)
            assert (early.status_code, early.headers["retry-after"]) == (503, "1")
            cache.add(1, offsets[1])
            cache.deploy(1)
            await served.serves(1)
            assert (await served.client.get("/readyz")).status_code == 200

    run(scenario)


def test_openapi_documents_each_deployed_model(cache: Cache, offsets: dict[int, Path], toy_bundle: Path) -> None:
    """Typed rows with an example that really is answered, pinned versions, and only routes that exist."""
    for version, bundle in offsets.items():
        cache.add(version, bundle)
    cache.add(3, offset_bundle(toy_bundle, cache.folder.parent / "other", 5, model="other"), model="other")
    key = cache.key(SCOPES)
    cache.deploy(1, 2, "shadow")

    async def scenario() -> None:
        async with serving(cache, key) as served:
            alone = (await served.client.get("/openapi.json")).json()
            assert {"/predict", "/feedback"} <= set(alone["paths"])
            cache.deploy(3, model="other")

            async def both() -> bool:
                return "/models/other/predict" in (await served.client.get("/openapi.json")).json()["paths"]

            await served.until(both)
            document = (await served.client.get("/openapi.json")).json()
            paths = document["paths"]
            assert {"/models/toy/predict", "/models/toy/versions/1/predict", "/models/toy/versions/2/predict"} <= set(
                paths
            )
            assert "/predict" not in paths
            names = [operation["operationId"] for item in paths.values() for operation in item.values()]
            assert len(set(names)) == len(names)
            for name in ("toy", "other"):
                content = paths[f"/models/{name}/predict"]["post"]["requestBody"]["content"]["application/json"]
                assert set(document["components"]["schemas"][f"{name}.Row"]["properties"]) == set(ROW)
                reply = await served.client.post(f"/models/{name}/predict", json=content["example"])
                assert reply.status_code == 200
            for path, item in paths.items():
                for method in item:
                    reply = await served.client.request(method, path, json={})
                    assert str(reply.status_code) in item[method]["responses"], (method, path)

    run(scenario)  # fmt: skip


def test_metrics_agree_with_what_the_client_saw(cache: Cache, offsets: dict[int, Path]) -> None:
    """Requests by model, version, arm and code; rows; events; feedback items."""
    for version, bundle in offsets.items():
        cache.add(version, bundle)
    key = cache.key(SCOPES)
    cache.deploy(1, 2, "ab", 0.5)
    ledger: Counter[tuple[str, ...]] = Counter()
    rows = 0

    async def scenario() -> None:
        nonlocal rows
        async with serving(cache, key) as served:
            for n in range(40):
                body = await served.predict([ROW] * (1 + n % 3), entity=f"e{n}")
                rows += 1 + n % 3
                ledger["toy", str(body["version"]), body["arm"], "perene", "200"] += 1
            for path, content, status in (
                ("/models/toy/predict", b"{", 400),
                ("/models/toy/predict", b'{"rows": []}', 422),
                ("/models/nope/predict", b"{}", 404),
                ("/models/nope2/predict", b"{}", 404),
                ("/models/toy/versions/9/predict", b"{}", 404),
                ("/models/toy/feedback", b"[]", 400),
            ):
                await refused(served, path, content, status)
                ledger["toy" if "/toy/" in path else "", "", "", "perene", str(status)] += 1
            assert (await served.client.get("/models/toy")).status_code == 200
            ledger["toy", "", "", "perene", "200"] += 1
            sent = [{"prediction_id": i, "label": 1.0} for i in (ID, "nope", ID)]
            assert (await served.client.post("/models/toy/feedback", json={"items": sent})).status_code == 200
            ledger["toy", "", "", "perene", "200"] += 1
            samples = await metrics(served)
            order = ("model", "version", "arm", "protocol", "code")
            counted = {key: n for (name, key), n in samples.items() if name == "perene_requests_total"}
            assert counted == {k: float(n) for k, n in ledger.items()}, order
            assert samples["perene_rows_total", ("toy",)] == rows
            assert samples["perene_events_total", ("prediction",)] == rows
            assert samples["perene_events_total", ("label",)] == 2
            assert samples["perene_feedback_total", ("accepted",)] == 2
            assert samples["perene_feedback_total", ("rejected",)] == 1
            assert samples["perene_request_duration_seconds_count", ("toy",)] == 40
            assert samples["perene_requests_in_progress", ()] == 1
            loaded = [key for (name, key) in samples if name == "perene_model_loaded_info"]
            assert {(k[1], k[2]) for k in loaded} == {("1", "champion"), ("2", "challenger")}

    run(scenario)
