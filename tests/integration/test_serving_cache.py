"""Answers kept for single rows: the same answers, still logged and counted, and never another version's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from monitoring.alerting.metrics import ServeMetrics
from monitoring.intake.events import PredictionEvent
from registry.bundle import read_bundle
from serving.decode import Decoder
from serving.engine import Answer
from serving.loaded.cache import AnswerCache, row_key
from tests.integration.serving_app import SCOPES, metrics, refused, run
from tests.integration.serving_toy import ROW, Cache, Served, answer, pole_bundle, serving, stored_events


@pytest.fixture
def deployed(cache: Cache, offsets: dict[int, Path]) -> tuple[Cache, str]:
    for version, bundle in offsets.items():
        cache.add(version, bundle)
    key = cache.key(SCOPES)
    cache.deploy(1)
    return cache, key


async def looked_up(served: Served) -> tuple[float, float]:
    """Hits and misses so far."""
    samples = await metrics(served)
    return tuple(samples.get(("perene_response_cache_total", ("toy", r)), 0.0) for r in ("hit", "miss"))  # type: ignore[return-value]


def test_it_is_off_unless_asked_for(deployed: tuple[Cache, str]) -> None:
    """Nothing is looked for."""
    cache, key = deployed

    async def scenario() -> None:
        async with serving(cache, key) as served:
            for _ in range(3):
                await served.predict()
            assert await looked_up(served) == (0, 0)

    run(scenario)


def test_a_row_that_came_before_is_answered_from_memory_and_logged_anew(deployed: tuple[Cache, str]) -> None:
    """Equal answers, new ids, an event for each; rows written differently are one row."""
    cache, key = deployed

    async def scenario() -> None:
        async with serving(cache, key, cache_rows=10) as served:
            bodies = [await served.predict() for _ in range(3)]
            bodies.append(await served.predict([{**ROW, "hour": 7.0}], entity="somebody"))
            assert [b["predictions"] for b in bodies] == [[answer(100.0, ROW)]] * 4
            assert len({b["prediction_ids"][0] for b in bodies}) == 4
            assert await looked_up(served) == (3, 1)
            assert (await served.predict([{**ROW, "hour": 8}]))["predictions"] == [108.0]
            assert await looked_up(served) == (3, 2)
            path = served.spool.path
        events = [e for e in stored_events(path) if isinstance(e, PredictionEvent)]
        assert [e.prediction for e in events] == [107.0] * 4 + [108.0]
        assert [e.features for e in events] == [[1.5, 7, True, "AA"]] * 4 + [[1.5, 8, True, "AA"]]

    run(scenario)


def test_several_rows_are_not_looked_for(deployed: tuple[Cache, str]) -> None:
    """Batches go to the engine."""
    cache, key = deployed

    async def scenario() -> None:
        async with serving(cache, key, cache_rows=10) as served:
            for _ in range(2):
                await served.predict([ROW, ROW])
            assert await looked_up(served) == (0, 0)

    run(scenario)


async def confused(served: Served) -> int:
    """How many of 40 entities, on both arms, get an answer that is not of the version it names."""
    bodies = [await served.predict(entity=f"e{n}") for n in range(40)]
    assert {body["arm"] for body in bodies} == {"champion", "candidate"}
    return sum(body["predictions"] != [answer(100.0 * body["version"], ROW)] for body in bodies)


def test_control_a_cache_that_versions_share_is_caught(
    deployed: tuple[Cache, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build with the fault: one cache for all versions. The check below sees it."""
    cache, key = deployed
    cache.deploy(1, 2, "ab", 0.5)
    one = AnswerCache(10, ServeMetrics(CollectorRegistry()).response_cache_total, "toy")
    monkeypatch.setattr("serving.loaded.models.AnswerCache", lambda *_: one)

    async def scenario() -> None:
        async with serving(cache, key, cache_rows=10) as served:
            assert await confused(served) > 0

    run(scenario)


def test_each_version_answers_for_itself(deployed: tuple[Cache, str]) -> None:
    """Pinned versions, both arms of a trial and a swap: the answer is always that of the version it names."""
    cache, key = deployed
    cache.deploy(1, 2, "ab", 0.5)

    async def scenario() -> None:
        async with serving(cache, key, cache_rows=10) as served:
            assert await confused(served) == 0
            assert await looked_up(served) == (38, 2)
            for version in (1, 2):
                body = await served.predict(path=f"/models/toy/versions/{version}/predict")
                assert body["predictions"] == [answer(100.0 * version, ROW)]
            cache.deploy(2)
            await served.serves(2)
            while (body := await served.predict())["version"] != 2:
                pass
            assert body["predictions"] == [answer(200.0, ROW)]

    run(scenario)


def test_a_failure_is_not_kept(cache: Cache, toy_bundle: Path, tmp_path: Path) -> None:
    """A row whose answer is not finite is refused each time, and asked of the engine each time."""
    cache.add(1, pole_bundle(toy_bundle, tmp_path / "pole"))
    key = cache.key(SCOPES)
    cache.deploy(1)
    content = json.dumps({"rows": [{**ROW, "hour": 13}]}).encode()

    async def scenario() -> None:
        async with serving(cache, key, cache_rows=10) as served:
            for _ in range(2):
                error = await refused(served, "/predict", content, 500)
                assert error["code"] == "output_not_finite"
            assert await looked_up(served) == (0, 2)

    run(scenario)


def test_the_one_not_asked_longest_makes_room() -> None:
    """A bound is a bound."""
    kept = AnswerCache(2, ServeMetrics(CollectorRegistry()).response_cache_total, "toy")
    for name in (b"a", b"b"):
        kept.put(name, Answer([name.decode()]))
    assert kept.get(b"a") is not None
    kept.put(b"c", Answer(["c"]))
    assert kept.get(b"b") is None
    assert kept.get(b"a") == Answer(["a"])
    assert len(kept) == 2


def test_rows_that_differ_in_any_bit_have_different_keys(toy_bundle: Path) -> None:
    """What the graph could tell apart must not be one key: signs of zero, nulls, and where one text ends."""
    numbers = {"numbers": np.array([[0.0, 1.0]], dtype=np.float32)}
    signed = {"numbers": np.array([[-0.0, 1.0]], dtype=np.float32)}
    null = {"numbers": np.array([[np.nan, 1.0]], dtype=np.float32)}
    texts = [
        {"strings": np.array([list(pair)], dtype=object)}
        for pair in (("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"))
    ]
    keys = {row_key(row) for row in (numbers, signed, null, *texts)}
    assert len(keys) == 7
    decoder = Decoder(read_bundle(toy_bundle).contract, max_rows=1)
    row = tuple(ROW[name] for name in decoder.contract.names)
    assert row_key(decoder.pack([row])) == row_key(decoder.pack([row]))
