"""A home full of people: their events in every place that keeps any, and a search through all of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from monitoring.intake.blocks import Answered
from monitoring.intake.events import LabelEvent
from monitoring.intake.ids import uuid7
from monitoring.intake.pseudonyms import Digest, load_pseudonyms, plain
from monitoring.intake.shipper import ship_once
from monitoring.intake.spool import Spool
from monitoring.lake import upkeep
from monitoring.lake.lake import Lake
from perene.config import Settings
from registry.contract import Column, Contract, Output
from registry.ledger import Ledger
from serving.access.answers import Answer, Answers
from serving.jobs.job import Job
from serving.jobs.later import Asked
from serving.jobs.queue import Queue
from serving.jobs.store import Store
from serving.settings import JobSettings

MODEL = "shop"
CONTRACT = Contract(
    MODEL,
    (Column("x", "float"), Column("email", "string"), Column("phone", "string", policy="hash")),
    Output("regression"),
)
NOON = 1_772_366_400.0
DAY = 86_400.0


def subject(number: int) -> str:
    return f"anna-{number:05d}@example.org"


def canary(number: int) -> str:
    """What stands in a stored column of a person's rows."""
    return f"mailbox-{number:05d}x"


@dataclass
class People:
    """A home, and by person the ids of predictions."""

    home: Path
    count: int
    ids: dict[int, list[str]] = field(default_factory=dict)
    spools: list[Spool] = field(default_factory=list)
    url: str = ""

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home, lake_url=self.url)

    @property
    def lake(self) -> Lake:
        return Lake(self.settings.places.lake)

    @property
    def digest(self) -> Digest:
        return load_pseudonyms(self.home)

    def open(self, *, old: bool = False) -> Spool:
        """A new spool of a serve process; `old`: of version 0.1, which knew no secret."""
        spool = Spool.open(self.home / "spool", digest=plain if old else self.digest)
        spool.register(MODEL, 1, CONTRACT.to_dict())
        self.spools.append(spool)
        return spool

    def answer(self, spool: Spool, numbers: Iterable[int], *, at: float, rows: int = 1, label: bool = True) -> None:
        """Each person is answered, by champion and shadow, and the truth comes."""
        labels = []
        for number in numbers:
            ids = [uuid7() for _ in range(rows)]
            self.ids.setdefault(number, []).extend(ids)
            values = [(float(number), canary(number), f"phone-{number}")] * rows
            about, answers = (at, at, subject(number), "key", 1.0, ids), [1.5] * rows
            spool.append(Answered(CONTRACT, 1, "champion", *about, values, answers, None))
            spool.append(Answered(CONTRACT, 1, "shadow", at, at, "", *about[3:], (), answers, None))
            labels += [LabelEvent(i, MODEL, 2.5, at + 60, at + 60) for i in ids]
        if label:
            spool.append_durable(labels).result(60)
        else:
            spool.append_durable([LabelEvent(uuid7(), MODEL, 1.0, at, at)]).result(60)

    def ship(self) -> None:
        ship_once(self.home / "spool", self.lake, min_rows=1, max_age_s=-1.0, now=NOON * 2)

    def merge(self) -> None:
        """Days before the last become one file each."""
        for kind in upkeep.KINDS:
            files = self.lake.files(MODEL, kind)
            for merge in list(upkeep.merges(MODEL, kind, files, before=date(2099, 1, 1), rows=self.lake.rows)):
                upkeep.carry_out(self.lake, merge)

    def close(self) -> None:
        for spool in self.spools:
            spool.close()

    # the search -------------------------------------------------------------------------------------------

    def words(self, number: int) -> list[str]:
        """All that points to a person; pseudonyms under the secret may stay in receipts and tombstones."""
        name = subject(number)
        return [name, canary(number), f"phone-{number}", plain(name), self.digest(name), *self.ids[number]]

    def hits(self, numbers: Iterable[int]) -> list[tuple[str, str]]:
        """File and word, wherever one is found: Parquet is unpacked, all else is searched as it lies on disk."""
        wanted = {word.encode() for number in numbers for word in self.words(number)}
        found = []
        for path in sorted(self.home.rglob("*")):
            inside = path.relative_to(self.home).parts
            if not path.is_file() or "_erased" in inside or inside[0] in ("erasures", "keys"):
                continue
            data = _read(path)
            if data[:4] == b"PAR1":
                data += json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
            found += [(str(path.relative_to(self.home)), word.decode()) for word in wanted if word in data]
        return found


def _read(path: Path) -> bytes:
    """A file; that of a living spool by another process, since closing it here would give up SQLite's locks."""
    if ".spool" in path.name:
        return subprocess.run(["cat", str(path)], capture_output=True, check=True).stdout
    return path.read_bytes()


def settle_in(home: Path, count: int) -> People:
    """People in merged and single files of the lake and in a dead spool, with the secret's pseudonyms and 0.1's."""
    people = People(home, count)
    with closing(Ledger.open(people.settings.places.ledger_url)):
        pass
    everybody = range(count)
    for day in range(4):
        spool = people.open(old=day == 0)
        people.answer(spool, everybody, at=NOON + day * DAY + 1)
        spool.close()
        people.ship()
    people.merge()
    late = people.open()
    people.answer(late, everybody, at=NOON + 6 * DAY, rows=3)
    late.close()
    people.ship()
    dead = people.open()
    people.answer(dead, everybody, at=NOON + 7 * DAY)
    dead.close()
    _elsewhere(people)
    people.spools.clear()
    return people


def move_in(people: People, home: Path) -> People:
    """The same people in a home of their own, with a server that lives."""
    shutil.copytree(people.home, home)  # times too: reports are told by theirs
    made = People(home, people.count, {number: list(ids) for number, ids in people.ids.items()})
    made.answer(made.open(), range(people.count), at=NOON + 8 * DAY)
    return made


def _elsewhere(people: People) -> None:
    """Kept answers, predictions that wait and that are done, reports, logs."""
    run = people.home / "run"
    with closing(Answers(run / "idempotency.db")) as answers:
        for number, ids in people.ids.items():
            answers.begin("key", f"order-{number}", b"", NOON)
            answers.end("key", f"order-{number}", Answer({}, json.dumps({"prediction_ids": ids}).encode()), NOON)
    queue = Queue(Store(run), JobSettings(max_jobs_per_key=10_000, max_jobs=10_000))
    for number, ids in people.ids.items():
        asked = _asked(json.dumps({"rows": [{"email": canary(number)}], "entity": subject(number)}), [])
        queue.add(Job(id=uuid7(), kind="predict", model=MODEL, version=0, key="k", asked=asked))
        asked = _asked(canary(number), [("x-entity", subject(number))])
        answer = json.dumps({"prediction_ids": ids}).encode()
        queue.add(Job(id=uuid7(), kind="predict", model=MODEL, version=0, key="k", asked=asked, answer=answer))
    queue.store.close()
    report = people.home / "reports" / MODEL / "7"
    report.mkdir(parents=True)
    rows = people.lake.read(MODEL, "prediction").select(["x", "email"])
    pq.write_table(rows, report / "current.parquet")
    (report / "report.html").write_text(" ".join(canary(n) for n in range(people.count)))
    logs = people.home / "logs"
    logs.mkdir()
    lines = [json.dumps({"event": "asked", "id": i, "who": subject(n)}) for n, ids in people.ids.items() for i in ids]
    (logs / "serve.log").write_text("\n".join(lines) + "\n")


def _asked(body: str, headers: list[tuple[str, str]]) -> bytes:
    return msgspec.msgpack.encode(Asked(f"/models/{MODEL}/predict", {"model": MODEL}, headers, "r", body.encode()))
