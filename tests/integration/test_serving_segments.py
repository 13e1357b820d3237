"""Segments and several candidates: who answers, what is logged, and what happens when a version is missing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from monitoring.intake.events import PredictionEvent
from registry.routing import Routing, Segment, Share, When
from serving.routing import Route, choose
from serving.state import Deployed
from tests.integration.dialect_models import CONTRACTS, rows_of
from tests.integration.serving_app import SCOPES, metrics, run
from tests.integration.serving_toy import ROW, Cache, Served, offset_bundle, one_row_bundle, serving, stored_events
from tests.integration.test_dialects_grpc import infer_request, talking

GOLD = Segment(When(header="x-tenant", values=("gold", "sölid")), 3)
AIR = Segment(When(column="carrier", values=("UA", "B6")), 2)
LATE = Segment(When(column="hour", values=(23,)), 3)


@pytest.fixture
def three(cache: Cache, offsets: dict[int, Path], toy_bundle: Path) -> Cache:
    """Versions 1 to 3 answer `hour + 100` times their number."""
    for version, bundle in offsets.items():
        cache.add(version, bundle)
    cache.add(3, offset_bundle(toy_bundle, cache.folder.parent / "third", 300.0))
    return cache


def deploy(cache: Cache, routing: Routing, candidate: int | None = None, mode: str | None = None) -> None:
    """Champion 1, with a routing; a candidate has what the first arm has, or a half."""
    weight = routing.arms[0].weight if routing.arms else 0.5
    cache.deploy(1, candidate, mode, weight if candidate else 0.0, routing=routing)


async def ask(served: Served, rows: list[dict[str, Any]], entity: str = "e", **headers: str) -> tuple[int, str]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    reply = await served.client.post("/predict", json={"rows": rows, "entity": entity}, headers=sent)
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert body["predictions"] == [row["hour"] + 100.0 * body["version"] for row in rows]
    assert reply.headers["x-model-version"] == str(body["version"])
    return body["version"], body["arm"]


def test_a_segment_is_answered_by_its_version(three: Cache) -> None:
    """By header before column, by the first rule that fits; everybody else is drawn as ever; pins beat segments."""
    deploy(three, Routing(segments=(GOLD, AIR, LATE)), 2, "ab")
    united = {**ROW, "carrier": "UA"}
    route = Route(1, 2, "ab", 0.5, "salt")

    async def scenario() -> Path:
        async with serving(three, auth=False) as served:
            assert await ask(served, [ROW], x_tenant="gold") == (3, "segment")
            assert await ask(served, [united], x_tenant="gold") == (3, "segment")
            assert await ask(served, [united]) == (2, "segment")
            assert await ask(served, [{**united, "hour": 23}]) == (2, "segment")
            assert await ask(served, [{**ROW, "hour": 23}]) == (3, "segment")
            for n in range(20):
                drawn = choose(route, f"e{n}")
                assert await ask(served, [ROW], f"e{n}", x_tenant="Gold") == (drawn.version, drawn.arm)
            pinned = await served.predict([united], path="/models/toy/versions/1/predict")
            assert (pinned["version"], pinned["arm"]) == (1, "pinned")
            return served.spool.path

    told: list[Path] = []

    async def once() -> None:
        told.append(await scenario())

    run(once)
    events = [e for e in stored_events(told[0]) if isinstance(e, PredictionEvent)]
    seen = Counter((e.arm, e.deployment, e.assigned != 0) for e in events)
    assert set(seen) == {
        ("segment", 1, False),
        ("champion", 1, True),
        ("candidate", 1, True),
        ("pinned", 0, False),
    }


def test_rows_of_several_segments_are_the_champions(three: Cache) -> None:
    """One version answers a request; it is in no trial, and the rows of one segment alone go where they belong."""
    deploy(three, Routing(segments=(AIR,)), 2, "ab")
    united = {**ROW, "carrier": "UA"}

    async def scenario() -> None:
        async with serving(three, auth=False) as served:
            assert await ask(served, [united, ROW]) == (1, "segment")
            assert await ask(served, [united, {**united, "carrier": "B6"}]) == (2, "segment")
            table = pa.table({name: [row[name] for row in [united] * 300] for name in ROW})
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            headers = {"content-type": "application/vnd.apache.arrow.stream", "accept": "application/json"}
            reply = await served.client.post(
                "/models/toy/predict", content=sink.getvalue().to_pybytes(), headers=headers
            )
            assert reply.status_code == 200, reply.text
            assert reply.headers["x-model-version"] == "2"

    run(scenario)


@pytest.mark.parametrize(
    "headers",
    [
        [("x-tenant", "gold"), ("x-tenant", "gold")],
        [("x-tenant", "gold ' OR 1")],
        [("x-tenant", "go" * 4_000)],
        [("x-tenant", "")],
        [("x-tenant", ".*")],
        [("x-tenant", "gold,silver")],
    ],
    ids=["twice", "quoted", "long", "empty", "a pattern", "a list"],
)
def test_strange_values_of_a_header_tell_nothing(three: Cache, headers: list[tuple[str, str]]) -> None:
    """They are compared as they are: the champion answers."""
    deploy(three, Routing(segments=(GOLD,)))

    async def scenario() -> None:
        async with serving(three, auth=False) as served:
            reply = await served.client.post("/predict", json={"rows": [ROW]}, headers=headers)
            assert (reply.status_code, reply.json()["version"], reply.json()["arm"]) == (200, 1, "champion")

    run(scenario)


def test_true_is_not_one(three: Cache) -> None:
    """A rule for the whole number 1 leaves booleans alone, and one for an unknown column everybody."""
    rules = (Segment(When(column="late", values=(1,)), 2), Segment(When(column="nowhere", values=(1,)), 2))
    deploy(three, Routing(segments=(*rules, Segment(When(column="late", values=(True,)), 3))))

    async def scenario() -> None:
        async with serving(three, auth=False) as served:
            assert await ask(served, [{**ROW, "late": True}]) == (3, "segment")
            assert await ask(served, [{**ROW, "late": False}]) == (1, "champion")

    run(scenario)


def test_a_segment_whose_version_is_missing_or_fails_is_the_champions(three: Cache, toy_bundle: Path) -> None:
    """Counted; and it stays out of trials."""
    broken = one_row_bundle(toy_bundle, three.folder.parent / "broken")
    three.add(4, broken)
    missing = Segment(When(header="x-tenant", values=("lost",)), 9)
    fails = Segment(When(header="x-tenant", values=("broken",)), 4)
    deploy(three, Routing(segments=(missing, fails)), 2, "ab")

    async def scenario() -> None:
        async with serving(three, auth=False) as served:
            assert await ask(served, [ROW], x_tenant="lost") == (1, "segment")
            assert await ask(served, [ROW, ROW], x_tenant="broken") == (1, "segment")
            found = await metrics(served)
            assert found["perene_fallbacks_total", ("toy", "segment")] == 2
            assert found["perene_rejected_total", ("segment_failed",)] == 1
            assert found["perene_rejected_total", ("candidate_failed",)] == 0
            (failure,) = (await served.client.get("/readyz?verbose")).json()["failures"]
            assert failure["version"] == 9

    run(scenario)


def test_several_candidates_share_as_their_weights_say(three: Cache) -> None:
    """Each entity where the pure function puts it, and the event says what was drawn."""
    arms = (Share(2, 0.3), Share(3, 0.4))
    deploy(three, Routing(arms=arms), 2, "ab")
    route = Route(1, 2, "ab", 0.3, "salt", arms)

    async def scenario() -> None:
        async with serving(three, auth=False) as served:
            seen: Counter[int] = Counter()
            for n in range(100):
                drawn = choose(route, f"e{n}")
                assert await ask(served, [ROW], f"e{n}") == (drawn.version, drawn.arm)
                assert drawn.assigned == drawn.version
                seen[drawn.version] += 1
            assert min(seen[v] for v in (1, 2, 3)) > 10

    run(scenario)


def test_a_trial_with_a_candidate_missing_is_left_out_and_says_so(three: Cache) -> None:
    """A replica that cannot load one arm answers as champion, and its events are of no deployment."""
    deploy(three, Routing(arms=(Share(2, 0.3), Share(9, 0.4))), 2, "ab")

    async def scenario() -> None:
        async with serving(three, auth=False) as served:
            for n in range(20):
                assert await ask(served, [ROW], f"e{n}") == (1, "champion")
            assert (await metrics(served))["perene_fallbacks_total", ("toy", "candidate")] == 1
            path.append(served.spool.path)

    path: list[Path] = []
    run(scenario)
    events = [e for e in stored_events(path[0]) if isinstance(e, PredictionEvent)]
    assert {(e.deployment, e.assigned) for e in events} == {(0, 0)}


def test_segments_are_told_over_grpc_and_by_waiting_predictions(three: Cache) -> None:
    """By metadata; and a header that tells a segment is kept until the answer."""
    deploy(three, Routing(segments=(GOLD,)))
    key = three.key(SCOPES)
    three.write()

    async def scenario() -> None:
        async with serving(three, key) as served:
            headers = {"prefer": "respond-async", "x-tenant": "gold"}
            reply = await served.client.post("/models/toy/predict", json={"rows": [ROW]}, headers=headers)
            assert reply.status_code == 202, reply.text

            async def done() -> bool:
                told = (await served.client.get(reply.headers["location"])).json()
                assert told["state"] in ("queued", "running", "done"), told
                answers.append(told)
                return bool(told["state"] == "done")

            answers: list[Any] = []
            await served.until(done)
            assert '"version": 3' in json.dumps(answers[-1]) or '"segment"' in json.dumps(answers[-1])

    run(scenario)


def test_a_call_over_grpc_says_its_segment_in_metadata(every: tuple[Cache, str]) -> None:
    """The same rules as over HTTP."""
    cache, key = every
    name = sorted(CONTRACTS)[0]
    cache.bundles[name]["2"] = cache.bundles[name]["1"]
    routing = Routing(segments=(Segment(When(header="x-tenant", values=("gold",)), 2),))
    cache.deployments[name] = Deployed(99, 1, routing=routing)
    cache.write()

    async def scenario() -> None:
        async with talking(cache, key) as (_, client):
            sent = infer_request(name, rows_of(CONTRACTS[name], 2), raw=False).SerializeToString()
            for tenant, version, arm in (("gold", "2", "segment"), ("lead", "1", "champion")):
                answer = await client.send("ModelInfer", sent, x_tenant=tenant)
                assert (answer.model_version, answer.parameters["arm"].string_param) == (version, arm)

    run(scenario)
