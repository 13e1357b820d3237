"""What was erased and must not come back: small files beside the lake's, which everybody who writes to it reads.

A person's rows may still lie in a spool of another machine, or be on their way through a merge, when they are erased
from the lake. So the tombstone is written first, and whoever writes a file leaves out what a tombstone names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final
from urllib.parse import quote

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monitoring.lake.storage import Key, Storage
from registry.errors import StoreUnavailable

__all__ = ["Erased", "Tombstone", "Tombstones"]

FOLDER: Final = "_erased"
"""Readers of partitioned folders pass over names that begin with an underscore."""


class Tombstone(msgspec.Struct, frozen=True):
    """Pseudonyms whose predictions are erased if they were received until `at` (unix seconds), and predictions by id.

    An id stands for a prediction, its shadow and all its labels, whenever they arrive. Whoever leaves out rows of a
    subject adds their ids, with the subjects in `because` and the arrival of the earliest row in `since`.
    """

    model: str
    at: float = 0.0
    subjects: list[str] = []
    ids: list[str] = []
    because: list[str] = []
    since: float | None = None


@dataclass(frozen=True)
class Erased:
    """All tombstones of a model together; `subjects` are by pseudonym the time until which it is erased."""

    names: frozenset[Key] = frozenset()
    subjects: dict[str, float] = field(default_factory=dict)
    ids: frozenset[str] = frozenset()

    @classmethod
    def of(cls, found: dict[Key, Tombstone]) -> Erased:
        """The sum of several."""
        subjects: dict[str, float] = {}
        for stone in found.values():
            for subject in stone.subjects:
                subjects[subject] = max(stone.at, subjects.get(subject, stone.at))
        ids = frozenset(identifier for stone in found.values() for identifier in stone.ids)
        return cls(frozenset(found), subjects, ids)

    @cached_property
    def _ids(self) -> pa.Array:
        return pa.array(list(self.ids), pa.string())

    def hits(self, table: pa.Table) -> pa.Array:
        """Which rows of a table of the lake are erased."""
        hit = np.zeros(table.num_rows, dtype=bool)
        if self.ids:
            hit |= _flags(pc.is_in(table.column("_id"), self._ids))
        if self.subjects and "_entity" in table.column_names:
            entities = table.column("_entity")
            theirs = np.flatnonzero(_flags(pc.is_in(entities, pa.array(sorted(self.subjects), pa.string()))))
            received = table.column("_received").cast(pa.int64()).take(pa.array(theirs)).to_pylist()
            for row, name, micros in zip(theirs, entities.take(pa.array(theirs)).to_pylist(), received, strict=True):
                hit[row] |= micros / 1e6 <= self.subjects[name]
        return pa.array(hit)

    def by_subject(self, model: str, gone: pa.Table) -> Tombstone | None:
        """What to write down about erased rows that no tombstone names by their ids yet; None: all are."""
        ids = gone.column("_id").to_pylist()
        fresh = [n for n, identifier in enumerate(ids) if identifier not in self.ids]
        if not fresh:
            return None
        rows = gone.select(["_id", "_entity", "_received"]).take(pa.array(fresh))
        since = min(rows.column("_received").cast(pa.int64()).to_pylist()) / 1e6
        because = sorted(set(rows.column("_entity").to_pylist()))
        return Tombstone(model, ids=sorted(set(rows.column("_id").to_pylist())), because=because, since=since)


def _flags(column: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    flags: np.ndarray[tuple[int], np.dtype[np.bool_]] = column.to_numpy().astype(bool)
    return flags


class Tombstones:
    """The tombstones of one lake. They are never changed, so each is read once."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._read: dict[Key, Tombstone] = {}
        self._sums: dict[str, Erased] = {}

    def add(self, stone: Tombstone) -> Key:
        """Keep a tombstone for good; the same one again is the same file."""
        data = msgspec.json.encode(stone)
        key = _folder(stone.model) / f"{hashlib.sha256(data).hexdigest()[:32]}.json"
        self._storage.write(key, pa.py_buffer(data))
        return key

    def of(self, model: str) -> Erased:
        """What is erased of a model, as of now."""
        names = self.names(model)
        known = self._sums.get(model)
        if known is None or known.names != frozenset(names):
            known = self._sums[model] = Erased.of(self.named(names))
        return known

    def names(self, model: str) -> list[Key]:
        """The files of a model's tombstones, as of now."""
        return [key for key in self._storage.files(_folder(model)) if key.suffix == ".json"]

    def named(self, names: Iterable[Key]) -> dict[Key, Tombstone]:
        """These tombstones.

        Raises:
            StoreUnavailable: one cannot be read: then nothing may be written, since it would not be left out.
        """
        found = {}
        for key in names:
            if key not in self._read:
                try:
                    with self._storage.read(key) as source:
                        self._read[key] = msgspec.json.decode(source.read(), type=Tombstone)
                except (FileNotFoundError, msgspec.MsgspecError) as error:
                    raise StoreUnavailable(
                        "a record of what was erased cannot be read", where=str(key), hint="restore it from a backup"
                    ) from error
            found[key] = self._read[key]
        return found


def _folder(model: str) -> Key:
    return Key(FOLDER, quote(model, safe=""))
