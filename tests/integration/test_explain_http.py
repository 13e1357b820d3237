"""`POST /models/{model}/explain`: of rows and of recorded predictions."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from monitoring.intake.shipper import ship_once
from monitoring.lake.lake import Lake
from registry.bundle import seal
from serving.explanations import desk
from serving.explanations.desk import Explanations
from serving.settings import ExplainSettings
from tests.conftest import Toy
from tests.integration.serving_app import bearer, run
from tests.integration.serving_toy import ROW, Cache, Served, offset_bundle, pole_bundle, serving

PATH = "/models/toy/explain"
UNKNOWN = "0198c0de-0000-7000-8000-000000000000"
NEVER = "ffffffff-ffff-7fff-bfff-ffffffffffff"
"""An id of the year 10889."""


def desk_of(served: Served) -> Explanations:
    found: Explanations = served.app.state.service.explanations
    return found


def running(served: Served) -> bool:
    """Whether there is a child."""
    return desk_of(served).process.pid is not None


async def stored(served: Served) -> None:
    """Wait until what was predicted is on disk, where the child looks for it."""
    await asyncio.wrap_future(served.spool.append_durable([]))


async def explain(served: Served, body: Any, path: str = PATH, **headers: str) -> list[dict[str, Any]]:
    """Explanations that must be given."""
    reply = await served.client.post(path, json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = reply.json()["explanations"]
    return found


def require_sum(one: dict[str, Any]) -> None:
    assert one["base"] + sum(one["attributions"].values()) == pytest.approx(one["value"], rel=1e-4, abs=1e-4)


def policied(bundle: Path, column: str, policy: str) -> Path:
    """The same bundle with another policy of a column."""
    contract = json.loads((bundle / "contract.json").read_text())
    next(c for c in contract["columns"] if c["name"] == column)["policy"] = policy
    (bundle / "contract.json").write_text(json.dumps(contract))
    seal(bundle)
    return bundle


@pytest.fixture
def toy(cache: Cache, toy_bundle: Path) -> str:
    """A model of trees behind an encoder, deployed; returns a key that may predict and read."""
    cache.add(1, toy_bundle)
    key = cache.key({"predict", "read"})
    cache.deploy(1)
    return key


def test_rows_are_explained_column_by_column(cache: Cache, toy: str, regression: Toy) -> None:
    """Attributions by the names of the contract add up to the prediction; null is a value, too."""
    rows = [ROW, {**ROW, "temp": None}, {**ROW, "carrier": "never seen"}]

    async def scenario() -> None:
        async with serving(cache, toy) as served:
            found = await explain(served, {"rows": rows})
            predicted = (await served.predict(rows))["predictions"]
            for one, answer in zip(found, predicted, strict=True):
                assert (one["method"], one["output"], one["of"], one["version"]) == ("tree", "prediction", None, 1)
                assert list(one["attributions"]) == ["temp", "hour", "late", "carrier"]
                assert one["value"] == pytest.approx(answer, rel=1e-4)
                assert one["background_rows"] == 64
                require_sum(one)
            exact = await explain(served, ROW, f"{PATH}?method=permutation")
            assert exact[0]["method"] == "exact"
            assert exact[0]["attributions"] == pytest.approx(found[0]["attributions"], abs=1e-3)

    run(scenario)


def test_recorded_predictions_are_explained_wherever_the_log_has_them(cache: Cache, toy: str) -> None:
    """In the spool, then in the lake; by id, as the rows themselves are; an unknown id costs the others nothing."""

    async def scenario() -> None:
        async with serving(cache, toy) as served:
            rows = [ROW, {**ROW, "temp": None, "hour": 3}]
            ids = (await served.predict(rows))["prediction_ids"]
            by_rows = await explain(served, {"rows": rows})
            await stored(served)
            asked = [ids[1], UNKNOWN, ids[0], "no id", ids[1], NEVER]
            waiting = await explain(served, {"prediction_ids": asked})
            assert [one.get("prediction_id") for one in waiting] == asked
            assert [one["error"]["code"] for one in waiting if "error" in one] == ["prediction_unknown"] * 3
            for one, other in ((waiting[2], by_rows[0]), (waiting[0], by_rows[1]), (waiting[4], by_rows[1])):
                assert {**one, "prediction_id": None} == {**other, "prediction_id": None}
            later = (await served.predict([ROW]))["prediction_ids"]
            path = served.spool.path
        home = cache.folder.parent
        ship_once(home / "spool", Lake(home / "events"), min_rows=1, max_age_s=0.0, now=time.time() + 1)
        assert not path.exists()
        (home / "spool" / "z.spool").write_bytes(b"not a database" * 100)  # a stranger's file costs nobody an answer
        async with serving(cache, toy) as served:
            shipped = await explain(served, {"prediction_ids": [*ids, *later]})
            assert [one["attributions"] for one in shipped] == [
                *(one["attributions"] for one in by_rows),
                by_rows[0]["attributions"],
            ]

    run(scenario)


def test_an_explanation_of_an_id_is_kept(cache: Cache, toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked again it is answered without the child, for ten minutes, by version and method."""

    async def scenario() -> None:
        async with serving(cache, toy) as served:
            (identifier,) = (await served.predict())["prediction_ids"]
            await stored(served)
            body = {"prediction_ids": [identifier]}
            first = await explain(served, body)
            process = desk_of(served).process
            process.end()
            assert await explain(served, body) == first
            assert not running(served)
            monkeypatch.setattr(desk, "KEPT_S", -1.0)
            asked = f"{PATH}?method=permutation"
            (other,) = await explain(served, body, asked)
            assert (other["method"], running(served)) == ("exact", True)
            process.end()
            # its ten minutes are over
            assert await explain(served, body, asked) == [other]
            assert running(served)

    run(scenario)


def test_the_version_that_answered_explains_unless_another_is_named(
    cache: Cache, toy_bundle: Path, offsets: dict[int, Path]
) -> None:
    """A recorded prediction goes with its version while that is served; `X-Model-Version` names another one."""
    cache.add(1, toy_bundle)
    cache.add(2, offsets[2])
    key, blind = cache.key({"predict", "read"}), cache.key({"predict"})
    cache.deploy(1, 2, "shadow")

    async def scenario() -> None:
        async with serving(cache, key) as served:
            (identifier,) = (await served.predict())["prediction_ids"]
            await stored(served)
            body = {"prediction_ids": [identifier]}
            assert (await explain(served, body))[0]["version"] == 1
            (other,) = await explain(served, body, **{"x-model-version": "2"})
            assert (other["version"], other["method"]) == (2, "exact")
            assert [n for n, v in other["attributions"].items() if v] == ["hour"]
            assert (await explain(served, {"rows": [ROW]}, **{"x-model-version": "2"}))[0]["version"] == 2
            refused = await served.client.post(PATH, json=body, headers={**bearer(blind), "x-model-version": "2"})
            assert refused.status_code in (401, 403)
            cache.deploy(2)
            await served.serves(2)

            async def gone() -> bool:
                return bool((await served.client.get("/readyz?verbose")).json()["models"]["toy"] == [2])

            await served.until(gone)
            (lost,) = await explain(served, body)
            assert "version 1" in lost["error"]["message"]
            assert "X-Model-Version" in lost["error"]["hint"]
            assert (await explain(served, body, **{"x-model-version": "2"}))[0] == other

    run(scenario)


def test_a_file_of_versions_that_differ_explains_as_the_rows_do(
    cache: Cache, toy: str, toy_bundle: Path, tmp_path: Path
) -> None:
    """The candidate hashes a number and a flag: beside its texts the champion's are text in the lake."""
    other = Path(shutil.copytree(toy_bundle, tmp_path / "hashing"))
    for column in ("temp", "late"):
        policied(other, column, "hash")
    cache.add(2, other)
    cache.deploy(1, 2, "ab", 0.5, salt="s")

    async def scenario() -> None:
        async with serving(cache, toy) as served:
            said = [await served.predict(entity=f"e{n}") for n in range(20)]
            by_rows = await explain(served, {"rows": [ROW]}, **{"X-Model-Version": "1"})
        home = cache.folder.parent
        ship_once(home / "spool", Lake(home / "events"), min_rows=1, max_age_s=0.0, now=time.time() + 1)
        [file] = Lake(home / "events").files("toy", "prediction")
        assert file.name.endswith("-v1-v2.parquet")
        ids = [one["prediction_ids"][0] for one in said if one["version"] == 1]
        async with serving(cache, toy) as served:
            for one in await explain(served, {"prediction_ids": ids}):
                assert one["attributions"] == by_rows[0]["attributions"]

    run(scenario)


@pytest.mark.parametrize("policy", ["hash", "drop"])
def test_what_the_log_does_not_keep_is_not_explained(
    cache: Cache, toy_bundle: Path, tmp_path: Path, policy: str
) -> None:
    """A clear refusal for ids; the rows themselves are explained as ever."""
    bundle = policied(Path(shutil.copytree(toy_bundle, tmp_path / "policied")), "carrier", policy)
    cache.add(1, bundle)
    key = cache.key({"predict"})
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            ids = (await served.predict())["prediction_ids"]
            reply = await served.client.post(PATH, json={"prediction_ids": ids})
            assert (reply.status_code, reply.json()["error"]["code"]) == (422, "not_explained")
            assert "'carrier'" in reply.json()["error"]["message"]
            require_sum((await explain(served, {"rows": [ROW]}))[0])

    run(scenario)


WRONG: dict[str, tuple[Any, int]] = {
    "nothing": (b"", 400),
    "no JSON": (b"{", 400),
    "no rows": ({"rows": []}, 422),
    "another row": ({"rows": [{"temp": 1.0}]}, 422),
    "no ids": ({"prediction_ids": []}, 422),
    "an id that is none": ({"prediction_ids": [7]}, 422),
    "an empty id": ({"prediction_ids": [""]}, 422),
    "a long id": ({"prediction_ids": ["x" * 65]}, 422),
    "ids that are none": ({"prediction_ids": "x"}, 422),
    "ids and rows": ({"prediction_ids": [UNKNOWN], "rows": [ROW]}, 422),
    "ids twice": (b'{"prediction_ids": ["a"], "prediction_ids": ["b"]}', 400),
    "too many ids": ({"prediction_ids": [UNKNOWN] * 3}, 413),
    "too many rows": ({"rows": [ROW] * 3}, 413),
    "not finite": (b'{"rows": [{"temp": 1e999, "hour": 1, "late": true, "carrier": "AA"}]}', 422),
    "nested": (b'{"prediction_ids": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", 400),
    "a surrogate": (b'{"prediction_ids": ["\\ud800"]}', 400),
}


def test_wrong_requests_are_refused_before_anything_is_started(cache: Cache, toy: str) -> None:
    """Bodies, parameters, media types, models: each with its status, and no child for any of them."""

    async def scenario() -> None:
        async with serving(cache, toy, explain=ExplainSettings(max_rows=2)) as served:
            for name, (body, status) in WRONG.items():
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                reply = await served.client.post(PATH, content=data, headers={"content-type": "application/json"})
                assert reply.status_code == status, (name, reply.text)
                assert len(reply.content) < 4_000
            for query in ("?method=shap", "?methods=auto", "?method=auto&method=permutation", "?method="):
                assert (await served.client.post(PATH + query, json=ROW)).status_code == 400
            text = {"content-type": "text/csv"}
            assert (await served.client.post(PATH, content=b"a\n1\n", headers=text)).status_code == 415
            assert (await served.client.post("/models/other/explain", json=ROW)).status_code == 404
            assert (await served.client.post(PATH, json=ROW, headers={"x-model-version": "7"})).status_code == 404
            assert desk_of(served).process.pid is None

    run(scenario)


def test_rows_count_against_the_limits_of_a_key(cache: Cache, toy: str) -> None:
    """As rows of predictions do."""
    from serving.settings import LimitSettings

    async def scenario() -> None:
        async with serving(cache, toy, limits=LimitSettings(rows_per_day=3)) as served:
            await explain(served, {"rows": [ROW] * 2})
            reply = await served.client.post(PATH, json={"rows": [ROW] * 2})
            assert (reply.status_code, reply.json()["error"]["code"]) == (429, "rate_limited")

    run(scenario)


def test_a_row_whose_mixes_have_no_answer_costs_only_itself(cache: Cache, toy_bundle: Path, tmp_path: Path) -> None:
    """The model has a pole that golden rows meet: an error for each row, and the server answers on."""
    cache.add(1, pole_bundle(toy_bundle, tmp_path / "pole"))
    key = cache.key({"predict"})
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            found = await explain(served, {"rows": [ROW, ROW]})
            assert [one["error"]["code"] for one in found] == ["not_explained"] * 2
            assert (await served.predict())["version"] == 1

    run(scenario)


def test_files_that_changed_since_they_were_handed_over_are_not_explained(cache: Cache, toy_bundle: Path) -> None:
    """What is explained is what serves: other bytes are an error of the server's, not an explanation."""
    folder = cache.add(1, toy_bundle)
    key = cache.key({"predict"})
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            golden = pd.read_parquet(folder / "golden.parquet")
            golden.head(3).to_parquet(folder / "golden.parquet", index=False)
            seal(folder)
            reply = await served.client.post(PATH, json=ROW)
            assert (reply.status_code, reply.json()["error"]["code"]) == (500, "bundle_corrupt")
            assert (await served.predict())["version"] == 1

    run(scenario)


def test_predictions_of_another_model_are_unknown(cache: Cache, toy_bundle: Path, tmp_path: Path) -> None:
    """A key for one model learns nothing of another one's predictions by their ids."""
    cache.add(1, toy_bundle)
    cache.add(1, offset_bundle(toy_bundle, tmp_path / "other", 5, model="other"), model="other")
    key, narrow = cache.key({"predict"}), cache.key({"predict"}, {"other"})
    cache.deploy(1, model="other")
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, key, default_model="toy") as served:
            (identifier,) = (await served.predict())["prediction_ids"]
            await stored(served)
            body = {"prediction_ids": [identifier]}
            (mine,) = await explain(served, body)
            assert "attributions" in mine
            refused = await served.client.post(PATH, json=body, headers={"x-api-key": narrow})
            assert refused.status_code == 403
            (other,) = await explain(served, body, "/models/other/explain", **{"x-api-key": narrow})
            assert other["error"]["code"] == "prediction_unknown"

    run(scenario)
