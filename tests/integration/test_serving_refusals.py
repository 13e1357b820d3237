"""Everything that is refused gets its documented status, small, without a value echoed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.serving_app import (
    ID,
    MAX_BODY,
    MAX_ROWS,
    SCOPES,
    SECRET,
    body_of_rows,
    label,
    metrics,
    refused,
    run,
)
from tests.integration.serving_toy import (
    ROW,
    Cache,
    answer,
    pole_bundle,
    serving,
    stored_events,
)


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
    ("400 digits", with_text('"hour": 7', f'"hour": {"9" * 400}'), 422),
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
    ("unprintable key", b'{"rows": 1, "\\u0007\\u0000": 1}', 422),
    ("key of half a pair", b'{"rows": 1, "\\ud800": 1}', 400),
    ("many unknown features", body_of_rows({f"{'x' * 500}{i}": SECRET for i in range(100)}), 422),
    ("entity of another type", body_of_rows(entity=[SECRET]), 422),
    ("no time", body_of_rows(at=SECRET), 422),
    ("time before time", body_of_rows(at="0001-01-01T00:00:00+23:59"), 422),
    ("time after time", body_of_rows(at="9999-12-31T23:59:59.999999-23:59"), 422),
    ("many bad rows", body_of_rows(*[{"carrier": 1}] * 500), 422),
    ("too many rows", body_of_rows(*[ROW] * (MAX_ROWS + 1)), 413),
    ("too long", body_of_rows(entity=SECRET * MAX_BODY), 413),
]  # fmt: skip


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
    ("half a pair", b'[{"prediction_id": "\\ud800", "label": 1}]', 400),
    ("cut utf-8", b'[{"prediction_id": "\xe2\x82", "label": 1}]', 400),
    ("byte order mark", b'\xef\xbb\xbf[{"prediction_id": "x", "label": 1}]', 400),
    ("utf-16", '[{"prediction_id": "x", "label": 1}]'.encode("utf-16"), 400),
    ("twice", f'[{{"prediction_id": "{ID}", "label": 1, "label": 2}}]'.encode(), 400),
    ("deep", b"[" * 30_000, 400),
    ("too many", json.dumps([{"prediction_id": ID, "label": 1}] * (MAX_ROWS + 1)).encode(), 413),
]


REJECTED: list[tuple[str, bytes]] = [
    ("not an id", json.dumps([{"prediction_id": SECRET[:4], "label": 1}]).encode()),
    ("unprintable id", b'[{"prediction_id": "\\u0007", "label": 1}]'),
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


def test_each_label_of_a_list_has_its_own_result(every: tuple[Cache, str]) -> None:
    """In order, good among bad; a class is taken by value and type; sent twice, a label has the same result twice."""
    cache, key = every
    other = ID.replace("c0de", "beef")

    async def scenario() -> None:
        async with serving(cache, key) as served:

            async def results(model: str, *items: dict[str, Any]) -> list[str]:
                reply = await served.client.post(f"/models/{model}/feedback", json=list(items))
                assert reply.status_code == 200
                found = reply.json()["results"]
                assert [result["prediction_id"] for result in found] == [item["prediction_id"] for item in items]
                assert SECRET not in reply.text
                return [result["status"] for result in found]

            for model, good, bad in (
                ("words", ["low", "high"], ["LOW", SECRET, 0, True, None, 1.5]),
                ("whole", [0, 2], [3, -1, "0", True, False, 0.5, None]),
                ("truth", [True, False], [1, 0, "true", None, 0.0]),
                ("regression", [1, -1.5, 0, 2**53 + 1], ["1", True, None, [1], {}, SECRET]),
            ):
                items = [{"prediction_id": ID, "label": label} for label in (*good, *bad)]
                expected = ["accepted"] * len(good) + ["rejected"] * len(bad)
                assert await results(model, *items) == expected, model
            mixed: list[dict[str, Any]] = [{"prediction_id": ID, "label": 1}, {"prediction_id": other, "label": SECRET}]
            once = await results("regression", *mixed, {"prediction_id": "nobody's", "label": 1}, *mixed[:1])
            assert once == ["accepted", "rejected", "rejected", "accepted"]
            assert await results("regression", *mixed) == once[:2]
            # nothing says yet whether the prediction exists: that is found when the two are joined
            assert await results("regression", {"prediction_id": other, "label": 1}) == ["accepted"]

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
