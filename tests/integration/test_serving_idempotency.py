"""A request that is sent again under its idempotency key: one answer, one event."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.errors import StoreUnavailable
from serving.access import answers, idempotency
from serving.access.answers import Answer, Answers, Busy, Conflict
from tests.integration.serving_app import SCOPES, metrics, run
from tests.integration.serving_toy import ROW, Cache, serving, stored_events
from tests.integration.two_lanes import BODY, lanes, request, send

KEEPS = """
import sys, time
from pathlib import Path
from serving.access.answers import Answers
print(Answers(Path(sys.argv[1])).begin("c", "k", b"d", float(sys.argv[2])), flush=True)
time.sleep(60)
"""


@pytest.fixture
def deployed(cache: Cache, offsets: dict[int, Path]) -> Cache:
    cache.add(1, offsets[1])
    return cache


def test_a_repeat_gets_the_same_answer_and_leaves_no_event(deployed: Cache) -> None:
    """In every dialect; the ids for feedback are those of the first. Positive control: without a key there are two."""
    key = deployed.key(SCOPES)
    deployed.deploy(1)

    async def scenario() -> Path:
        async with serving(deployed, key) as served:
            for path, body in (
                ("/predict", {"rows": [ROW, ROW]}),
                ("/v1/models/toy:predict", {"instances": [ROW]}),
                ("/invocations", {"dataframe_records": [ROW]}),
            ):
                head = {"idempotency-key": f"order-7-{path}"}
                first, again = [await served.client.post(path, json=body, headers=head) for _ in range(2)]
                assert (first.status_code, again.status_code) == (200, 200)
                assert first.content == again.content
                assert "idempotency-replayed" not in first.headers
                assert again.headers["idempotency-replayed"] == "true"
                own = {"x-request-id", "server-timing", "idempotency-replayed"}
                assert {k: v for k, v in first.headers.items() if k not in own} == {
                    k: v for k, v in again.headers.items() if k not in own
                }
                assert first.headers["x-request-id"] != again.headers["x-request-id"]
            for _ in range(2):
                await served.predict()
            found = await metrics(served)
            assert sum(v for (n, labels), v in found.items() if n == "perene_key_requests_total") == 5
            return served.spool.path

    found = stored_events(asyncio.run(scenario()))
    assert len(found) == 2 + 1 + 1 + 2


def test_another_request_under_the_same_key_is_refused(deployed: Cache) -> None:
    """Another body, path or version; the key of another caller is another key; a refused request may be mended."""
    one, two = deployed.key(SCOPES), deployed.key(SCOPES)
    deployed.deploy(1)

    async def scenario() -> None:
        async with serving(deployed, one) as served:

            async def asked(body: Any = ROW, path: str = "/predict", **headers: str) -> httpx.Response:
                sent = {"idempotency-key": "k", **{name.replace("_", "-"): value for name, value in headers.items()}}
                return await served.client.post(path, json=body, headers=sent)

            assert (await asked({"wrong": 1})).status_code == 422
            assert (await asked()).status_code == 200
            for other in (
                await asked({**ROW, "hour": 8}),
                await asked(path="/models/toy/predict"),
                await asked(path="/predict?x=1"),
                await asked(x_model_version="1"),
            ):
                assert other.status_code == 409
                assert other.json()["error"]["code"] == "idempotency_conflict"
                assert "retry-after" not in other.headers
            mine = await asked(x_api_key=two)
            assert (mine.status_code, mine.headers.get("idempotency-replayed")) == (200, None)
            assert (await asked()).headers["idempotency-replayed"] == "true"

    run(scenario)


@pytest.mark.parametrize("key", [b"", b"k" * 256, b"a b", b"\xc3\xa9", b"a\tb"])
def test_a_key_that_is_none_is_refused(deployed: Cache, key: bytes) -> None:
    """In both lanes; two headers, too."""
    deployed.deploy(1)

    async def scenario() -> None:
        async with lanes(deployed, auth=False) as at:
            for header in (key, b"a\r\nIdempotency-Key: b"):
                data = request().replace(b"Content-Type", b"Idempotency-Key: " + header + b"\r\nContent-Type", 1)
                for port in (at.fast, at.slow):
                    assert (await send(port, data)).startswith(b"HTTP/1.1 400")

    asyncio.run(scenario())


def test_the_repeat_may_come_by_the_other_lane_and_after_a_restart(deployed: Cache) -> None:
    """The answers are the machine's, not the process's."""
    deployed.deploy(1)
    data = request("/predict", BODY, "Idempotency-Key: k")

    async def scenario(which: str) -> bytes:
        async with lanes(deployed, auth=False) as at:
            return (await send(getattr(at, which), data)).partition(b"\r\n\r\n")[2]

    first = asyncio.run(scenario("fast"))
    assert json.loads(first)["predictions"] == [107.0]
    assert asyncio.run(scenario("slow")) == first
    assert asyncio.run(scenario("fast")) == first


def test_repeats_that_overlap_are_answered_once(deployed: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait for the first one, and one event is left."""
    monkeypatch.setattr(idempotency, "WAIT_S", 60.0)  # however long it takes on this machine
    deployed.deploy(1)

    async def scenario() -> Path:
        async with serving(deployed, auth=False) as served:
            head = {"idempotency-key": "k"}
            replies = await asyncio.gather(*(served.client.post("/predict", json=ROW, headers=head) for _ in range(8)))
            assert {reply.status_code for reply in replies} == {200}
            assert len({reply.content for reply in replies}) == 1
            return served.spool.path

    assert len(stored_events(asyncio.run(scenario()))) == 1


def test_a_first_one_that_takes_long_is_said_to_be_under_way(deployed: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """409 with Retry-After, after a short wait."""
    monkeypatch.setattr(idempotency, "WAIT_S", 0.05)
    deployed.deploy(1)

    async def scenario() -> None:
        async with serving(deployed, auth=False) as served:
            kept = served.app.state.service.idempotency._open()
            begin: Callable[..., Any] = kept.begin
            kept.begin = lambda *_: Busy()
            reply = await served.client.post("/predict", json=ROW, headers={"idempotency-key": "k"})
            assert (reply.status_code, reply.headers["retry-after"]) == (409, "1")
            kept.begin = begin
            reply = await served.client.post("/predict", json=ROW, headers={"idempotency-key": "k"})
            assert reply.status_code == 200

    run(scenario)


def test_a_process_that_was_killed_holds_no_key(tmp_path: Path) -> None:
    """While it lives its request is under way; after kill -9 the repeat is answered anew."""
    path = tmp_path / "run" / "idempotency.db"
    child = subprocess.Popen([sys.executable, "-c", KEEPS, str(path), "100.0"], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    kept = None
    try:
        assert child.stdout.readline() == "None\n"
        kept = Answers(path)
        assert kept.begin("c", "k", b"d", 101.0) == Busy()
        assert kept.begin("c", "k", b"other", 101.0) == Conflict()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert kept.begin("c", "k", b"d", 102.0) is None
    kept.end("c", "k", Answer({}, b"x"), 102.0)
    assert kept.begin("c", "k", b"d", 102.0 + 86_399) == Answer({}, b"x")
    assert kept.begin("c", "k", b"other", 102.0 + 86_401) is None
    kept.close()


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number, by bytes and by age; the newest stay. A large answer is not kept."""
    monkeypatch.setattr(answers, "MOST", 20)
    monkeypatch.setattr(answers, "MOST_BYTES", 3_000)
    monkeypatch.setattr(answers, "_TIDY_EVERY", 16)
    kept = Answers(tmp_path / "a.db")

    def keep(name: str, body: bytes, now: float) -> None:
        assert kept.begin("c", name, b"d", now) is None
        kept.end("c", name, Answer({}, body), now)

    def rows() -> list[str]:
        assert kept._database is not None
        return [row[0] for row in kept._database.execute("SELECT key FROM answers ORDER BY at")]

    for n in range(64):
        keep(f"small{n}", b"x", n)
    assert rows() == [f"small{n}" for n in range(44, 64)]
    for n in range(16):
        keep(f"large{n}", b"x" * 1_000, 100 + n)
    assert rows() == ["large13", "large14", "large15"]
    for n in range(16):
        keep(f"late{n}", b"x", 90_000 + n)
    assert rows() == [f"late{n}" for n in range(16)]
    keep("huge", b"x" * (answers.MOST_OF_ONE + 1), 90_000)
    assert "huge" not in rows()
    kept.close()


def test_a_file_that_is_no_database_is_begun_anew(tmp_path: Path) -> None:
    """What it kept is lost; nobody else can read the new one."""
    path = tmp_path / "run" / "a.db"
    path.parent.mkdir()
    path.write_bytes(b"nonsense" * 1_000)
    kept = Answers(path)
    assert kept.begin("c", "k", b"d", 1.0) is None
    assert os.stat(path).st_mode & 0o077 == 0
    kept.close()


def test_where_answers_cannot_be_kept_nothing_is_promised(deployed: Cache) -> None:
    """503 with a header that asks for it; requests without it are answered."""
    deployed.deploy(1)
    (deployed.folder.parent / "run").write_text("not a folder")

    async def scenario() -> None:
        async with serving(deployed, auth=False) as served:
            reply = await served.client.post("/predict", json=ROW, headers={"idempotency-key": "k"})
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "store_unavailable")
            await served.predict()

    run(scenario)


def test_a_file_that_is_locked_is_not_taken_for_a_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that has it for long costs a refusal, never what is kept; afterwards it is read again."""
    monkeypatch.setattr(answers, "REST_S", 0.0)
    path = tmp_path / "a.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE theirs (x)")
        other.execute("BEGIN EXCLUSIVE")
        kept, file = Answers(path), path.stat().st_ino
        with pytest.raises(StoreUnavailable):
            kept.begin("c", "k", b"d", 1.0)
        other.execute("ROLLBACK")
    assert kept.begin("c", "k", b"d", 1.0) is None
    assert path.stat().st_ino == file
    kept.close()


def test_an_answer_that_could_not_be_kept_holds_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its repeat is answered anew, by this process at once and by another one after our next look at the file."""
    monkeypatch.setattr(answers, "REST_S", 0.0)
    path = tmp_path / "a.db"
    ours, theirs = Answers(path), Answers(path)
    theirs._me = f"{os.getppid()}.{Path(f'/proc/{os.getppid()}/stat').read_text().rpartition(')')[2].split()[19]}"
    for key in ("one", "two"):
        assert ours.begin("c", key, b"d", 1.0) is None
        assert isinstance(theirs.begin("c", key, b"d", 1.0), Busy)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for key in ("one", "two"):
            with pytest.raises(StoreUnavailable):
                ours.end("c", key, Answer({}, b"x"), 1.0)
        other.execute("ROLLBACK")
    assert ours.begin("c", "one", b"d", 1.0) is None
    assert isinstance(theirs.begin("c", "one", b"d", 1.0), Busy)
    assert theirs.begin("c", "two", b"d", 1.0) is None
    assert isinstance(ours.begin("c", "two", b"d", 1.0), Busy)
    ours.close()
    theirs.close()


def test_a_locked_file_holds_up_nothing_else(deployed: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests with the header are refused, and all but the first at once; large bodies are read meanwhile."""
    deployed.deploy(1)
    path = deployed.folder.parent / "run" / "idempotency.db"
    path.parent.mkdir()
    opened, waits, goes_on = Answers._opened, threading.Event(), threading.Event()

    def slowly(self: Answers) -> sqlite3.Connection:
        """SQLite waits for two seconds, which may be over before another request has its turn."""
        waits.set()
        assert goes_on.wait(60)
        return opened(self)

    monkeypatch.setattr(Answers, "_opened", slowly)

    async def scenario() -> None:
        async with serving(deployed, auth=False, max_rows=5_000) as served:

            async def repeated(key: int) -> httpx.Response:
                return await served.client.post("/predict", json=ROW, headers={"idempotency-key": str(key)})

            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                waiting = [asyncio.create_task(repeated(key)) for key in range(40)]
                assert await asyncio.to_thread(waits.wait, 60)
                await served.predict([ROW] * 2_000)
                assert not any(task.done() for task in waiting), "they waited for nothing: the file is not locked"
                goes_on.set()
                replies = await asyncio.wait_for(asyncio.gather(*waiting), 60)
                assert {reply.status_code for reply in replies} == {503}
                other.execute("ROLLBACK")
            await asyncio.sleep(answers.REST_S)
            assert (await repeated(1)).status_code == 200

    run(scenario)


def test_threads_share_the_file(tmp_path: Path) -> None:
    """One of them has the key, all others are told so."""
    kept, found = Answers(tmp_path / "a.db"), []
    threads = [threading.Thread(target=lambda: found.append(kept.begin("c", "k", b"d", 1.0))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, found)) == sorted(["None"] + ["Busy()"] * 7)
    kept.close()
