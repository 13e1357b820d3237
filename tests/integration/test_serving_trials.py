"""Shadow, A/B, hot swap and damaged versions."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from monitoring.intake.events import PredictionEvent
from registry.bundle import seal
from serving.routing import Route, choose
from serving.state import Failure
from tests.integration.serving_app import (
    SCOPES,
    bearer,
    metrics,
    refused,
    run,
)
from tests.integration.serving_toy import (
    ROW,
    Cache,
    Served,
    answer,
    offset_bundle,
    one_row_bundle,
    serving,
    stored_events,
)


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
            arm = "fallback" if mode == "ab" else "champion"
            assert (two["version"], two["arm"], two["predictions"]) == (1, arm, [107.0, 107.0])
            samples = await metrics(served)
            reason = "candidate_failed" if mode == "ab" else "shadow_failed"
            assert samples["perene_rejected_total", (reason,)] == 1
            path = served.spool.path
        events = [e for e in stored_events(path) if isinstance(e, PredictionEvent) and e.id in two["prediction_ids"]]
        told = sorted((e.version, e.arm, e.prediction, e.deployment, e.assigned) for e in events)
        if mode == "ab":
            assert told == [(1, "fallback", 107.0, 1, 2)] * 2
        else:  # that it failed is to be seen in the lake, too
            assert told == [(1, "champion", 107.0, 1, 0)] * 2 + [(2, "shadow", None, 1, 0)] * 2

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


async def told(served: Served) -> bool:
    """Whether readyz says that something did not load."""
    return bool((await served.client.get("/readyz?verbose")).json()["failures"])


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

            await served.until(partial(told, served))
            reply = await served.client.get("/readyz?verbose")
            assert reply.status_code == 200
            (failure,) = reply.json()["failures"]
            assert (failure["model"], failure["version"]) == ("toy", 2)
            assert str(cache.folder) not in reply.text
            assert (await served.predict())["version"] == 1
            samples = await metrics(served)
            assert sum(n for (name, _), n in samples.items() if name == "perene_model_load_failures_total") >= 1

            async def lags() -> bool:
                return (await metrics(served))["perene_alias_lag_seconds", ("toy",)] > 0

            await served.until(lags)
            cache.deploy(3)
            await served.serves(3)
            assert (await served.predict())["predictions"] == [207.0]
            assert (await metrics(served))["perene_alias_lag_seconds", ("toy",)] == 0

    run(scenario)


def test_what_did_not_load_is_tried_again(
    cache: Cache, offsets: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is handed over meanwhile: a process that was short of something must not stay behind for good."""
    cache.add(1, offsets[1])
    graph = next(cache.add(2, offsets[2]).glob("*.onnx"))
    whole = graph.read_bytes()
    graph.write_bytes(b"")
    monkeypatch.setattr("serving.service.AGAIN_S", 0.05)
    key = cache.key(SCOPES)
    cache.deploy(1)

    async def scenario() -> None:
        async with serving(cache, key) as served:
            cache.deploy(2)

            await served.until(partial(told, served))
            assert (await served.predict())["version"] == 1
            graph.write_bytes(whole)
            await served.serves(2)
            assert not await told(served)
            assert (await served.predict())["version"] == 2

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
