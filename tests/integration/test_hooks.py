"""Alerts that an Alertmanager sends become rows of evidence, once, from those who may tell them."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from registry.ledger import Ledger
from registry.webhook import SIGNATURE, signature
from tests.integration.serving_app import bearer, run
from tests.integration.serving_toy import Cache, Served, serving

PATH = "/hooks/alertmanager"
SECRET = "a secret that both know"
HOOKS = {"hooks": {"secret": SECRET}}


def alert(number: int = 1, *, status: str = "firing", model: str = "toy", **labels: str) -> dict[str, Any]:
    return {
        "status": status,
        "labels": {"alertname": "Odd", "model": model, "severity": "page", **labels},
        "annotations": {"summary": "something"},
        "startsAt": "2026-11-21T10:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": f"{number:016x}",
    }


def notification(*alerts: dict[str, Any]) -> bytes:
    body = {"version": "4", "groupKey": "{}", "status": "firing", "receiver": "perene", "alerts": list(alerts)}
    return json.dumps(body).encode()


def ledger_of(cache: Cache) -> Ledger:
    return Ledger.open(f"sqlite:///{cache.folder.parent / 'ledger.db'}")


@pytest.fixture
def deployed(cache: Cache, offsets: dict[int, Path]) -> Cache:
    """A server with a toy model, and its ledger, which names it deployed."""
    cache.add(1, offsets[1])
    cache.deploy(1)
    with closing(ledger_of(cache)) as ledger:
        ledger.move("toy", expected_revision=0, champion=1, actor="test", reason="first")
    return cache


def keyed(cache: Cache, scopes: set[str], models: set[str] | None = None) -> str:
    key = cache.key(scopes, models)
    cache.deploy(1)
    return key


async def told(served: Served, body: bytes, status: int, headers: dict[str, str]) -> dict[str, Any]:
    reply = await served.client.post(PATH, content=body, headers={"content-type": "application/json", **headers})
    assert reply.status_code == status, reply.text
    found: dict[str, Any] = reply.json()
    return found


def rows(cache: Cache) -> list[dict[str, Any]]:
    with closing(ledger_of(cache)) as ledger:
        return [row.body for row in ledger.evidence("toy", "alert")]


def test_a_key_with_the_scope_tells_alerts_once(deployed: Cache) -> None:
    """Repeats are known, an end is another row, what is about no deployed model is left out."""
    key, other = keyed(deployed, {"alert"}), keyed(deployed, {"predict", "read"})

    async def scenario() -> None:
        async with serving(deployed, "") as served:
            first = notification(alert(retrain="true"), alert(2, model="unknown"), alert(3, model=""))
            assert await told(served, first, 200, bearer(key)) == {"written": 1, "known": 0, "ignored": 2}
            assert await told(served, first, 200, bearer(key)) == {"written": 0, "known": 1, "ignored": 2}
            ended = notification(alert(status="resolved", retrain="true"))
            assert (await told(served, ended, 200, bearer(key)))["written"] == 1
            await told(served, first, 401, {})
            await told(served, first, 403, bearer(other))

    run(scenario)
    found = rows(deployed)
    assert [row["status"] for row in found] == ["resolved", "firing"]
    assert (found[1]["alert"], found[1]["labels"]["retrain"]) == ("Odd", "true")
    assert found[1]["starts_at"] == "2026-11-21T10:00:00Z"
    assert found[1]["actor"]


def test_the_ledger_keeps_no_word_of_an_alert_that_terminals_obey(deployed: Cache) -> None:
    key = keyed(deployed, {"alert"})

    async def scenario() -> None:
        async with serving(deployed, "") as served:
            odd = alert(rollback="true", alertname="A\x1b[31m\u202eä")
            odd["labels"]["x\x00"] = "y\x07"
            assert (await told(served, notification(odd), 200, bearer(key)))["written"] == 1

    run(scenario)
    (row,) = rows(deployed)
    assert row["alert"] == "A\ufffd[31m\ufffdä"
    assert row["labels"]["x\ufffd"] == "y\ufffd"
    assert row["labels"]["rollback"] == "true"


def test_a_key_for_other_models_tells_nothing_of_this_one(deployed: Cache) -> None:
    key = keyed(deployed, {"alert"}, {"another"})

    async def scenario() -> None:
        async with serving(deployed, "") as served:
            assert await told(served, notification(alert()), 200, bearer(key)) == {
                "written": 0,
                "known": 0,
                "ignored": 1,
            }

    run(scenario)
    assert rows(deployed) == []


def test_without_keys_only_the_secret_tells_alerts(deployed: Cache) -> None:
    """A server that answers anybody on loopback has no version taken back by anybody."""

    async def scenario() -> None:
        async with serving(deployed, "", auth=False, **HOOKS) as served:
            body = notification(alert(rollback="true"))
            await told(served, body, 403, {})
            assert (await told(served, body, 200, {SIGNATURE: signature(SECRET, body, int(time.time()))}))["written"]

    run(scenario)
    assert [row["actor"] for row in rows(deployed)] == ["signed"]


def test_a_signed_call_is_good_once_and_for_five_minutes(deployed: Cache) -> None:
    """Another body, another secret and another time are 401; the same call again is 409."""

    async def scenario() -> None:
        async with serving(deployed, "", **HOOKS) as served:
            body, now = notification(alert()), int(time.time())
            good = {SIGNATURE: signature(SECRET, body, now)}
            assert (await told(served, body, 200, good))["written"] == 1
            error = await told(served, body, 409, good)
            assert error["error"]["code"] == "replayed"
            await told(served, notification(alert(9)), 401, good)
            for bad in (
                signature("another", body, now),
                signature(SECRET, body, now - 400),
                signature(SECRET, body, now + 400),
                "t=1,v1=00",
                "nonsense",
            ):
                await told(served, body, 401, {SIGNATURE: bad})

    run(scenario)
    assert len(rows(deployed)) == 1


def test_without_a_secret_nothing_signed_is_believed(deployed: Cache) -> None:
    async def scenario() -> None:
        async with serving(deployed, "") as served:
            body = notification(alert())
            await told(served, body, 401, {SIGNATURE: signature("", body, int(time.time()))})

    run(scenario)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"version": "4"}', 400),
        (b'{"version": "4", "alerts": [{"status": "odd", "labels": {}, "startsAt": ""}]}', 400),
        (b'{"version": "4", "alerts": ' + b"[" * 100_000 + b"}", 400),
        (b'{"version": "4", "alerts": [], "x": "' + b"a" * (1 << 20) + b'"}', 413),
        (notification(*[alert(n) for n in range(700)]), 200),
        (notification({**alert(), "labels": {"model": "toy", **{f"l{n}": "x" * 3_000 for n in range(100)}}}), 200),
    ],
    ids=["empty", "a list", "half", "odd", "deep", "large", "many", "wide"],
)
def test_hostile_bodies_are_bounded(deployed: Cache, body: bytes, status: int) -> None:
    """What is kept of one call is at most 500 alerts of 34 labels of 200 characters."""
    key = keyed(deployed, {"alert"})

    async def scenario() -> None:
        async with serving(deployed, "") as served:
            await told(served, body, status, bearer(key))

    run(scenario)
    found = rows(deployed)
    assert len(found) <= 500
    with closing(ledger_of(deployed)) as ledger:
        assert ledger.verify() == []
    assert all(len(row["labels"]) <= 34 and max(map(len, row["labels"].values())) <= 200 for row in found)


def test_without_its_ledger_the_server_says_so(cache: Cache, offsets: dict[int, Path]) -> None:
    """503, and nothing is lost without a word: Alertmanager sends it again."""
    cache.add(1, offsets[1])
    key = keyed(cache, {"alert"})
    path = Path(cache.folder.parent / "ledger.db")
    path.unlink(missing_ok=True)
    path.mkdir()

    async def scenario() -> None:
        async with serving(cache, "") as served:
            await told(served, notification(alert()), 503, bearer(key))

    run(scenario)


def begun(cache: Cache, *steps: str, status: str = "running") -> None:
    """A run of the toy that has come so far."""
    with closing(ledger_of(cache)) as ledger:
        for step in steps:
            ledger.record_run("run-1", "toy", status=status, step=step, body={"spec": {}})  # type: ignore[arg-type]


def test_an_engine_answers_once_about_a_run_that_waits(deployed: Cache) -> None:
    """Signed; another run, another time and a second answer are refused."""

    async def scenario() -> None:
        async with serving(deployed, "", **HOOKS) as served:
            now = int(time.time())

            async def answered(run: str, body: bytes, status: int, *, secret: str = SECRET, at: int = now) -> None:
                headers = {"content-type": "application/json", SIGNATURE: signature(secret, body, at)}
                reply = await served.client.post(f"/hooks/retrain/{run}", content=body, headers=headers)
                assert reply.status_code == status, reply.text

            begun(deployed, "begin", "snapshot")
            await answered("run-1", b'{"version": 2}', 409)  # nothing was handed over
            begun(deployed, "hand_over", "handed_over")
            await answered("run-2", b'{"version": 2}', 404)
            await answered("run-1", b'{"version": 3}', 401, secret="another")
            await answered("run-1", b'{"version": 3}', 401, at=now - 1_000)
            for odd in (b"{}", b'{"version": 0}', b'{"version": 2, "error": "x"}', b'{"version": "2"}', b"[1]"):
                await answered("run-1", odd, 400)
            reply = await served.client.post("/hooks/retrain/run-1", json={"version": 3})
            assert reply.status_code == 401
            await answered("run-1", b'{"version": 5, "run": "run-7"}', 400)  # signed for another run
            await answered("run-1", b'{"version": 5, "run": "run-1"}', 202)
            await answered("run-1", b'{"version": 5, "run": "run-1"}', 409)  # the very same call
            await answered("run-1", b'{"version": 6}', 409)  # another answer

    run(scenario)
    with closing(ledger_of(deployed)) as ledger:
        assert [row.body for row in ledger.evidence("toy", "run_callback")] == [
            {"run_id": "run-1", "actor": "signed", "version": 5}
        ]


def test_the_example_for_alertmanager_is_valid() -> None:
    """`amtool check-config`, and an alert that asks for a run goes to Perene and to people."""
    example = Path(__file__).parents[2] / "deploy/alertmanager/hook.yml"
    path = shutil.which("amtool")
    assert path is not None, "amtool is missing: run scripts/apt"

    def amtool(*arguments: str) -> str:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    amtool("check-config", str(example))
    routed = ("config", "routes", "test", f"--config.file={example}")
    assert "perene" in amtool(*routed, "retrain=true", "model=toy")
    assert amtool(*routed, "model=toy").strip() == "nobody"
