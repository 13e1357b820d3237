"""A disk that is full: what cannot be kept is refused before it is accepted; what was accepted is answered later."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.integration.serving_toy import ROW, Cache

ROOT = Path(__file__).parents[2]
SCRIPT = """
import asyncio, json, os, resource, sys
from pathlib import Path
from tests.integration.jobs_server import jobs, PARQUET
from tests.integration.serving_toy import Cache
import serving.jobs.desk

LIMIT = 300_000
home, key, row, manner = Path(sys.argv[1]), sys.argv[2], sys.argv[3].encode(), sys.argv[4]
later = {"prefer": "respond-async", "content-type": "application/json"}

if manner == "early":  # the bug: 202 whatever becomes of the commit
    from registry.errors import PereneError
    from serving.jobs.queue import Queue
    careful = Queue.add
    def add(queue, job):
        try:
            return careful(queue, job)
        except PereneError:
            return job, True
    Queue.add = add

def bound(most):
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

async def main():
    said, accepted = {}, []
    async with jobs(Cache(home / "cache"), key) as at:
        post = at.served.client.post
        first = await post("/predict", content=row, headers=later)
        accepted.append(first.headers["location"])
        bound(LIMIT)
        reply = await at.post(b"temp,hour,late,carrier\\n" + b"1.5,7,true,AA\\n" * 50_000)
        said["file"] = [reply.status_code, reply.json()["error"]["code"], "retry-after" in reply.headers]
        said["left"] = len(list((home / "run" / "jobs").iterdir()))
        statuses = []
        padded = row[:-1] + b" " * 30_000 + b"}"
        for n in range(60):
            reply = await post("/predict", content=padded, headers=later)
            statuses.append(reply.status_code)
            if reply.status_code == 202:
                accepted.append(reply.headers["location"])
            elif len(statuses) - statuses.index(reply.status_code) > 3:
                break
        said["statuses"] = sorted(set(statuses))
        at_once = await post("/predict", content=row, headers={"content-type": "application/json"})
        said["at_once"] = at_once.status_code
        bound(resource.RLIM_INFINITY)
        states = []
        for place in accepted:
            for _ in range(1_500):
                told = await at.get(place)
                if told.get("state") not in ("queued", "running"):
                    break
                await asyncio.sleep(0.02)
            states.append(told.get("state", "lost"))
        said["accepted"], said["states"] = len(accepted), sorted(set(states))
    print(json.dumps(said))

asyncio.run(main())
"""


def _run(cache: Cache, offsets: dict[int, Path], manner: str) -> dict[str, object]:
    cache.add(1, offsets[1])
    key = cache.key({"predict"})
    cache.deploy(1)
    command = [sys.executable, "-c", SCRIPT, str(cache.folder.parent), key, json.dumps(ROW), manner]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    said: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_what_the_disk_cannot_keep_is_not_accepted(cache: Cache, offsets: dict[int, Path]) -> None:
    """507 for a file; 507, or 503 where SQLite cannot tell why, for predictions that wait; others are answered."""
    said = _run(cache, offsets, "careful")
    print(said)
    assert said["file"] == [507, "storage_full", True]
    assert said["left"] == 0
    assert said["statuses"] in ([202, 503], [202, 507], [503], [507])
    assert said["at_once"] == 200
    assert said["states"] == ["done"]


def test_control_a_queue_that_does_not_wait_for_the_disk_is_caught(cache: Cache, offsets: dict[int, Path]) -> None:
    """Jobs that were accepted are unknown."""
    said = _run(cache, offsets, "early")
    assert "lost" in said["states"]  # type: ignore[operator]
