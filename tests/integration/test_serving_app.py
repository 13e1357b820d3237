"""The HTTP application over a real cache, engine and spool: every route, every refusal, every way to be swapped."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.events import LabelEvent, PredictionEvent
from registry.bundle import seal
from serving.routing import Route, choose
from serving.state import Failure
from tests.conftest import Toy
from tests.integration.serving_toy import (
    ROW,
    Cache,
    Served,
    answer,
    offset_bundle,
    one_row_bundle,
    pole_bundle,
    serving,
    stored_events,
)

SECRET = "s3cr3t-canary"
SCOPES = {"predict", "feedback", "read"}
MAX_BODY = 64 * 1024
MAX_ROWS = 20


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture(scope="session")
def offsets(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Versions 1 and 2 answer `hour + 100` and `hour + 200`."""
    folder = tmp_path_factory.mktemp("offsets")
    return {n: offset_bundle(toy_bundle, folder / str(n), 100.0 * n) for n in (1, 2)}


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


# --- answers ----------------------------------------------------------------------------------------------


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


# --- who may ----------------------------------------------------------------------------------------------

ROUTES: dict[str, str | None] = {
    "/predict": "predict",
    "/models/{model}/predict": "predict",
    "/models/{model}/versions/{version}/predict": "predict",
    "/feedback": "feedback",
    "/models/{model}/feedback": "feedback",
    "/models": "read",
    "/models/{model}": "read",
    "/models/{model}/schema": "read",
    "/models/{model}/card": "read",
    "/livez": None,
    "/readyz": None,
    "/healthz": None,
    "/metrics": None,
    "/openapi.json": None,
    "/docs": None,
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")


def test_every_route_asks_for_its_scope(cache: Cache, offsets: dict[int, Path], toy_bundle: Path) -> None:
    """Generated from the application's own routes: nothing unlisted, nothing more permissive."""
    cache.add(1, offsets[1])
    cache.add(1, offset_bundle(toy_bundle, cache.folder.parent / "other", 5, model="other"), model="other")
    all_three = {"predict", "feedback", "read"}
    keys: dict[str, tuple[str, set[str], set[str]]] = {
        "none": ("", set(), set()),
        "wrong": ("prn_00000000_" + "x" * 43, set(), set()),
        **{scope: (cache.key({scope}), {scope}, set()) for scope in sorted(all_three)},
        "this model": (cache.key(all_three, {"toy"}), all_three, {"toy"}),
        "another model": (cache.key(all_three, {"other"}), all_three, {"other"}),
        "admin": (cache.key({"promote", "admin"}), {"promote", "admin"}, set()),
    }
    cache.deploy(1, model="other")
    cache.deploy(1)

    def wanted(path: str, method: str, methods: set[str], scopes: set[str], models: set[str], name: str) -> int:
        scope = ROUTES[path]
        if method not in methods:
            return 405
        if scope is None:
            return 200
        if name in ("none", "wrong"):
            return 401
        about_toy = "{model}" in path or path == "/predict"
        return 200 if scope in scopes and (not models or not about_toy or "toy" in models) else 403

    async def scenario() -> None:
        async with serving(cache, default_model="toy") as served:
            found = {route.path: set(route.methods or ()) for route in served.app.routes}  # type: ignore[attr-defined]
            assert set(found) == set(ROUTES)
            identifier = (await served.client.post("/predict", headers=bearer(keys["predict"][0]), json=ROW)).json()[
                "prediction_ids"
            ][0]
            label = {"prediction_id": identifier, "label": 1.0, "model": "toy"}
            tried = Counter[int]()
            for path, methods in found.items():
                for method in METHODS:
                    for name, (secret, scopes, models) in keys.items():
                        body: Any = ([label] if "feedback" in path else ROW) if method == "POST" else None
                        for headers in (bearer(secret), {"x-api-key": secret}):
                            target = path.format(model="toy", version=1)
                            reply = await served.client.request(method, target, headers=headers, json=body)
                            expected = wanted(path, method, methods, scopes, models, name)
                            assert reply.status_code == expected, (method, target, name)
                            tried[expected] += 1
                            assert secret == "" or secret not in reply.text
                            if expected == 401:
                                assert reply.headers["www-authenticate"] == "Bearer"
            assert min(tried[code] for code in (200, 401, 403, 405)) > 0

    run(scenario)


def test_a_key_of_one_model_reaches_no_other(cache: Cache, offsets: dict[int, Path], toy_bundle: Path) -> None:
    """Neither by the bare routes nor in a list."""
    cache.add(1, offsets[1])
    cache.add(1, offset_bundle(toy_bundle, cache.folder.parent / "other", 5, model="other"), model="other")
    key = cache.key(SCOPES, {"other"})
    cache.deploy(1, model="other")
    cache.deploy(1)
    identifier = "0198c0de-0000-7000-8000-000000000000"

    async def scenario() -> None:
        async with serving(cache, key, default_model="toy") as served:
            assert (await served.client.get("/models")).json()["models"][0]["name"] == "other"
            assert len((await served.client.get("/models")).json()["models"]) == 1
            assert (await served.client.post("/predict", json=ROW)).status_code == 403
            labels = [{"model": m, "prediction_id": identifier, "label": 1} for m in ("toy", "other")]
            results = (await served.client.post("/feedback", json=labels)).json()["results"]
            assert [r["status"] for r in results] == ["rejected", "accepted"]
            assert results[0]["error"]["code"] == "not_allowed"
            path = served.spool.path
        assert [e.model for e in stored_events(path)] == ["other"]

    run(scenario)


@pytest.mark.parametrize("path", ["/predict/", "//predict", "/./predict", "/%2fpredict", "/models/toy/predict/"])
def test_another_spelling_of_a_path_is_no_way_around(path: str, cache: Cache, offsets: dict[int, Path]) -> None:
    """Not found, and no redirect to a host that the caller named."""
    cache.add(1, offsets[1])
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache) as served:
            url = httpx.URL("http://evil.example").copy_with(raw_path=path.encode())
            reply = await served.client.post(url, json=ROW)
            assert reply.status_code in (401, 404)
            assert "location" not in reply.headers
            assert "evil" not in reply.text

    run(scenario)


# --- refusals ---------------------------------------------------------------------------------------------


def body_of_rows(*rows: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"rows": list(rows) or [ROW], **more}).encode()


def with_text(old: str, new: str) -> bytes:
    changed = body_of_rows().decode().replace(old, new)
    assert changed != body_of_rows().decode()
    return changed.encode()


BAD: list[tuple[str, bytes, int]] = [
    ("empty", b"", 400),
    ("null", b"null", 400),
    ("list", b"[]", 400),
    ("scalar", b"7", 400),
    ("text", json.dumps(SECRET).encode(), 400),
    ("cut off", body_of_rows()[:-3], 400),
    ("trailing comma", b'{"rows":[{}],}', 400),
    ("comment", b"// hi\n" + body_of_rows(), 400),
    ("byte order mark", b"\xef\xbb\xbf" + body_of_rows(), 400),
    ("utf-16", body_of_rows().decode().encode("utf-16"), 400),
    ("cut utf-8", body_of_rows().replace(b'"AA"', b'"\xe2\x82"'), 400),
    ("lone surrogate", with_text('"AA"', '"\\ud800"'), 400),
    ("NaN", with_text("1.5", "NaN"), 400),
    ("Infinity", with_text("1.5", "-Infinity"), 400),
    ("hexadecimal", with_text("1.5", "0x10"), 400),
    ("leading zero", with_text("1.5", "01.5"), 400),
    ("twice", with_text('"hour": 7', '"hour": 7, "hour": 8'), 400),
    ("twice by escape", with_text('"hour": 7', '"hour": 7, "h\\u006fur": 8'), 400),
    ("deep list", b"[" * 30_000, 400),
    ("deep object", b'{"rows":' * 8_000, 400),
    ("1e999", with_text("1.5", "1e999"), 422),
    ("beyond float32", with_text("1.5", "3.5e38"), 422),
    ("2^53 + 1", with_text('"hour": 7', f'"hour": {2**53 + 1}'), 422),
    ("2^63", with_text('"hour": 7', f'"hour": {2**63}'), 422),
    ("5,000 digits", with_text('"hour": 7', f'"hour": {"9" * 5_000}'), 422),
    ("5,000 digits aside", body_of_rows()[:-1] + b', "params": {"a": ' + b"9" * 5_000 + b"}}", 422),
    ("fraction", body_of_rows({**ROW, "hour": 3.5}), 422),
    ("number as text", body_of_rows({**ROW, "hour": "3"}), 422),
    ("true for a number", body_of_rows({**ROW, "hour": True}), 422),
    ("text for a boolean", body_of_rows({**ROW, "late": SECRET}), 422),
    ("text for a float", body_of_rows({**ROW, "temp": SECRET}), 422),
    ("list for a text", body_of_rows({**ROW, "carrier": [SECRET]}), 422),
    ("object for a text", body_of_rows({**ROW, "carrier": {SECRET: SECRET}}), 422),
    ("null", body_of_rows({**ROW, "hour": None}), 422),
    ("missing", body_of_rows({k: v for k, v in ROW.items() if k != "hour"}), 422),
    ("unknown", body_of_rows({**ROW, "extra": SECRET}), 422),
    ("mis-cased", body_of_rows({**{k: v for k, v in ROW.items() if k != "hour"}, "Hour": 7}), 422),
    ("no rows", b'{"rows": []}', 422),
    ("rows is no list", json.dumps({"rows": SECRET}).encode(), 422),
    ("rows of lists", json.dumps({"rows": [[SECRET]]}).encode(), 422),
    ("unknown key", body_of_rows(extra=SECRET), 422),
    ("long unknown key", body_of_rows(**{"k" * 40_000: SECRET}), 422),
    ("unprintable key", b'{"rows": 1, "\\ud800\\u0000": 1}', 422),
    ("many unknown features", body_of_rows({f"{'x' * 500}{i}": SECRET for i in range(100)}), 422),
    ("entity of another type", body_of_rows(entity=[SECRET]), 422),
    ("no time", body_of_rows(at=SECRET), 422),
    ("time before time", body_of_rows(at="0001-01-01T00:00:00+23:59"), 422),
    ("time after time", body_of_rows(at="9999-12-31T23:59:59.999999-23:59"), 422),
    ("many bad rows", body_of_rows(*[{"carrier": 1}] * 500), 422),
    ("too many rows", body_of_rows(*[ROW] * (MAX_ROWS + 1)), 413),
    ("too long", body_of_rows(entity=SECRET * MAX_BODY), 413),
]  # fmt: skip
ID = "0198c0de-0000-7000-8000-000000000000"
BAD_FEEDBACK: list[tuple[str, bytes, int]] = [
    ("empty", b"", 400),
    ("null", b"null", 400),
    ("no items", b"[]", 400),
    ("scalar", b"1", 400),
    ("list of texts", json.dumps([SECRET]).encode(), 400),
    ("no label", json.dumps([{"prediction_id": SECRET}]).encode(), 400),
    ("no id", b'[{"label": 1}]', 400),
    ("id of another type", b'[{"prediction_id": 7, "label": 1}]', 400),
    ("NaN", b'[{"prediction_id": "x", "label": NaN}]', 400),
    ("cut utf-8", b'[{"prediction_id": "\xe2\x82", "label": 1}]', 400),
    ("byte order mark", b'\xef\xbb\xbf[{"prediction_id": "x", "label": 1}]', 400),
    ("utf-16", '[{"prediction_id": "x", "label": 1}]'.encode("utf-16"), 400),
    ("twice", f'[{{"prediction_id": "{ID}", "label": 1, "label": 2}}]'.encode(), 400),
    ("deep", b"[" * 30_000, 400),
    ("too many", json.dumps([{"prediction_id": ID, "label": 1}] * (MAX_ROWS + 1)).encode(), 413),
]
REJECTED: list[tuple[str, bytes]] = [
    ("not an id", json.dumps([{"prediction_id": SECRET[:4], "label": 1}]).encode()),
    ("unprintable id", b'[{"prediction_id": "\\ud800\\u0007", "label": 1}]'),
    ("long id", json.dumps([{"prediction_id": "z" * 30_000, "label": 1}]).encode()),
    ("text", json.dumps([{"prediction_id": ID, "label": SECRET}]).encode()),
    ("boolean", json.dumps([{"prediction_id": ID, "label": True}]).encode()),
    ("null", json.dumps([{"prediction_id": ID, "label": None}]).encode()),
    ("list", json.dumps([{"prediction_id": ID, "label": [SECRET]}]).encode()),
    ("1e999", f'[{{"prediction_id": "{ID}", "label": 1e999}}]'.encode()),
    ("400 digits", f'[{{"prediction_id": "{ID}", "label": {"9" * 400}}}]'.encode()),
    ("no time", json.dumps([{"prediction_id": ID, "label": 1, "at": SECRET}]).encode()),
    ("time of another type", json.dumps([{"prediction_id": ID, "label": 1, "at": 7}]).encode()),
    ("time before time", json.dumps([{"prediction_id": ID, "label": 1, "at": "0001-01-01T00:00:00+23:59"}]).encode()),
    ("time to come", json.dumps([{"prediction_id": ID, "label": 1, "at": "9999-12-31T23:59:59.999999Z"}]).encode()),
]


async def refused(served: Served, path: str, content: bytes, status: int, **headers: str) -> dict[str, Any]:
    """The error of a reply that keeps every promise about errors."""
    sent = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    reply = await served.client.post(path, content=content, headers=sent)
    assert reply.status_code == status, reply.text[:500]
    assert len(reply.content) <= 16 * 1024
    assert SECRET not in reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert error["request_id"] == reply.headers["x-request-id"]
    assert {"code", "message", "where", "expected", "got", "hint", "request_id", "docs"} <= set(error)
    assert len(error.get("errors", ())) <= 20
    return error


@pytest.fixture
def strict(cache: Cache, offsets: dict[int, Path]) -> Callable[[], Any]:
    """A service with small limits."""
    cache.add(1, offsets[1])
    key = cache.key(SCOPES)
    cache.deploy(1)
    return lambda: serving(cache, key, max_body_bytes=MAX_BODY, max_rows=MAX_ROWS)


def test_bad_predict_bodies_are_refused_and_documented(strict: Callable[[], Any]) -> None:
    """Each with its status, small, without a value; and the service answers the next request."""

    async def scenario() -> None:
        async with strict() as served:
            document = (await served.client.get("/openapi.json")).json()
            documented = set(document["paths"]["/models/toy/predict"]["post"]["responses"])
            for name, content, status in BAD:
                try:
                    await refused(served, "/models/toy/predict", content, status)
                except AssertionError as error:
                    raise AssertionError(f"{name}: {error}") from error
                assert str(status) in documented, name
            assert (await served.predict())["predictions"] == [answer(100, ROW)]

    run(scenario)


def test_the_edge_of_what_is_too_deep(strict: Callable[[], Any]) -> None:
    """Two parsers read such a body, and each has its own limit: whichever is met, it is the caller's error."""

    async def scenario() -> None:
        async with strict() as served:
            seen = Counter[int]()
            for depth in range(860, 1_000):
                body = body_of_rows()[:-1] + b', "params": ' + b'{"a":' * depth + b"1" + b"}" * (depth + 1)
                reply = await served.client.post("/predict", content=body, headers={"content-type": "application/json"})
                seen[reply.status_code] += 1
            assert set(seen) == {200, 400}

    run(scenario)


def test_bad_feedback_is_refused_whole_or_by_item(strict: Callable[[], Any]) -> None:
    """A body that is none is refused; in a list each item gets its own result, and only good ones are kept."""

    async def scenario() -> None:
        async with strict() as served:
            for name, content, status in BAD_FEEDBACK:
                try:
                    await refused(served, "/models/toy/feedback", content, status)
                except AssertionError as error:
                    raise AssertionError(f"{name}: {error}") from error
            for name, content in REJECTED:
                reply = await served.client.post(
                    "/models/toy/feedback", content=content, headers={"content-type": "application/json"}
                )
                assert reply.status_code == 200, name
                assert [r["status"] for r in reply.json()["results"]] == ["rejected"], name
                assert SECRET not in reply.text, name
                assert len(reply.content) <= 16 * 1024, name
            path = served.spool.path
        assert stored_events(path) == []

    run(scenario)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "application/json; charset=utf-16"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": ""}, 415),
        ({"content-type": "application/json", "content-length": str(MAX_BODY + 1)}, 413),
        ({"content-type": "application/json", "content-length": "9" * 40}, 413),
        ({"content-type": "APPLICATION/JSON ; charset=UTF-8"}, 200),
    ],
)
def test_media_type_and_declared_length(headers: dict[str, str], status: int, strict: Callable[[], Any]) -> None:
    """Told from the headers, before a byte of the body is kept."""

    async def scenario() -> None:
        async with strict() as served:
            reply = await served.client.post("/predict", content=body_of_rows(), headers=headers)
            assert reply.status_code == status

    run(scenario)


def test_a_body_that_does_not_say_its_length_is_bounded_too(strict: Callable[[], Any]) -> None:
    """By chunks: refused one byte over the limit, without reading on; at the limit it is read."""
    taken = 0
    padded = body_of_rows().ljust(MAX_BODY)

    async def chunks(total: int) -> AsyncIterator[bytes]:
        nonlocal taken
        content = padded.ljust(total)
        for start in range(0, total, 1024):
            taken += 1
            yield content[start : start + 1024]

    async def scenario() -> None:
        nonlocal taken
        headers = {"content-type": "application/json"}
        async with strict() as served:
            reply = await served.client.post("/predict", content=chunks(MAX_BODY), headers=headers)
            assert reply.status_code == 200
            taken = 0
            reply = await served.client.post("/predict", content=chunks(MAX_BODY * 100), headers=headers)
            assert reply.status_code == 413
            assert reply.json()["error"]["code"] == "too_large"

    run(scenario)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/predict", 422), ("POST", "/models/nope/predict", 404), ("GET", "/nope", 404), ("PUT", "/predict", 405)],
)
def test_problem_json_on_request(method: str, path: str, status: int, strict: Callable[[], Any]) -> None:
    """RFC 9457's members, from handlers and from the router."""

    async def scenario() -> None:
        async with strict() as served:
            reply = await served.client.request(method, path, json={}, headers={"accept": "application/problem+json"})
            assert reply.headers["content-type"] == "application/problem+json"
            problem = reply.json()
            assert problem["status"] == reply.status_code == status
            assert {"type", "title", "detail", "code", "request_id"} <= set(problem)

    run(scenario)


def test_an_answer_that_is_no_number_is_a_named_error(cache: Cache, toy_bundle: Path) -> None:
    """500 output_not_finite, never invalid JSON; other rows are answered."""
    cache.add(1, pole_bundle(toy_bundle, cache.folder.parent / "pole"))
    key = cache.key(SCOPES)
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            error = await refused(served, "/predict", body_of_rows({**ROW, "hour": 13}), 500)
            assert error["code"] == "output_not_finite"
            assert (await served.predict([{**ROW, "hour": 14}]))["predictions"] == [1.0]

    run(scenario)


def test_what_nobody_foresaw_is_answered_in_the_envelope(strict: Callable[[], Any]) -> None:
    """A defect of ours shows no stack trace."""

    async def scenario() -> None:
        async with strict() as served:
            served.app.state.service.plane = None
            reply = await served.client.post("/predict", json=ROW)
            assert reply.status_code == 500
            assert reply.json()["error"]["code"] == "http_500"
            assert "Traceback" not in reply.text

    run(scenario)


def test_a_spool_that_refuses_is_no_acknowledgement(cache: Cache, offsets: dict[int, Path]) -> None:
    """503 for feedback while the disk is away; predictions go on and the loss is counted."""
    cache.add(1, offsets[1])
    key = cache.key(SCOPES)
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            served.spool.close()
            error = await refused(served, "/models/toy/feedback", label(ID, 1.0), 503)
            assert error["code"] == "store_unavailable"
            await served.predict()
            samples = await metrics(served)
            assert samples["perene_events_lost_total", ("closed",)] == 1

    run(scenario)


def label(identifier: str, value: float) -> bytes:
    return json.dumps([{"prediction_id": identifier, "label": value}]).encode()


# --- readiness, documents, metrics ------------------------------------------------------------------------


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


async def metrics(served: Served) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by name and label values, in the order the catalogue has them."""
    text = (await served.client.get("/metrics")).text
    first = ("model", "version", "arm", "alias", "protocol", "code")
    found: dict[tuple[str, tuple[str, ...]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            ranked = sorted(sample.labels, key=lambda n: (first.index(n) if n in first else len(first), n))
            found[sample.name, tuple(sample.labels[n] for n in ranked)] = sample.value
    return found


# --- feedback ---------------------------------------------------------------------------------------------


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

    run(scenario)


# --- trials and swaps -------------------------------------------------------------------------------------


def test_in_shadow_the_champion_answers_and_the_candidate_is_logged(cache: Cache, offsets: dict[int, Path]) -> None:
    """One shadow event for each served row, under its id, without features."""
    for version, bundle in offsets.items():
        cache.add(version, bundle)
    key = cache.key(SCOPES)
    cache.deploy(1, 2, "shadow")

    async def scenario() -> None:
        async with serving(cache, key) as served:
            body = await served.predict([ROW, {**ROW, "hour": 8}], entity="me", at="2013-04-01T12:00:00Z")
            assert (body["version"], body["predictions"]) == (1, [107.0, 108.0])
            samples = await metrics(served)
            assert samples["perene_shadow_disagreements_total", ("toy",)] == 2
            path = served.spool.path
        events = [e for e in stored_events(path) if isinstance(e, PredictionEvent)]
        seen = [(e.id, e.arm, e.version, e.prediction, e.features, e.at) for e in events]
        at = 1364817600.0
        first, second = body["prediction_ids"]
        assert sorted(seen) == sorted(
            [
                (first, "champion", 1, 107.0, [1.5, 7, True, "AA"], at),
                (second, "champion", 1, 108.0, [1.5, 8, True, "AA"], at),
                (first, "shadow", 2, 207.0, [], at),
                (second, "shadow", 2, 208.0, [], at),
            ]
        )
        assert "me" not in {e.entity for e in events}

    run(scenario)


@pytest.mark.parametrize("mode", ["ab", "canary"])
def test_entities_are_split_as_routing_says(mode: str, cache: Cache, offsets: dict[int, Path]) -> None:
    """The pure function and the service agree on each entity, and an entity stays on its arm."""
    for version, bundle in offsets.items():
        cache.add(version, bundle)
    key = cache.key(SCOPES)
    cache.deploy(1, 2, mode, 0.3, salt="pepper")
    route = Route(1, 2, mode, 0.3, "pepper")

    async def scenario() -> None:
        async with serving(cache, key) as served:
            seen = Counter[str]()
            for entity in [f"entity-{n}" for n in range(60)] * 2:
                body = await served.predict(entity=entity)
                choice = choose(route, entity)
                assert (body["version"], body["arm"]) == (choice.version, choice.arm)
                assert body["predictions"] == [answer(100 * choice.version, ROW)]
                seen[body["arm"]] += 1
            assert min(seen["champion"], seen["candidate"]) > 0

    run(scenario)


@pytest.mark.parametrize("mode", ["ab", "shadow"])
def test_a_candidate_that_fails_leaves_the_answer_to_the_champion(
    mode: str, cache: Cache, offsets: dict[int, Path], toy_bundle: Path
) -> None:
    """The caller gets the champion's answer under the champion's name; the failure is counted."""
    cache.add(1, offsets[1])
    cache.add(2, one_row_bundle(toy_bundle, cache.folder.parent / "broken"))
    key = cache.key(SCOPES)
    cache.deploy(1, 2, mode, 1.0)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            one = await served.predict([ROW])
            assert (one["version"], one["predictions"]) == ((2, [7.0]) if mode == "ab" else (1, [107.0]))
            two = await served.predict([ROW, ROW])
            assert (two["version"], two["arm"], two["predictions"]) == (1, "champion", [107.0, 107.0])
            samples = await metrics(served)
            reason = "candidate_failed" if mode == "ab" else "shadow_failed"
            assert samples["perene_rejected_total", (reason,)] == 1
            path = served.spool.path
        events = [e for e in stored_events(path) if isinstance(e, PredictionEvent)]
        assert [(e.version, e.arm) for e in events if e.id in two["prediction_ids"]] == [(1, "champion")] * 2

    run(scenario)


def test_a_candidate_with_its_columns_in_another_order_is_fed_in_its_own(
    cache: Cache, offsets: dict[int, Path], toy_bundle: Path
) -> None:
    """Same names and types, so the gate lets it pass; served by position it would answer nonsense."""
    turned = cache.folder.parent / "turned"
    shutil.copytree(toy_bundle, turned)
    contract = json.loads((turned / "contract.json").read_text())
    contract["columns"].reverse()
    (turned / "contract.json").write_text(json.dumps(contract))
    seal(turned)
    cache.add(1, offsets[1])
    cache.add(2, offset_bundle(turned, cache.folder.parent / "turned2", 200))
    key = cache.key(SCOPES)
    cache.deploy(1, 2, "ab", 1.0)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            body = await served.predict()
            assert (body["version"], body["predictions"]) == (2, [207.0])
            path = served.spool.path
        (event,) = [e for e in stored_events(path) if isinstance(e, PredictionEvent)]
        assert event.features == ["AA", True, 7, 1.5]

    run(scenario)


def test_a_new_champion_takes_over_and_a_revoked_key_stops(cache: Cache, offsets: dict[int, Path]) -> None:
    """Without a restart."""
    for version, bundle in offsets.items():
        cache.add(version, bundle)
    key, other = cache.key(SCOPES), cache.key(SCOPES)
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            assert (await served.predict())["predictions"] == [107.0]
            del cache.keys[1]
            cache.deploy(2)
            await served.serves(2)
            assert (await served.predict())["predictions"] == [207.0]
            assert (await served.client.post("/predict", json=ROW, headers=bearer(other))).status_code == 401
            error = await refused(served, "/models/toy/versions/1/predict", b"{}", 404)
            assert error["expected"] == "2"
            loaded = [k[1] for (name, k) in await metrics(served) if name == "perene_model_loaded_info"]
            assert loaded == ["2"]

    run(scenario)


def _flip(folder: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(bytes(data))


def _not_onnx(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"\x80\x04pickle")
    seal(folder)


def _golden_of_another(folder: Path) -> None:
    folder.with_name(f"{folder.name}.golden.json").write_text('[{"unknown": 1}]')


def _golden_of_no_rows(folder: Path) -> None:
    folder.with_name(f"{folder.name}.golden.json").write_text("{}")


def _golden_of_numbers(folder: Path) -> None:
    folder.with_name(f"{folder.name}.golden.json").write_text("[1, 2]")


@pytest.mark.parametrize(
    "damage", [_flip, _not_onnx, _golden_of_another, _golden_of_no_rows, _golden_of_numbers, shutil.rmtree]
)
def test_a_damaged_new_bundle_leaves_the_old_one_serving(
    damage: Callable[[Path], None], cache: Cache, offsets: dict[int, Path]
) -> None:
    """And readyz says so; the next sound hand-over is taken."""
    cache.add(1, offsets[1])
    damage(cache.add(2, offsets[2]))
    cache.add(3, offsets[2])
    key = cache.key(SCOPES)
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            cache.deploy(2)

            async def told() -> bool:
                return bool((await served.client.get("/readyz?verbose")).json()["failures"])

            await served.until(told)
            reply = await served.client.get("/readyz?verbose")
            assert reply.status_code == 200
            (failure,) = reply.json()["failures"]
            assert (failure["model"], failure["version"]) == ("toy", 2)
            assert str(cache.folder) not in reply.text
            assert (await served.predict())["version"] == 1
            samples = await metrics(served)
            assert sum(n for (name, _), n in samples.items() if name == "perene_model_load_failures_total") == 1

            async def lags() -> bool:
                return (await metrics(served))["perene_alias_lag_seconds", ("toy",)] > 0

            await served.until(lags)
            cache.deploy(3)
            await served.serves(3)
            assert (await served.predict())["predictions"] == [207.0]
            assert (await metrics(served))["perene_alias_lag_seconds", ("toy",)] == 0

    run(scenario)


def test_what_the_puller_could_not_fetch_is_told_too(cache: Cache, offsets: dict[int, Path]) -> None:
    """Its failures come with the hand-over; a damaged hand-over is waited out."""
    cache.add(1, offsets[1])
    key = cache.key(SCOPES)
    cache.deploy(1, failures=[Failure("toy", 2, "bundle file model.onnx: its sha256 differs")])

    async def scenario() -> None:
        async with serving(cache, key) as served:
            told = (await served.client.get("/readyz?verbose")).json()["failures"]
            assert told == [{"model": "toy", "version": 2, "reason": "bundle file model.onnx: its sha256 differs"}]
            for damaged in (b"", b"{", b"\xff\xfe", b'{"revision": "x"}'):
                (cache.folder / "state.json").write_bytes(damaged)
                await asyncio.sleep(0.05)
                assert (await served.predict())["version"] == 1
            cache.add(2, offsets[2])
            cache.deploy(2)
            await served.serves(2)

    run(scenario)


def test_it_starts_cold_from_what_was_handed_over_last(cache: Cache, offsets: dict[int, Path]) -> None:
    """A second process needs nothing but the cache; a hand-over that points outside of it is refused."""
    from serving.state import Stored

    cache.add(1, offsets[1])
    key = cache.key(SCOPES)
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            assert (await served.predict())["version"] == 1
        cache.bundles["toy"]["2"] = Stored(str(offsets[2]), cache.bundles["toy"]["1"].digest)
        cache.deploy(1, 2, "ab", 1.0)
        async with serving(cache, key) as served:
            assert (await served.predict())["version"] == 1
            (failure,) = (await served.client.get("/readyz?verbose")).json()["failures"]
            assert "outside of the cache" in failure["reason"]

    run(scenario)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"} if secret else {}
