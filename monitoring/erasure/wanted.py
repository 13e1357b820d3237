"""Whose events are to go, and which rows those are: of the lake, of a spool, of a block."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec
import pyarrow as pa

from monitoring.intake.blocks import OF_REQUESTS, Block, Cells
from monitoring.intake.events import Event, LabelEvent, PredictionEvent
from monitoring.intake.pseudonyms import Digest, plain
from monitoring.lake.tombstones import Erased
from registry.errors import ConfigInvalid

__all__ = ["Wanted", "check_subject", "spellings"]


def check_subject(text: str) -> str:
    """A subject that can be meant.

    Raises:
        ConfigInvalid: it is empty, or looks like a pattern: one person is erased at a time, by the exact entity.
    """
    if not text.strip():
        raise ConfigInvalid("the subject is empty", where="--subject", expected="the entity that callers send")
    if "*" in text or "%" in text:
        raise ConfigInvalid(
            "the subject looks like a pattern, and is taken literally",
            where="--subject",
            expected="one entity, exactly as callers send it",
            hint="if the entity really holds * or %, say --literal",
        )
    return text


def spellings(text: str) -> tuple[str, ...]:
    """How an entity may have been logged: as JSON gives it, as a header's bytes are read, and composed either way.

    >>> spellings("Zoe")
    ('Zoe',)
    >>> len(spellings("Zo\u00eb"))
    4
    """
    forms = [text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))]
    forms += [form.encode("utf-8", "surrogateescape").decode("latin-1") for form in forms]
    return tuple(dict.fromkeys(forms))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Predictions of a model that `subjects`, pseudonyms, made until `until` (unix seconds); and `ids`, always."""

    model: str
    until: float = 0.0
    subjects: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()

    @classmethod
    def subject(cls, model: str, text: str, until: float, digest: Digest) -> Wanted:
        """All of a person, also in what version 0.1 wrote."""
        names = spellings(text)
        return cls(model, until, frozenset(make(name) for name in names for make in (digest, plain)))

    def with_ids(self, ids: Iterable[str]) -> Wanted:
        """The same and these predictions."""
        return replace(self, ids=self.ids.union(ids))

    def hits(self, table: pa.Table) -> pa.Array:
        """Which rows of a table of the lake these are."""
        return Erased(subjects=dict.fromkeys(self.subjects, self.until), ids=self.ids).hits(table)

    def rows(self, event: Event | Block) -> list[int]:
        """Which rows of what a spool holds these are, by their place."""
        if event.model != self.model:
            return []
        if isinstance(event, LabelEvent):
            return [0] if event.prediction_id in self.ids else []
        if isinstance(event, PredictionEvent):
            return [0] if event.id in self.ids or self.theirs(event.entity, event.received) else []
        found = {n for n, identifier in enumerate(event.ids) if identifier in self.ids}
        at = 0
        for entity, received, count in zip(event.entity, event.received, event.rows, strict=True):
            if self.theirs(entity, received):
                found.update(range(at, at + count))
            at += count
        return sorted(found)

    def theirs(self, entity: str, received: float) -> bool:
        """Whether predictions of a pseudonym that were received then are to go."""
        return entity in self.subjects and received <= self.until


def identifiers(event: Event | Block, rows: Iterable[int]) -> list[str]:
    """Ids of the predictions in these rows."""
    if isinstance(event, LabelEvent):
        return [event.prediction_id for _ in rows]
    if isinstance(event, PredictionEvent):
        return [event.id for _ in rows]
    return [event.ids[n] for n in rows]


def without(block: Block, rows: Iterable[int]) -> Block | None:
    """A block without some of its rows, each of the others under its number; None when none is left.

    A request that loses rows in its middle becomes several, since the rows of one have consecutive numbers.
    """
    gone = set(rows)
    parts: list[tuple[int, int, int]] = []  # request, place of the first row, rows
    at = 0
    for request, count in enumerate(block.rows):
        for row in range(at, at + count):
            if row in gone:
                continue
            if parts and parts[-1][0] == request and sum(parts[-1][1:]) == row:
                parts[-1] = (request, parts[-1][1], parts[-1][2] + 1)
            else:
                parts.append((request, row, 1))
        at += count
    if not parts:
        return None
    starts = [0]
    for count in block.rows:
        starts.append(starts[-1] + count)
    # as if each part had been a request: then `only` knows the rest
    alone = [number for number, _, _ in parts]
    kept = [row for _, first, count in parts for row in range(first, first + count)]

    def of_requests(name: str) -> list[object]:
        values: list[object] = getattr(block, name)
        return [values[number] for number in alone] if values else []

    return msgspec.structs.replace(
        block,
        **{name: of_requests(name) for name in OF_REQUESTS},
        first=[block.first[number] + row - starts[number] for number, row, _ in parts],
        rows=[count for _, _, count in parts],
        ids=[block.ids[row] for row in kept],
        predictions=[block.predictions[row] for row in kept],
        probabilities=None if block.probabilities is None else [block.probabilities[row] for row in kept],
        features=[_some(cells, kept) for cells in block.features],
    )


def _some(cells: Cells, rows: list[int]) -> Cells:
    if cells is None:
        return None
    if isinstance(cells, bytes):
        return b"".join(cells[8 * row : 8 * row + 8] for row in rows)
    return [cells[row] for row in rows]
