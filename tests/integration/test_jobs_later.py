"""`Prefer: respond-async`: accepted at once, answered once, tried again where that helps, given up in the end."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from monitoring.intake.events import PredictionEvent
from monitoring.intake.ids import uuid7
from monitoring.intake.pseudonyms import plain
from monitoring.intake.shipper import ship_once
from monitoring.lake.lake import Lake
from monitoring.lake.tombstones import Tombstone
from perene.cli import app
from serving.errors import JobUnknown
from serving.jobs.job import Failure, Job, ids_of
from serving.jobs.later import Answerer, Asked
from serving.jobs.queue import Queue, opened
from serving.jobs.store import Store
from serving.settings import JobSettings
from tests.integration.jobs_server import body, jobs
from tests.integration.serving_app import metrics, run
from tests.integration.serving_toy import ROW, Cache, pole_bundle, stored_events

LATER = {"prefer": "respond-async", "content-type": "application/json"}


@pytest.fixture
def key(cache: Cache, offsets: dict[int, Path]) -> str:
    cache.add(1, offsets[1])
    made = cache.key({"predict", "read"})
    cache.deploy(1)
    return made


@pytest.mark.parametrize("path", ["/predict", "/models/toy/predict"])
def test_a_prediction_that_can_wait_is_answered_and_logged_once(cache: Cache, key: str, path: str) -> None:
    """202 with its place; then the answer that the route gives, and one event with the id that was answered."""

    async def scenario() -> None:
        async with jobs(cache, key) as at:
            headers = {**LATER, "prefer": "handling=lenient, respond-async; wait=5"}
            reply = await at.served.client.post(path, content=body(ROW), headers=headers)
            assert reply.status_code == 202, reply.text
            assert reply.headers["preference-applied"] == "respond-async"
            place = reply.headers["location"]
            told = await at.ended(place)
            assert (told["state"], told["kind"], told["attempts"]) == ("done", "predict", 1)
            answer = told["answer"]
            assert (answer["predictions"], answer["arm"]) == ([ROW["hour"] + 100.0], "champion")
            assert answer["prediction_ids"] == ids_of(told["job"])(1)
            at_once = await at.served.client.post(path, content=body(ROW), headers={"content-type": "application/json"})
            assert at_once.json().keys() == answer.keys()
            assert (await at.served.client.get("/models/toy/batch/" + told["job"])).status_code == 404
            spool = at.served.spool.path

            async def counted() -> bool:
                found = await metrics(at.served)  # what ended is taken over apart from how many jobs there are
                names = ("perene_jobs", "perene_jobs_ended_total")
                return [found.get((name, ("predict", "done"))) for name in names] == [1, 1]

            await at.served.until(counted)
            found = await metrics(at.served)
            assert found["perene_job_attempts_total", ("predict",)] == 1
            assert at.queue.find(told["job"], key=None).asked == b""
            assert found["perene_jobs_ended_total", ("predict", "done")] == 1
        events = [event for event in stored_events(spool) if isinstance(event, PredictionEvent)]
        assert [event.id for event in events].count(answer["prediction_ids"][0]) == 1
        assert len(events) == 2
        assert {event.key for event in events} == {cache.keys[0].id}

    run(scenario)


def test_what_waited_while_its_subject_was_erased_does_not_reach_the_lake(cache: Cache, key: str) -> None:
    """Its events are of when it was handed in, whenever it is answered: the tombstone holds for them, too."""
    came = time.time() - 1_000
    home = cache.folder.parent
    lake = Lake(home / "events")
    whom = [("anna", came), ("anna", came + 20), ("bert", came)]

    async def scenario() -> None:
        async with jobs(cache, key) as at:
            for entity, when in whom:
                asked = msgspec.msgpack.encode(
                    Asked("/predict", {}, [("content-type", "application/json"), ("x-entity", entity)], "r", body(ROW))
                )
                queue = Queue(Store(at.run), JobSettings(), clock=lambda when=when: when)  # type: ignore[misc]
                job = Job(id=uuid7(), kind="predict", model="toy", version=0, key=cache.keys[0].id, asked=asked)
                queue.add(job)
                queue.store.close()
                assert (await at.ended(f"/jobs/{job.id}"))["state"] == "done"
            path = at.served.spool.path
            events = [event for event in stored_events(path) if isinstance(event, PredictionEvent)]
            assert [(event.at, event.received) for event in events] == [(when, when) for _, when in whom]
        lake.tombstones.add(Tombstone("toy", came + 10, [plain("anna")]))
        ship_once(home / "spool", lake, min_rows=1, max_age_s=-1.0, now=time.time())

    run(scenario)
    table = lake.read("toy", "prediction")
    left = zip(table.column("_entity").to_pylist(), table.column("_received").to_pylist(), strict=True)
    assert sorted((name, when.timestamp()) for name, when in left) == sorted(
        (plain(name), pytest.approx(when, abs=1e-3)) for name, when in whom[1:]
    )


def test_what_no_answer_can_mend_is_refused_at_once(cache: Cache, key: str) -> None:
    """The contract, the media type, the model and the scope are looked at before anything is accepted."""

    async def scenario() -> None:
        async with jobs(cache, key) as at:
            post = at.served.client.post
            assert (await post("/predict", content=body({**ROW, "hour": "7"}), headers=LATER)).status_code == 422
            assert (await post("/predict", content=b"{", headers=LATER)).status_code == 400
            assert (
                await post("/predict", content=b"x", headers={**LATER, "content-type": "text/csv"})
            ).status_code == 415
            assert (await post("/models/none/predict", content=body(ROW), headers=LATER)).status_code == 404
            assert (await post("/predict", content=body(ROW), headers={**LATER, "x-api-key": ""})).status_code == 401
            assert (await at.get("/jobs"))["jobs"] == []
            repeats = [
                (await post("/predict", content=body(ROW), headers={**LATER, "idempotency-key": "k"})).json()["job"]
                for _ in range(2)
            ]
            assert len(set(repeats)) == 1
            other = await post("/predict", content=body({**ROW, "hour": 8}), headers={**LATER, "idempotency-key": "k"})
            assert other.status_code == 409

    run(scenario)


def test_a_failing_model_is_asked_again_and_then_given_up(
    cache: Cache, toy_bundle: Path, tmp_path: Path, offsets: dict[int, Path]
) -> None:
    """A dead letter after so many attempts, listed for an admin; once it is mended, `retry` answers it."""
    cache.add(1, pole_bundle(toy_bundle, tmp_path / "pole"))
    cache.add(2, offsets[2])
    key, admin = cache.key({"predict"}), cache.key({"predict", "admin"})
    cache.deploy(1)

    async def scenario() -> None:
        async with jobs(cache, key, attempts=2) as at:
            failing = {**ROW, "hour": 13}
            reply = await at.served.client.post("/predict", content=body(failing), headers=LATER)
            place = reply.headers["location"]
            told = await at.ended(place)
            assert (told["state"], told["attempts"]) == ("dead", 2)
            assert told["error"]["code"] == "output_not_finite"
            listed = await at.served.client.get("/jobs?state=dead", headers={"x-api-key": admin})
            assert [job["job"] for job in listed.json()["jobs"]] == [told["job"]]
            cache.deploy(2)
            await at.served.serves(2)
            at.queue.retry(told["job"])
            told = await at.ended(place)
            assert (told["state"], told["answer"]["predictions"]) == ("done", [213.0])

    run(scenario)


def test_it_stops_in_the_moment_in_which_a_job_comes(cache: Cache, key: str) -> None:
    """Woken and ended in one turn of the loop: the end counts."""

    async def never(*_: Any) -> Any:
        raise AssertionError("no job waits")

    async def scenario() -> None:
        async with jobs(cache, key) as at:
            service = at.served.app.state.service
            async with asyncio.timeout(10), Answerer(service, never).at_work():
                for _ in range(5):  # until it waits
                    await asyncio.sleep(0)
                service.desk.woken.set()

    run(scenario)


def test_a_prediction_is_cancelled_before_it_is_answered(cache: Cache, key: str) -> None:
    """One that waits for its next attempt ends, and stays so."""

    async def scenario() -> None:
        async with jobs(cache, key) as at:
            at.queue.add(Job(id="0", kind="predict", model="toy", version=0, key=cache.keys[0].id, due=9e9))
            assert (await at.served.client.delete("/jobs/0")).json()["state"] == "cancelled"
            assert (await at.get("/jobs/0"))["state"] == "cancelled"

    run(scenario)


def test_a_revoked_key_is_answered_nothing(cache: Cache, key: str) -> None:
    """What it asked for before fails."""

    async def scenario() -> None:
        async with jobs(cache, key) as at:
            at.queue.add(Job(id="0", kind="predict", model="toy", version=0, key="gone", asked=_asked()))

            async def failed() -> bool:
                return at.queue.find("0", key=None).state == "failed"

            await at.served.until(failed)
            assert at.queue.find("0", key=None).failure == Failure(
                "unauthenticated", "the key is valid no more", "Authorization"
            )

    run(scenario)


def test_dead_letters_are_handled_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Listed, shown without what was asked, taken up again, ended; one that there is not is refused."""
    queue = opened(tmp_path / "run", JobSettings(attempts=1))
    for name in ("1", "2"):
        queue.add(Job(id=name, kind="predict", model="toy", version=0, key="k", asked=_asked()))
    taken = queue.take("predict")
    assert taken is not None
    queue.again(taken, Failure("overloaded", "it was too much"))

    def told(*arguments: str) -> Any:
        app(["jobs", *arguments, "--home", str(tmp_path)], standalone_mode=False)
        return capsys.readouterr().out

    assert [job["job"] for job in json.loads(told("list", "--dead", "--json"))] == ["1"]
    assert len(json.loads(told("list", "--json"))) == 2
    assert "it was too much" in told("list")
    shown = json.loads(told("show", "1", "--json"))
    assert (shown["state"], shown["error"]["code"], shown["callbacks"]) == ("dead", "overloaded", [])
    assert "carrier" not in str(shown)
    told("retry", "1")
    assert queue.find("1", key=None).state == "queued"
    told("cancel", "1")
    assert queue.find("1", key=None).state == "cancelled"
    with pytest.raises(JobUnknown):
        told("retry", "2")


def _asked(row: dict[str, Any] = ROW) -> bytes:
    import msgspec

    from serving.jobs.later import Asked

    headers = [("content-type", "application/json")]
    return msgspec.msgpack.encode(Asked("/predict", {}, headers, "r", json.dumps(row).encode()))


def test_ids_follow_from_the_job() -> None:
    """Each is a UUID of version 7 with the job's time, and none like another."""
    from uuid import UUID

    made = ids_of("0198c0de-1234-7000-8000-000000000000")(1_000)
    assert made == ids_of("0198c0de-1234-7000-8000-000000000000")(1_000)
    assert len(set(made)) == 1_000
    assert {UUID(one).version for one in made} == {7}
    assert {one[:13] for one in made} == {"0198c0de-1234"}
