"""What an erasure finds outside of the lake, and what it does where it cannot look: give no receipt."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from monitoring.erasure import spools
from monitoring.intake.ids import uuid7
from perene.erasure.erase import Asked, erase, rehearse
from perene.erasure.verify import verify
from registry.errors import StoreUnavailable
from serving.jobs.job import Job
from serving.jobs.later import Asked as Later
from serving.jobs.queue import Queue
from serving.jobs.store import Store
from serving.settings import JobSettings
from tests.integration.erasure_home import MODEL, People, move_in, settle_in, subject


@pytest.fixture(scope="module")
def village(tmp_path_factory: pytest.TempPathFactory) -> People:
    return settle_in(tmp_path_factory.mktemp("village") / "home", 4)


@pytest.fixture
def people(tmp_path: Path, village: People) -> Iterator[People]:
    made = move_in(village, tmp_path / "home")
    yield made
    made.close()


def waiting(people: People, path: str, params: dict[str, str], headers: list[tuple[str, str]], body: bytes) -> str:
    """A prediction that waits for its answer; returns its job."""
    asked = msgspec.msgpack.encode(Later(path, params, headers, "r", body))
    queue = Queue(Store(people.home / "run"), JobSettings(max_jobs_per_key=10_000, max_jobs=10_000))
    job = Job(id=uuid7(), kind="predict", model=MODEL, version=0, key="k", asked=asked)
    queue.add(job)
    queue.store.close()
    return job.id


def test_predictions_that_wait_are_found_however_they_name_whom_they_are_about(people: People) -> None:
    """By the path without a model, by the header beside a column called entity; those of others wait on."""
    about = [("x-entity", subject(3))]
    hers = [
        waiting(people, "/predict", {}, [], json.dumps({"rows": [], "entity": subject(3)}).encode()),
        waiting(people, "/predict", {}, about, b'{"x": 1.0, "email": "e"}'),
        waiting(people, "/predict", {}, about, b'{"entity": "a value of a column"}'),
        waiting(people, "/predict", {}, about, b"no JSON"),
    ]
    other = waiting(people, "/predict", {}, [], json.dumps({"rows": [], "entity": subject(2)}).encode())
    done = erase(people.settings, Asked(MODEL, subject(3)))
    queue = Queue(Store(people.home / "run"), JobSettings())
    left = queue.states()
    queue.store.close()
    assert not left.keys() & set(hers)
    assert left[other] == "queued"
    assert verify(people.settings, done.path, subject=subject(3)) == []


@pytest.mark.parametrize("name", ["stranger.spool", "damaged.j0"])
def test_what_cannot_be_read_ends_it_with_the_fix_and_a_repeat_finishes(people: People, name: str) -> None:
    """A file that is no spool, and a journal of a later version: nobody can say what they hold, so no receipt."""
    if name.endswith(".j0"):
        dead = next(p for p in spools.spool_files(people.home / "spool") if not spools.alive(p))
        path, body = dead.with_suffix(".j0"), struct.pack("<QII", 1, 1, 99)
        path.write_bytes(bytes(8) + struct.pack("<II", len(body), zlib.crc32(body)) + body)
    else:
        path = people.home / "spool" / name
        path.write_bytes(b"not a database" * 100)
    for attempt in (erase, rehearse):
        if attempt is erase or path.suffix == ".spool":
            with pytest.raises(StoreUnavailable, match="broken off"):
                attempt(people.settings, Asked(MODEL, subject(3)))
    left = path.read_bytes()
    path.unlink()
    done = erase(people.settings, Asked(MODEL, subject(3)))
    assert verify(people.settings, done.path, subject=subject(3)) == []
    path.write_bytes(left)  # it is back: no proof any more, and no traceback either
    problems = verify(people.settings, done.path, subject=subject(3))
    assert [problem.split(":")[0] for problem in problems] == ["spool"]
