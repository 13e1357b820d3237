"""A few thousand rows of a file on their way to the engine, and where reading goes on after them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from monitoring.reading.mark import Mark
from serving.dialects.tabular import Cells


class Place(msgspec.Struct, frozen=True):
    """The number of the next row, from 0; in CSV also the byte and the line (from 1) at which it begins.

    In recorded traffic `mark` says which row was the last one.
    """

    row: int = 0
    byte: int = 0
    line: int = 1
    mark: Mark | None = None


@dataclass(frozen=True)
class Chunk:
    """Rows `first` to `first + count`: features by name, kept columns as Arrow arrays.

    `unusable` says what is wrong with rows, by place in the chunk, that have not even got their cells. `line_of`
    gives the line of a row in the chunk, where the file has lines.
    """

    first: int
    count: int
    cells: Mapping[str, Cells]
    kept: Mapping[str, Any]
    after: Place
    line_of: Callable[[int], int | None]
    unusable: Mapping[int, str] = field(default_factory=dict)


class Source(Protocol):
    """A file of rows that was found sound as far as one can see without reading all values."""

    coerced: bool
    """Whether values are texts that spell what they are."""

    @property
    def schema(self) -> list[str]:
        """Names and types of the columns, in order."""

    @property
    def kept_types(self) -> Mapping[str, Any]:
        """Arrow types of the columns that are kept."""

    @property
    def total(self) -> int:
        """How much there is to read, in units of `reached`."""

    def close(self) -> None:
        """Let go of the file."""

    def reached(self, place: Place) -> int:
        """How far a place is."""

    def chunks(self, start: Place, rows: int) -> Iterator[Chunk]:
        """All rows from a place on, at most `rows` at once."""
