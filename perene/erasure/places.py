"""The places of an installation where a person's events can be, each with the same two questions.

`find` says what is there, for a rehearsal and for proof; `clear` takes it away, and may be repeated after any crash.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from monitoring.erasure import spools
from monitoring.erasure.lake_files import KINDS, Change, lake_hits, rewrite
from monitoring.erasure.wanted import Wanted
from monitoring.lake.lake import Lake
from registry.errors import StoreUnavailable
from retrain.places import Places as Stores
from retrain.reports.report_spec import LOGGED

__all__ = ["Aim", "Item", "Place", "Plan", "all_places"]

_LEAST_TEXT = 6


@dataclass(frozen=True, slots=True)
class Aim:
    """What is to go: rows; texts that name the subject, where those are known; since when they came, unix seconds."""

    wanted: Wanted
    texts: frozenset[str] = frozenset()
    since: float = float("inf")
    until: float = float("inf")
    """Reports that were begun after this were made without the rows."""

    @property
    def words(self) -> frozenset[str]:
        """What a line of a log may hold that points to the subject; no word of a language among it."""
        texts = {text for text in self.texts if len(text) >= _LEAST_TEXT and not (text.isascii() and text.isalpha())}
        return self.wanted.ids | texts | {json.dumps(text)[1:-1] for text in texts}


@dataclass(frozen=True, slots=True)
class Item:
    """Something of one place that is to go; `key` tells it from what was there at another time."""

    place: str
    name: str
    kind: str
    rows: int
    key: str
    before: str | None = None
    after: str | None = None


Plan = Callable[[Item], None]
"""Writes down what is about to go."""


class Place(Protocol):
    """One place."""

    @property
    def name(self) -> str:
        """As the receipt calls it."""

    def find(self, aim: Aim) -> list[Item]:
        """What is there."""

    def clear(self, aim: Aim, plan: Plan) -> None:
        """Take it away; each item is planned first."""


@dataclass(frozen=True, slots=True)
class Spools:
    """Where events wait for the lake."""

    folder: Path
    name: str = "spool"

    def find(self, aim: Aim) -> list[Item]:
        """Rows, and ids in what SQLite has not overwritten or a journal still holds."""
        items = []
        for path in spools.spool_files(self.folder):
            _, found = spools.spool_hits(path, aim.wanted)
            if found is not None:
                items.append(Item(self.name, path.name, "event", found.rows, found.key))
                continue
            items += remnants(self.name, path, aim)
        if not spools.journals_clear(self.folder, aim.wanted, wait_s=0.0):
            items.append(Item(self.name, "journal", "event", 1, "journal"))
        return items

    def clear(self, aim: Aim, plan: Plan) -> None:
        """Take the rows out, and wait for living writers to wipe their journals."""
        for path in spools.spool_files(self.folder):
            spools.settle(path)
            _, found = spools.spool_hits(path, aim.wanted)
            if found is not None:
                plan(Item(self.name, path.name, "event", found.rows, found.key))
                spools.take_out(path, aim.wanted)
            spools.scrub(path)
        if not spools.journals_clear(self.folder, aim.wanted):
            raise StoreUnavailable(
                "a server holds events that its disk does not take",
                where=str(self.folder),
                hint="mend the disk, then run the command again: it goes on where it was",
            )


@dataclass(frozen=True, slots=True)
class LakeFiles:
    """The Parquet files, here or in an object store."""

    lake: Lake
    name: str = "lake"

    def find(self, aim: Aim) -> list[Item]:
        """Files with rows of the subject."""
        return [
            Item(self.name, str(key), kind, hits.num_rows, "")
            for kind in KINDS
            for key, hits in lake_hits(self.lake, aim.wanted, kind)
        ]

    def clear(self, aim: Aim, plan: Plan) -> None:
        """Write the files without these rows; drafts of writers that died go as a whole."""

        def planned(change: Change) -> None:
            plan(Item(self.name, change.file, change.kind, change.rows, change.before, change.before, change.after))

        rewrite(self.lake, aim.wanted, planned)
        self.lake.storage.sweep(before=float("inf"))


@dataclass(frozen=True, slots=True)
class Table:
    """One table of an SQLite file: what tells its rows apart, and what may hold a subject."""

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    entities_of: Callable[[Sequence[object]], Collection[str]] = lambda _: ()
    """Reads the entities in these columns, for rows that have no answer and so no ids yet."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of an SQLite file whose bytes hold the subject."""

    name: str
    path: Path
    tables: tuple[Table, ...]

    def find(self, aim: Aim) -> list[Item]:
        """Such rows, and ids in what SQLite has not overwritten."""
        items = [self._item(table, key) for table in self.tables for key in self._hits(table, aim)]
        return items or remnants(self.name, self.path, aim)

    def clear(self, aim: Aim, plan: Plan) -> None:
        """Remove them."""
        if not self.path.exists():
            return
        for table in self.tables:
            where = " AND ".join(f"{name} = ?" for name in table.key)
            for key in self._hits(table, aim):
                plan(self._item(table, key))
                with closing(self._open()) as db:
                    db.execute("PRAGMA secure_delete = ON")
                    db.execute(f"DELETE FROM {table.name} WHERE {where}", key)  # noqa: S608 - our own names
        spools.scrub(self.path)

    def _item(self, table: Table, key: tuple[str, ...]) -> Item:
        named = hashlib.sha256("\0".join(key).encode()).hexdigest()
        return Item(self.name, self.path.name, table.name, 1, named)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", uri=True, timeout=10, isolation_level=None)

    def _hits(self, table: Table, aim: Aim) -> list[tuple[str, ...]]:
        if not self.path.exists():
            return []
        found = []
        with closing(self._open()) as db:
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table.name,)).fetchone() is None:
                return []
            for row in db.execute(f"SELECT {', '.join((*table.key, *table.columns))} FROM {table.name}"):  # noqa: S608
                cells = row[len(table.key) :]
                data = b"\0".join(_bytes(cell) for cell in cells)
                if not aim.texts.isdisjoint(table.entities_of(cells)) or spools.ids_within(data, aim.wanted.ids):
                    found.append(tuple(row[: len(table.key)]))
        return found


@dataclass(frozen=True, slots=True)
class Reports:
    """Reports, made from a model's rows, which have no ids: all that may hold some go, and MLflow's copies too."""

    folder: Path
    stores: Stores | None = None
    name: str = "reports"

    def find(self, aim: Aim) -> list[Item]:
        """Reports made after the subject's first event, from rows that were not yet erased."""
        if not self.folder.is_dir():
            return []
        items = []
        for report in sorted(self.folder.iterdir()):
            files = [path for path in report.rglob("*") if path.is_file()]
            times = [path.stat().st_mtime for path in files]
            if times and max(times) >= aim.since - 1 and min(times) <= aim.until:
                items.append(Item(self.name, report.name, "report", 1, f"{min(times):.3f}"))
        return items

    def clear(self, aim: Aim, plan: Plan) -> None:
        """Remove them; the findings stay in the ledger."""
        for item in self.find(aim):
            plan(item)
            self._drop_copy(self.folder / item.name / LOGGED)
            shutil.rmtree(self.folder / item.name, ignore_errors=True)

    def _drop_copy(self, told: Path) -> None:
        """First the copy: what says where it is goes with the report."""
        if not told.exists() or self.stores is None:
            return
        from registry.mlflow_store import Store

        Store(self.stores.tracking_uri, self.stores.artifacts).drop_report(json.loads(told.read_text())["uri"])


@dataclass(frozen=True, slots=True)
class Logs:
    """Logs of our processes, where ids and the subject's name are written over, each by as many signs."""

    home: Path
    name: str = "logs"

    def find(self, aim: Aim) -> list[Item]:
        """Files with such words."""
        return [item for path in self._files() if (item := self._item(path, self._places(path, aim)))]

    def clear(self, aim: Aim, plan: Plan) -> None:
        """Write over them in place: processes that append go on undisturbed."""
        for path in self._files():
            places = self._places(path, aim)
            item = self._item(path, places)
            if item is None:
                continue
            plan(item)
            handle = os.open(path, os.O_WRONLY)
            try:
                for at, length in places:
                    os.pwrite(handle, b"x" * length, at)
                os.fsync(handle)
            finally:
                os.close(handle)

    def _item(self, path: Path, places: list[tuple[int, int]]) -> Item | None:
        named = hashlib.sha256(str(places).encode()).hexdigest()
        return Item(self.name, str(path.relative_to(self.home)), "word", len(places), named) if places else None

    def _files(self) -> Iterator[Path]:
        for pattern in ("logs/*", "runs/*/log.txt", "upkeep/log.txt"):
            yield from sorted(path for path in self.home.glob(pattern) if path.is_file())

    def _places(self, path: Path, aim: Aim) -> list[tuple[int, int]]:
        data = path.read_bytes()
        found = {
            (hit.start(), len(word)) for word in spools.ids_within(data, aim.wanted.ids) for hit in _at(word, data)
        }
        for word in aim.words - aim.wanted.ids:
            found |= {(hit.start(), len(word.encode("utf-8", "surrogateescape"))) for hit in _at(word, data)}
        return sorted(found)


def remnants(place: str, path: Path, aim: Aim) -> list[Item]:
    """Ids that SQLite has not overwritten, in an SQLite file and its log.

    Only for a process without a connection to the file: when this closes it, the system takes away SQLite's locks.
    """
    files = [file for file in (path, path.with_name(f"{path.name}-wal")) if file.exists()]
    left = {i for file in files for i in spools.ids_within(file.read_bytes(), aim.wanted.ids)}
    return [Item(place, path.name, "remnant", len(left), "remnant")] if left else []


def all_places(home: Path, lake: Lake, model: str, stores: Stores | None = None) -> list[Place]:
    """Every place of an installation; what holds no subject is not among them, and what cannot be cleared is named."""
    run = home / "run"
    return [
        Spools(home / "spool"),
        LakeFiles(lake),
        Rows("idempotency", run / "idempotency.db", (Table("answers", ("caller", "key"), ("headers", "body")),)),
        Rows(
            "jobs",
            run / "jobs.db",
            (
                Table("jobs", ("id",), ("model", "asked", "answer"), partial(_asked_about, model)),
                Table("deliveries", ("id",), ("body",)),
            ),
        ),
        Reports(home / "reports" / model, stores),
        Logs(home),
    ]


def _asked_about(model: str, cells: Sequence[object]) -> set[str]:
    """Whom a prediction of a model that waits for its answer may be about: all that its body and headers name."""
    of, asked, _ = cells
    if of != model:  # the path need not name it: `/predict` is the default model's
        return set()
    try:
        request = msgspec.msgpack.decode(_bytes(asked))
        named, text = [dict(request["headers"]).get("x-entity")], request["body"]
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError):
        return set()
    try:
        body = json.loads(text)
    except ValueError:  # its headers count all the same
        body = None
    if isinstance(body, dict):
        parameters = body.get("parameters")
        named += [part.get("entity") for part in (body, parameters) if isinstance(part, dict)]
    return {name for name in named if isinstance(name, str)}


def _at(word: str, data: bytes) -> Iterator[re.Match[bytes]]:
    return re.finditer(
        rb"(?<![0-9A-Za-z])" + re.escape(word.encode("utf-8", "surrogateescape")) + rb"(?![0-9A-Za-z])", data
    )


def _bytes(cell: object) -> bytes:
    return cell if isinstance(cell, bytes) else str(cell or "").encode()
