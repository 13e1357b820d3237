"""Files over HTTP: handed in, answered by the process of jobs, fetched; by nobody else."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyarrow import BufferReader
from pyarrow import csv as arrow_csv

from registry import child
from serving.jobs.files import Places
from serving.jobs.process import Runner
from serving.wire.bounded import Bounds
from tests.integration.batch_files import toy_rows, write, write_parquet
from tests.integration.jobs_server import jobs
from tests.integration.serving_app import run
from tests.integration.serving_toy import ROW, Cache
from tests.integration.test_batch_refusals import CSV as BAD_CSV
from tests.integration.test_batch_refusals import PARQUET as BAD_PARQUET
from tests.integration.two_lanes import lanes


@pytest.fixture
def key(cache: Cache, offsets: dict[int, Path]) -> str:
    """A key of a server whose champion is version 1."""
    cache.add(1, offsets[1])
    cache.add(2, offsets[2])
    made = cache.key({"predict"})
    cache.deploy(1)
    return made


def table(content: bytes, ending: str) -> list[dict[str, Any]]:
    found = arrow_csv.read_csv(BufferReader(content)) if ending == "csv" else pq.read_table(BufferReader(content))
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows


@pytest.mark.parametrize(("ending", "out"), [("parquet", "parquet"), ("csv", "csv"), ("csv", "parquet")])
def test_a_file_is_answered_by_the_champion_of_then(
    cache: Cache, key: str, tmp_path: Path, ending: str, out: str
) -> None:
    """202 with the job's place; each row once, by the version that was champion when the file came."""
    rows = toy_rows(5_000)
    file = write(tmp_path / f"in.{ending}", rows)

    async def scenario() -> None:
        async with jobs(cache, key) as at:
            reply = await at.post(file, f"?keep=id&format={out}")
            assert reply.status_code == 202, reply.text
            place = reply.headers["location"]
            assert place == f"/models/toy/batch/{reply.json()['job']}"
            assert reply.json()["state"] == "queued"
            assert (await at.served.client.get(f"{place}/result")).status_code == 409
            cache.deploy(2)
            await at.served.serves(2)
            assert await at.work()
            told = await at.get(place)
            assert (told["state"], told["rows"], told["rejected"], told["version"]) == ("done", 5_000, 0, 1)
            assert told["progress"] == 1.0
            result = await at.served.client.get(f"{place}/result")
            assert result.status_code == 200
            found = table(result.content, out)
            assert [row["id"] for row in found] == [row["id"] for row in rows]
            assert [row["prediction"] for row in found] == [row["hour"] + 100.0 for row in rows]
            assert not await at.work()
            # what came is not kept, nor the version
            assert {path.name for path in Places(at.run, told["job"]).folder.iterdir()} == {f"result.{out}", "lock"}

    run(scenario)


def test_rows_that_do_not_fit_are_told_apart(cache: Cache, key: str, tmp_path: Path) -> None:
    """`errors=skip` gives the others, and a second file says which were left out."""
    rows = toy_rows(50)
    rows[7]["hour"] = None
    file = write_parquet(tmp_path / "in.parquet", rows)

    async def scenario() -> None:
        async with jobs(cache, key) as at:
            place = (await at.post(file, "?errors=skip")).headers["location"]
            refused = (await at.post(file)).headers["location"]
            await at.work()
            await at.work()
            assert (await at.get(place))["rejected"] == 1
            left_out = await at.served.client.get(f"{place}/result?of=errors")
            assert left_out.text.splitlines()[1].startswith("7,,hour,")
            told = await at.get(refused)
            assert (told["state"], told["error"]["code"]) == ("failed", "file_unsound")
            assert "input.parquet: row 7, column 'hour'" in told["error"]["message"]
            assert "errors=skip" in told["error"]["hint"]
            assert str(at.run) not in str(told)

    run(scenario)


CSV_CASES = [(data, words) for data, words in BAD_CSV if data]


def test_hostile_uploads_are_refused_by_their_job(cache: Cache, key: str, tmp_path: Path) -> None:
    """Each by its line or its fault, without a second attempt; the same files that the command refuses."""
    cases = [(data, words) for data, words in CSV_CASES if len(data) < 100_000][::4]
    bad = [(make, words) for name, make, words in BAD_PARQUET if name in ("text", "truncated", "lying", "nested")]

    async def scenario() -> None:
        async with jobs(cache, key) as at:
            asked = [((await at.post(data)).headers["location"], words) for data, words in cases]
            for make, words in bad:
                file = tmp_path / "bad.parquet"
                make(file)
                asked.append(((await at.post(file)).headers["location"], words))
            while await at.work():
                pass

            for place, words in asked:
                told = await at.get(place)
                assert (told["state"], told["attempts"]) == ("failed", 1), (words, told)
                said = told["error"]["message"] + told["error"]["where"]
                assert re.search(words.replace("in.csv", "input.csv"), said), (words, said)
                assert str(at.run) not in str(told)
            assert (await at.post(b"")).status_code == 400

    run(scenario)


def test_only_the_key_that_made_a_job_sees_it(cache: Cache, key: str, tmp_path: Path) -> None:
    """Others are told that there is none; an admin sees all."""
    other, admin = cache.key({"predict"}), cache.key({"predict", "admin"})
    elsewhere = cache.key({"predict"}, {"other"})
    cache.deploy(1)
    file = write_parquet(tmp_path / "in.parquet", toy_rows(10))

    async def scenario() -> None:
        async with jobs(cache, key) as at:
            place = (await at.post(file)).headers["location"]
            own = place.replace("/models/toy/batch", "/jobs")
            for path in (place, own):
                for secret, status in ((other, 404), (admin, 200), (key, 200), ("", 401)):
                    headers = {"x-api-key": secret}
                    assert (await at.served.client.get(path, headers=headers)).status_code == status, (path, secret)
            assert (await at.served.client.get(place, headers={"x-api-key": elsewhere})).status_code == 403
            assert (await at.served.client.delete(own, headers={"x-api-key": other})).status_code == 404
            assert (await at.served.client.get(f"{place}/result", headers={"x-api-key": other})).status_code == 404
            listed = {
                secret: len((await at.served.client.get("/jobs", headers={"x-api-key": secret})).json()["jobs"])
                for secret in (key, other, admin)
            }
            assert listed == {key: 1, other: 0, admin: 1}

    run(scenario)


def test_a_repeat_under_an_idempotency_key_is_the_same_job(cache: Cache, key: str, tmp_path: Path) -> None:
    """Also when both come at once; with another file it is a conflict."""
    file = write_parquet(tmp_path / "in.parquet", toy_rows(10))
    another = write_parquet(tmp_path / "other.parquet", toy_rows(11))

    async def scenario() -> None:
        async with jobs(cache, key) as at:
            replies = await asyncio.gather(*(at.post(file, idempotency_key="k1") for _ in range(3)))
            assert [reply.status_code for reply in replies] == [202] * 3
            assert len({reply.json()["job"] for reply in replies}) == 1
            assert sorted("idempotency-replayed" in reply.headers for reply in replies) == [False, True, True]
            assert (await at.post(another, idempotency_key="k1")).status_code == 409
            assert (await at.post(file, "?errors=skip", idempotency_key="k1")).status_code == 409
            assert (await at.post(file, idempotency_key="a b")).status_code == 400
            assert len(list((at.run / "jobs").iterdir())) == 1

    run(scenario)


HANGING = """
import runpy, sys, time
from serving.batch.parts import Parts

Parts.write = lambda *_: time.sleep(600)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""The child on a disk that takes nothing: it tells how far it is, and never ends by itself."""


def hanging(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", HANGING, module, *arguments]


def test_a_job_is_cancelled_in_each_state(
    cache: Cache, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting: it never begins; running: the child is gone; done: nothing changes; and again: the same answer."""
    file = write_parquet(tmp_path / "in.parquet", toy_rows(10))
    long = write_parquet(tmp_path / "long.parquet", toy_rows(400_000))

    async def scenario() -> None:
        async with jobs(cache, key) as at:
            client = at.served.client
            waiting = (await at.post(file)).headers["location"]
            for _ in range(2):
                told = (await client.delete(waiting)).json()
                assert told["state"] == "cancelled"
            assert not await at.work()

            running = (await at.post(long, "?format=csv")).headers["location"]
            usual = child.command
            monkeypatch.setattr(child, "command", hanging)  # it must not be done before it is cancelled
            worker = threading.Thread(target=at.runner.turn)
            worker.start()

            async def begun() -> bool:
                return bool((await at.get(running))["rows"])

            await at.served.until(begun)
            assert (await at.get(running))["eta_seconds"] is not None
            assert (await client.delete(running)).json()["state"] == "cancelled"
            await asyncio.to_thread(worker.join)
            monkeypatch.setattr(child, "command", usual)
            assert (await at.get(running))["state"] == "cancelled"
            assert not Places(at.run, running.rpartition("/")[2]).folder.exists()
            assert (await client.get(f"{running}/result")).status_code == 409

            done = (await at.post(file)).headers["location"]
            assert await at.work()
            assert (await client.delete(done)).json()["state"] == "done"
            assert (await client.get(f"{done}/result")).status_code == 200
            assert (await client.delete("/jobs/nonsense")).status_code == 404

    run(scenario)


def test_a_restart_of_the_server_costs_no_attempt(cache: Cache, key: str, tmp_path: Path) -> None:
    """A file that is under way when its process is told to end is answered by the next one, as if it were the first."""
    file = write_parquet(tmp_path / "in.parquet", toy_rows(5_000))

    async def scenario() -> None:
        async with jobs(cache, key, attempts=1) as at:
            place = (await at.post(file)).headers["location"]
            for _ in range(3):
                told_to_end = Runner(at.queue, at.run, at.run / "jobs.json", [signal.SIGTERM])
                assert await asyncio.to_thread(told_to_end.turn)
                told = await at.get(place)
                assert (told["state"], told["attempts"]) == ("queued", 0)
            assert await at.work()
            told = await at.get(place)
            assert (told["state"], told["attempts"], told["rows"]) == ("done", 1, 5_000)

    run(scenario)


def test_the_shared_folder_takes_plain_names_only(cache: Cache, key: str, tmp_path: Path) -> None:
    """No path, no link, no other folder; the output appears whole, and never over something."""
    shared = tmp_path / "shared"
    shared.mkdir()
    secret = write_parquet(tmp_path / "secret.parquet", toy_rows(3))
    write_parquet(shared / "in.parquet", toy_rows(30))
    (shared / "link.parquet").symlink_to(secret)
    (shared / "taken.parquet").write_bytes(b"x")
    (shared / "folder.parquet").mkdir()
    bad = ["../secret.parquet", str(secret), "link.parquet", "none.parquet", "folder.parquet", ".in.parquet", "in.txt"]
    good = {"input": "in.parquet", "output": "out.parquet"}

    async def scenario() -> None:
        async with jobs(cache, key, folder=str(shared)) as at:

            async def post(**body: Any) -> Any:
                return await at.served.client.post("/models/toy/batch", json=body)

            for name in bad:
                assert (await post(input=name, output="out.parquet")).status_code == 400, name
            for name in ("../out.parquet", "/tmp/out.parquet", "taken.parquet", "link.parquet", "out.txt", "a/b.csv"):
                assert (await post(input="in.parquet", output=name)).status_code == 400, name
            assert (await post(**good, more=1)).status_code == 400
            assert not (at.run / "jobs").exists()
            first, second = [await post(**good, keep=keep) for keep in ([], ["id"])]
            assert (first.status_code, second.status_code) == (202, 202)
            await at.work()
            await at.work()
            assert (await at.get(first.headers["location"]))["state"] == "done"
            told = await at.get(second.headers["location"])
            assert (told["state"], told["error"]["code"]) == ("failed", "output_exists")
            assert pq.read_table(shared / "out.parquet").num_rows == 30
            # a link that takes the file's place later is refused by the job
            late = await post(input="in.parquet", output="late.parquet")
            (shared / "in.parquet").unlink()
            (shared / "in.parquet").symlink_to(secret)
            await at.work()
            told = await at.get(late.headers["location"])
            assert (told["state"], told["error"]["message"]) == ("failed", "in.parquet: a link")
            assert {path.name for path in shared.iterdir()} == {
                *("in.parquet", "link.parquet", "taken.parquet", "folder.parquet", "out.parquet")
            }

    run(scenario)

    async def off() -> None:
        async with jobs(cache, key) as at:
            assert (await at.served.client.post("/models/toy/batch", json=good)).status_code == 400

    run(off)


def test_what_there_is_no_place_for_is_refused_before_it_is_accepted(cache: Cache, key: str, tmp_path: Path) -> None:
    """Too large, too many of a key, too many in all, too many bytes: nothing stays behind."""
    file = write_parquet(tmp_path / "in.parquet", toy_rows(200))
    size = file.stat().st_size

    async def scenario(status: int, code: str, accepted: int, **settings: Any) -> None:
        async with jobs(cache, key, **settings) as at:
            for _ in range(accepted):
                assert (await at.post(file)).status_code == 202
            reply = await at.post(file)
            assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
            assert ("retry-after" in reply.headers) == (status != 413)
            assert len(list((at.run / "jobs").iterdir() if (at.run / "jobs").exists() else ())) == accepted
            for job in at.queue.listed():
                at.queue.cancel(job.id)
            at.runner.tidy()

    run(lambda: scenario(413, "too_large", 0, max_upload_bytes=max(1024, size - 1)))
    run(lambda: scenario(429, "rate_limited", 2, max_jobs_per_key=2))
    run(lambda: scenario(503, "queue_full", 2, max_jobs=2))

    async def bytes_() -> None:
        big = write_parquet(tmp_path / "big.parquet", toy_rows(60_000), compression="none", use_dictionary=False)
        assert 1 << 20 < big.stat().st_size
        async with jobs(cache, key, max_bytes=1 << 20) as at:
            reply = await at.post(big)
            assert (reply.status_code, reply.json()["error"]["code"]) == (507, "storage_full")

    run(bytes_)


def test_wrong_requests_are_refused(cache: Cache, key: str, tmp_path: Path) -> None:
    """Types, parameters and models that there are not."""
    file = write_parquet(tmp_path / "in.parquet", toy_rows(3))

    async def scenario() -> None:
        async with jobs(cache, key) as at:
            for query in ("?errors=maybe", "?format=xlsx", "?nonsense=1", "?callback=https://hooks.example"):
                assert (await at.post(file, query)).status_code == 400, query
            assert (await at.post(file, model="none")).status_code == 404
            client = at.served.client
            reply = await client.post("/models/toy/batch", content=b"x", headers={"content-type": "text/plain"})
            assert reply.status_code == 415
            assert (await client.post("/models/toy/batch", json=ROW)).status_code == 400
            assert (await client.get("/jobs?state=maybe")).status_code == 400

    run(scenario)


def test_a_long_file_has_time_to_come(cache: Cache, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that goes on coming may take longer than other bodies; one that stops is ended."""
    # the connections' clock goes on by our word alone: a machine that stands still costs no caller his time
    now = 1_000.0
    monkeypatch.setattr("serving.wire.bounded.monotonic", lambda: now)
    rows = b"temp,hour,late,carrier\n" + b"1.5,7,true,AA\n" * 400_000
    quarter = len(rows) // 4 + 1
    uploads = cache.folder.parent / "run" / "jobs"
    head = (
        f"POST /models/toy/batch?errors=skip HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n"
        f"Content-Type: text/csv\r\nContent-Length: {len(rows)}\r\nConnection: close\r\n\r\n"
    ).encode()

    def kept() -> int:
        return sum(path.stat().st_size for path in uploads.rglob("*") if path.is_file())

    async def taken(writer: asyncio.StreamWriter, part: bytes) -> None:
        """Send more than a MiB, so that some of it is put on disk, and wait for that."""
        before = kept()
        writer.write(part)
        while kept() == before:
            assert not writer.is_closing(), "the connection was ended"
            await asyncio.sleep(0.01)

    async def scenario() -> None:
        nonlocal now
        async with lanes(cache, Bounds(body_s=2.0, sweep_s=0.1)) as at:
            reader, writer = await asyncio.open_connection("127.0.0.1", at.fast)
            writer.write(head)
            for start in range(0, 3 * quarter, quarter):
                await taken(writer, rows[start : start + quarter])
                now += 1.5
                await asyncio.sleep(0.3)  # for deadlines to be looked at
            writer.write(rows[3 * quarter :])
            assert (await reader.read()).startswith(b"HTTP/1.1 202 ")
            writer.close()

            reader, writer = await asyncio.open_connection("127.0.0.1", at.fast)
            writer.write(head)
            await taken(writer, rows[: 1 << 20])
            ended = asyncio.create_task(reader.read())
            while not ended.done():
                now += 1.0
                await asyncio.sleep(0.05)
            assert await ended == b""
            writer.close()
        assert len(list(uploads.iterdir())) == 1

    run(scenario)
