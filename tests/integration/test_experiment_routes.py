"""Trials over HTTP: with keys, against a real ledger, and beside predictions that do not depend on it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from registry import approvals
from registry.errors import StoreUnavailable
from registry.ledger import Ledger
from serving.ledger_desk import LedgerDesk
from tests.integration.serving_app import run
from tests.integration.serving_toy import Cache, Served, serving


@pytest.fixture
def deployed(cache: Cache, offsets: dict[int, Path]) -> Cache:
    """Serving's cache and a ledger that agree on champion 1, with versions that key `maker` and ann registered."""
    cache.add(1, offsets[1])
    cache.deploy(1)
    with closing(Ledger.open(ledger_url(cache))) as ledger:
        ledger.move("toy", expected_revision=0, champion=1, actor="ann", reason="first")
        for version in (1, 2, 3):
            approvals.record(ledger, "toy", version, kind="registered", actor="ann", digest=f"d{version}")
    return cache


def ledger_url(cache: Cache) -> str:
    return f"sqlite:///{cache.folder.parent / 'ledger.db'}"


def keyed(cache: Cache, scopes: set[str], models: set[str] | None = None) -> dict[str, str]:
    key = cache.key(scopes, models)
    cache.deploy(1)
    return {"x-api-key": key}


async def asked(served: Served, path: str, body: Any, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    reply = await served.client.post(f"/models/toy/experiments{path}", json=body, headers=headers)
    return reply.status_code, reply.json()


def test_a_trial_is_asked_for_read_approved_and_ended(deployed: Cache) -> None:
    """The actor is the key; each answer is what the ledger says."""
    decides, reads = keyed(deployed, {"promote"}), keyed(deployed, {"read"})

    async def scenario() -> None:
        async with serving(deployed) as served:
            assert (await asked(served, "", {"candidate": 2, "reason": "r"}, reads))[0] == 403
            status, made = await asked(served, "", {"candidate": 2, "reason": "r", "options": {"alpha": 0.01}}, decides)
            assert status == 202
            name = made["experiment_id"]
            assert made["actor"].startswith("key ")
            listed = (await served.client.get("/models/toy/experiments", headers=reads)).json()["experiments"]
            assert [(t["experiment_id"], t["state"], t["candidate"]) for t in listed] == [(name, "requested", 2)]
            shown = (await served.client.get(f"/models/toy/experiments/{name}", headers=reads)).json()
            assert (shown["stage"], shown["look"], shown["decisions"]) == ("waiting", None, [])
            assert (await asked(served, "", {"candidate": 3, "reason": "r"}, decides))[0] == 409
            status, approved = await asked(served, f"/{name}/approve", {}, decides)
            assert (status, approved["candidate"]) == (200, 2)
            assert (await asked(served, f"/{name}/abort", {"reason": "enough"}, decides))[0] == 200
            assert (await asked(served, f"/{name}/abort", {"reason": "enough"}, decides))[0] == 409

    run(scenario)


def test_a_key_that_registered_a_candidate_may_not_approve_it(deployed: Cache) -> None:
    """Another key may: duties are separate by key as they are by account."""
    makes, other = keyed(deployed, {"promote"}), keyed(deployed, {"promote"})
    identifier = deployed.keys[-2].id
    with closing(Ledger.open(ledger_url(deployed))) as ledger:
        approvals.record(ledger, "toy", 2, kind="registered", actor=f"key {identifier}", digest="d2")

    async def scenario() -> None:
        async with serving(deployed) as served:
            _, made = await asked(served, "", {"candidate": 2, "reason": "r"}, makes)
            path = f"/{made['experiment_id']}/approve"
            assert (await asked(served, path, {}, makes))[0] == 403
            assert (await asked(served, path, {}, other))[0] == 200

    run(scenario)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("", {"candidate": 1, "reason": "r"}, 422),
        ("", {"candidate": 99, "reason": "r"}, 404),
        ("", {"candidate": "2", "reason": "r"}, 400),
        ("", {"candidate": 2}, 400),
        ("", {"candidate": 2, "reason": "r", "margin": 0.1}, 400),
        ("", {"candidate": 2, "reason": "\u001b[2J"}, 422),
        ("", {"candidate": 2, "reason": "x" * 3_000}, 422),
        ("", {"candidate": 2, "reason": "x" * 10_000_000}, 413),
        ("", {"candidate": 2, "reason": "r", "options": {"margin": "s3cr3t"}}, 422),
        ("", {"candidate": 2, "reason": "r", "options": {"margin": 10**400}}, 422),
        ("", {"candidate": 2, "reason": "r", "options": []}, 400),
        ("", [], 400),
        ("/nobody/approve", {}, 404),
        ("/nobody/abort", {"reason": "r"}, 404),
        ("/nobody/abort", {}, 400),
        ("/%00/abort", {"reason": "r"}, 404),
    ],
)
def test_what_cannot_be_is_refused_by_its_status(deployed: Cache, path: str, body: Any, status: int) -> None:
    """And the answer repeats nothing of it."""
    decides = keyed(deployed, {"promote"})

    async def scenario() -> None:
        async with serving(deployed) as served:
            reply = await served.client.post(f"/models/toy/experiments{path}", json=body, headers=decides)
            assert reply.status_code == status, reply.text
            assert "s3cr3t" not in reply.text
            assert "\\u001b" not in reply.text
            assert len(reply.content) < 2_000

    run(scenario)


def test_without_keys_nobody_decides(deployed: Cache) -> None:
    """A server that answers anybody on loopback shows trials, and takes no orders."""

    async def scenario() -> None:
        async with serving(deployed, auth=False) as served:
            assert (await served.client.get("/models/toy/experiments")).status_code == 200
            assert (await asked(served, "", {"candidate": 2, "reason": "r"}, {}))[0] == 403

    run(scenario)


def test_a_key_of_another_model_is_refused(deployed: Cache) -> None:
    """Whatever its scopes are."""
    other = keyed(deployed, {"promote", "read"}, {"other"})

    async def scenario() -> None:
        async with serving(deployed) as served:
            assert (await served.client.get("/models/toy/experiments", headers=other)).status_code == 403
            assert (await asked(served, "", {"candidate": 2, "reason": "r"}, other))[0] == 403

    run(scenario)


def test_predictions_go_on_while_the_ledger_is_locked(deployed: Cache) -> None:
    """A locked database: 503 with the time to come again, and predictions before, meanwhile and after."""
    key = keyed(deployed, {"promote", "predict", "read"})

    async def scenario() -> None:
        async with serving(deployed) as served:
            served.client.headers.update(key)
            assert (await served.client.get("/models/toy/experiments")).status_code == 200
            served.app.state.service.ledger._seconds = 0.3  # from here on nobody is answered
            with closing(sqlite3.connect(deployed.folder.parent / "ledger.db", isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                waits = asyncio.create_task(asked(served, "", {"candidate": 2, "reason": "r"}, {}))
                answered = [(await served.predict())["version"] for _ in range(20)]
                assert answered == [1] * 20
                assert (await waits)[0] == 503
                assert (await asked(served, "", {"candidate": 2, "reason": "r"}, {}))[0] == 503
                db.execute("ROLLBACK")

    run(scenario)


def test_a_ledger_that_is_away_is_503(deployed: Cache, tmp_path: Path) -> None:
    """One that nobody can reach, too: and the models go on."""
    key = keyed(deployed, {"promote", "predict", "read"})

    async def scenario() -> None:
        async with serving(deployed) as served:
            served.client.headers.update(key)
            served.app.state.service.ledger = LedgerDesk("postgresql+psycopg://nobody@127.0.0.1:1/none")
            reply = await served.client.get("/models/toy/experiments")
            assert reply.status_code == 503
            assert "nobody@" not in reply.text
            assert (await served.predict())["version"] == 1

    run(scenario)


def test_what_hangs_is_not_waited_for_twice() -> None:
    """While one question hangs, the next ones are refused without being put in line behind it."""
    begun, goes_on = threading.Event(), threading.Event()

    def hang(_: Ledger) -> None:
        begun.set()
        goes_on.wait(60)

    async def scenario() -> None:
        desk = LedgerDesk("sqlite://", seconds=0.1)
        try:
            while not begun.is_set():  # one that the thread did not get to in time was never begun, and hangs nowhere
                with pytest.raises(StoreUnavailable):
                    await desk.do(hang)
            await asyncio.sleep(0.2)  # by now it hangs for longer than anybody waits
            for _ in range(50):
                with pytest.raises(StoreUnavailable):
                    await desk.do(lambda _: None)
                assert desk._questions.empty()
        finally:
            goes_on.set()
            desk.close()

    run(scenario)
