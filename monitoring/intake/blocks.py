"""Answers by columns: how requests wait for the lake, on disk and on the way there.

A row a record costs a dozen microseconds of a CPU on its way to the lake; a column, a fraction of one. A request is
taken as it is (`Answered`), the spool's thread puts what one version answered in a while together (`Block`), and the
lake reads whole columns of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final, Protocol, runtime_checkable

import msgspec

from monitoring.intake.events import Arm, Event, PredictionEvent, Value
from monitoring.intake.pseudonyms import Digest, plain
from registry.contract import Column, Contract

__all__ = ["OF_REQUESTS", "Answered", "Block", "Columns", "block_of_answers", "block_of_events", "by_policy", "decode"]

MANY: Final = 256
Cells = list[Value] | bytes | None
"""A column: its values; or float64 little endian, NaN for null; or nothing, where its policy drops it."""


@runtime_checkable
class Columns(Protocol):
    """Rows that came by columns, and may go on as such."""

    def __len__(self) -> int:
        """The number of rows."""

    def column(self, name: str) -> list[Value] | bytes:
        """The cells of one column of the contract."""


class Answered(msgspec.Struct, gc=False):
    """What one request was answered, with all that the log keeps of it; `rows` are by rows or `Columns`."""

    contract: Contract
    version: int
    arm: Arm
    at: float
    received: float
    entity: str
    key: str
    latency_ms: float
    ids: Sequence[str]
    rows: Any
    predictions: Sequence[Any]
    values: Sequence[list[float]] | None
    deployment: int = 0
    assigned: int = 0

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.ids)

    @property
    def alone(self) -> bool:
        """Whether this is a block of its own: many rows that came by columns go on by columns."""
        return type(self.rows) is not list and len(self.ids) >= MANY and isinstance(self.rows, Columns)


OF_REQUESTS: Final = ("at", "received", "arm", "entity", "latency_ms", "key", "deployment", "assigned")
"""What a request's rows have in common; a list is empty where spools of earlier versions had none."""


class Block(msgspec.Struct, frozen=True, array_like=True, tag="b"):
    """Rows that one version answered, in the order of their numbers, unless it says otherwise.

    Of each request: the first of its consecutive sequence numbers, and what its rows have in common. Of each row: id,
    answer, and features column by column; a shadow has none.
    """

    model: str
    version: int
    shadow: bool
    first: list[int]
    rows: list[int]
    at: list[float]
    received: list[float]
    arm: list[Arm]
    entity: list[str]
    latency_ms: list[float]
    key: list[str]
    ids: list[str]
    predictions: list[Value]
    probabilities: list[list[float] | None] | None
    features: list[Cells]
    deployment: list[int] = []
    assigned: list[int] = []
    """Empty where no trial drew for any of the requests."""

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.ids)

    def only(self, requests: Sequence[int]) -> Block:
        """The same of some of its requests."""
        starts = [0]
        for count in self.rows:
            starts.append(starts[-1] + count)

        def some(values: Any) -> Any:
            return [values[n] for n in requests] if values else []

        def of_rows(values: Any, width: int = 1) -> Any:
            parts = (values[starts[n] * width : starts[n + 1] * width] for n in requests)
            return b"".join(parts) if isinstance(values, bytes) else list(chain.from_iterable(parts))

        return msgspec.structs.replace(
            self,
            **{name: some(getattr(self, name)) for name in ("first", "rows", *OF_REQUESTS)},
            ids=of_rows(self.ids),
            predictions=of_rows(self.predictions),
            probabilities=None if self.probabilities is None else of_rows(self.probabilities),
            features=[None if c is None else of_rows(c, 8 if isinstance(c, bytes) else 1) for c in self.features],
        )


_DECODER: msgspec.msgpack.Decoder[Event | Block] = msgspec.msgpack.Decoder(Event | Block)


def decode(body: bytes) -> Event | Block:
    """Read what one row of a spool holds.

    Raises:
        msgspec.DecodeError: the bytes are neither an event nor a block of them.
    """
    return _DECODER.decode(body)


def block_of_answers(first: Sequence[int], answers: Sequence[Answered], digest: Digest = plain) -> Block:
    """Answers of one version, all shadows or none, as a block.

    Args:
        first: the sequence number of the first row of each.
        answers: one or more.
        digest: makes pseudonyms of entities and of hashed columns.
    """
    contract, shadow = answers[0].contract, answers[0].arm == "shadow"
    values: list[list[float] | None] | None = None
    if any(a.values is not None for a in answers):
        nothing: list[list[float] | None] = [None]
        values = list(chain.from_iterable(a.values or nothing * len(a) for a in answers))
    return Block(
        contract.model,
        answers[0].version,
        shadow,
        list(first),
        [len(a.ids) for a in answers],
        [a.at for a in answers],
        [a.received for a in answers],
        [a.arm for a in answers],
        [digest(a.entity) if a.entity else "" for a in answers],
        [round(a.latency_ms, 3) for a in answers],
        [a.key for a in answers],
        list(chain.from_iterable(a.ids for a in answers)),
        _predictions(contract, answers, values),
        values,
        [] if shadow else _features(contract, answers, digest),
        [a.deployment for a in answers],
        [a.assigned for a in answers] if any(a.assigned for a in answers) else [],
    )


def block_of_events(numbered: Sequence[tuple[int, PredictionEvent]]) -> Block:
    """Single events of one version, all shadows or none: how spools of 0.1 keep them."""
    events = [event for _, event in numbered]
    width = max(len(e.features) for e in events)
    padded = [(*e.features, *[None] * (width - len(e.features))) for e in events]
    return Block(
        events[0].model,
        events[0].version,
        events[0].arm == "shadow",
        [number for number, _ in numbered],
        [1] * len(events),
        [e.at for e in events],
        [e.received for e in events],
        [e.arm for e in events],
        [e.entity for e in events],
        [e.latency_ms for e in events],
        [e.key for e in events],
        [e.id for e in events],
        [e.prediction for e in events],
        [e.probabilities for e in events],
        [list(column) for column in zip(*padded, strict=True)],
        [e.deployment for e in events],
        [e.assigned for e in events],
    )


def _predictions(contract: Contract, answers: Iterable[Answered], values: Sequence[Any] | None) -> list[Any]:
    """One number or class a row; of several targets the first, since all are among the values."""
    if contract.output.targets and values is not None:
        return [row[0] if row else None for row in values]
    return list(chain.from_iterable(a.predictions for a in answers))


def _features(contract: Contract, answers: Sequence[Answered], digest: Digest) -> list[Cells]:
    """By each column's policy: stored, hashed or dropped."""
    made: dict[str, Cells] = {}
    if answers[0].alone:
        rows = answers[0].rows
        made = {c.name: rows.column(c.name) for c in contract.columns if c.policy == "store"}
    left = [n for n, column in enumerate(contract.columns) if column.name not in made and column.policy != "drop"]
    if left:
        columns = list(zip(*chain.from_iterable(a.rows for a in answers), strict=True))
        made |= {(c := contract.columns[n]).name: _kept(c, columns[n], digest) for n in left}
    return [made.get(column.name) for column in contract.columns]


def by_policy(answered: Answered, digest: Digest = plain) -> tuple[str, Sequence[Sequence[Any]]]:
    """The entity and the rows of a request as the log may keep them: hashed, dropped, and the entity as its digest."""
    entity, rows = answered.entity, answered.rows
    if entity:
        entity = digest(entity)
    if type(rows) is not list:
        rows = list(rows)
    if answered.contract.hides and rows:
        columns = zip(answered.contract.columns, zip(*rows, strict=True), strict=True)
        nothing = [None] * len(rows)
        rows = list(
            zip(*(nothing if c.policy == "drop" else _kept(c, cells, digest) for c, cells in columns), strict=True)
        )
    return entity, rows


def _kept(column: Column, values: Iterable[Any], digest: Digest) -> list[Value]:
    if column.policy == "store":
        return list(values)
    return [None if value is None else digest(str(value)) for value in values]
