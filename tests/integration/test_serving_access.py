"""Who may do what: every route by every key, and no way around."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Route

from tests.integration.serving_app import (
    SCOPES,
    bearer,
    run,
)
from tests.integration.serving_toy import (
    ROW,
    Cache,
    offset_bundle,
    serving,
    stored_events,
)

ROUTES: dict[str, str | dict[str, str] | None] = {
    "/predict": "predict",
    "/models/{model}/predict": "predict",
    "/models/{model}/versions/{version}/predict": "predict",
    "/models/{model}/batch": "predict",
    "/models/{model}/explain": "predict",
    "/models/{model}/batch/{job}": "predict",
    "/models/{model}/batch/{job}/result": "predict",
    "/jobs": "predict",
    "/jobs/{job}": "predict",
    "/feedback": "feedback",
    "/models/{model}/feedback": "feedback",
    "/models/{model}/experiments": {"GET": "read", "POST": "promote"},
    "/models/{model}/experiments/{id}": "read",
    "/models/{model}/experiments/{id}/approve": "promote",
    "/models/{model}/experiments/{id}/abort": "promote",
    "/hooks/alertmanager": "alert",
    "/hooks/retrain/{run}": "signed",
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
    "/v2": "read",
    "/v2/health/live": None,
    "/v2/health/ready": None,
    "/v2/models/{model}": "read",
    "/v2/models/{model}/ready": "read",
    "/v2/models/{model}/infer": "predict",
    "/v2/models/{model}/versions/{version}": "read",
    "/v2/models/{model}/versions/{version}/ready": "read",
    "/v2/models/{model}/versions/{version}/infer": "predict",
    "/v2/repository/index": "read",
    "/v2/repository/models/{model}/load": "admin",
    "/v2/repository/models/{model}/unload": "admin",
    "/v1/models": "read",
    "/v1/models/{model}": "read",
    "/v1/models/{model}:predict": "predict",
    "/v1/models/{model}/versions/{version}": "read",
    "/v1/models/{model}/versions/{version}:predict": "predict",
    "/v1/models/{model}/labels/{alias}": "read",
    "/v1/models/{model}/labels/{alias}:predict": "predict",
    "/invocations": "predict",
    "/ping": None,
    "/health": None,
    "/version": None,
}
INFER = {
    "inputs": [
        {"name": "temp", "datatype": "FP64", "shape": [1], "data": [ROW["temp"]]},
        {"name": "hour", "datatype": "INT64", "shape": [1], "data": [ROW["hour"]]},
        {"name": "late", "datatype": "BOOL", "shape": [1], "data": [ROW["late"]]},
        {"name": "carrier", "datatype": "BYTES", "shape": [1], "data": [ROW["carrier"]]},
    ]
}
BODIES: dict[str, Any] = {
    "/infer": INFER,
    ":predict": {"instances": [ROW]},
    "/invocations": {"dataframe_records": [ROW]},
    "feedback": [{"prediction_id": "0198c0de-0000-7000-8000-000000000000", "label": 1.0, "model": "toy"}],
}
"""Bodies by the last part of the paths that take them; the others take a row."""


ALLOWED = {
    "{job}": 404,
    "/result": 404,
    "/batch": 400,
    "/experiments/{id}": 404,
    "/approve": 400,
    "/abort": 400,
    "/alertmanager": 400,
}
"""What whoever may is answered where that is not 200, by the last part of the path: there is no such job or file."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")


def scope_of(path: str, method: str) -> str | None:
    """The scope that a method of a route asks for."""
    found = ROUTES[path]
    return found.get("GET" if method == "HEAD" else method) if isinstance(found, dict) else found


def methods_of(app: FastAPI) -> dict[str, set[str]]:
    """What the application answers, by path; no two routes answer the same."""
    found: dict[str, set[str]] = {}
    for route in app.routes:
        assert isinstance(route, Route)
        methods = found.setdefault(route.path.replace(":word}", "}"), set())
        assert not methods & set(route.methods or ())
        methods |= set(route.methods or ())
    return found


def _wanted(path: str, method: str, methods: set[str], scopes: set[str], models: set[str], name: str) -> int:
    """The status that a key of these scopes and models is answered on a route."""
    if method not in methods:
        return 405
    scope = scope_of(path, method)
    if scope is None:
        return 200
    if name in ("none", "wrong") or scope == "signed":  # no key is a signature
        return 401
    if scope == "admin":
        return 403  # whoever asks: what is served is what the ledger says
    about_toy = "{model}" in path or path in ("/predict", "/invocations")
    if scope not in scopes or (models and about_toy and "toy" not in models):
        return 403
    if path.endswith("/experiments"):  # the ledger of these tests has no deployment, and a row is no request
        return 400 if method == "POST" else 404
    return next((status for end, status in ALLOWED.items() if path.endswith(end)), 200)


def test_every_route_asks_for_its_scope(cache: Cache, offsets: dict[int, Path], toy_bundle: Path) -> None:
    """Generated from the application's own routes: nothing unlisted, nothing more permissive."""
    cache.add(1, offsets[1])
    cache.add(1, offset_bundle(toy_bundle, cache.folder.parent / "other", 5, model="other"), model="other")
    all_three = {"predict", "feedback", "read"}
    administration = {"register", "promote", "admin", "erase", "alert"}
    keys: dict[str, tuple[str, set[str], set[str]]] = {
        "none": ("", set(), set()),
        "wrong": ("prn_00000000_" + "x" * 43, set(), set()),
        **{scope: (cache.key({scope}), {scope}, set()) for scope in sorted(all_three)},
        "this model": (cache.key(all_three, {"toy"}), all_three, {"toy"}),
        "another model": (cache.key(all_three, {"other"}), all_three, {"other"}),
        "admin": (cache.key(administration), administration, set()),
    }
    cache.deploy(1, model="other")
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, default_model="toy") as served:
            found = methods_of(served.app)
            assert set(found) == set(ROUTES)
            tried = Counter[int]()
            for path, methods in found.items():
                for method in METHODS:
                    for name, (secret, scopes, models) in keys.items():
                        sent = next((body for end, body in BODIES.items() if path.endswith(end)), ROW)
                        body = sent if method == "POST" else None
                        for headers in (bearer(secret), {"x-api-key": secret}):
                            target = path.format(model="toy", version=1, alias="champion", job="0", id="0", run="0")
                            reply = await served.client.request(method, target, headers=headers, json=body)
                            expected = _wanted(path, method, methods, scopes, models, name)
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
