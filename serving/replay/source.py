"""Recorded rows as a batch job reads a file: features, what was answered, and where reading goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from monitoring.intake.events import value_text
from monitoring.lake.lake import Lake
from monitoring.reading.recorded import Newest, Recorded, mark_of
from registry.contract import Contract
from serving.batch.arrow_cells import cells_of
from serving.batch.chunk import Chunk, Place
from serving.dialects.tabular import Cells

OURS: Final = ("_id", "_at", "_version", "_arm", "_prediction", "_probabilities")
UNRECORDED: Final = "its features were not recorded"


class RecordedRows:
    """Traffic of a model in a window, with labels: a `Source` of `serving.batch`.

    Args:
        lake: where it is recorded.
        contract: of the version that is to answer.
        low: first moment, in microseconds since 1970; none is all.
        high: moment after the last.
        missing: columns that are null for every row.
    """

    coerced = False

    def __init__(
        self, lake: Lake, contract: Contract, *, low: int | None, high: int, missing: frozenset[str] = frozenset()
    ) -> None:
        self._contract = contract
        self._missing = missing
        self._asked = [name for name in contract.names if name not in missing]
        self._recorded = Recorded(lake, contract.model, low=low, high=high, columns=[*self._asked, *OURS])
        self._labels = Newest(lake, contract.model, "label", ["_label"])
        self.total = self._recorded.most()

    @property
    def schema(self) -> list[str]:
        """Names of what is read."""
        return [*self._asked, *OURS]

    @property
    def kept_types(self) -> Mapping[str, Any]:
        """What was recorded beside the features."""
        import pyarrow as pa

        answer = pa.string() if self._contract.output.kind == "classification" else pa.float64()
        time = pa.timestamp("us", tz="UTC")
        return {
            "_id": pa.string(),
            "_at": time,
            "_version": pa.int64(),
            "_arm": pa.string(),
            "_prediction": answer,
            "_probabilities": pa.list_(pa.float32()),
            "_label": answer,
        }

    def close(self) -> None:
        """There is nothing to let go of."""

    def reached(self, place: Place) -> int:
        """Rows before a place."""
        return place.row

    def chunks(self, start: Place, rows: int) -> Iterator[Chunk]:
        """All rows from a place on, at most `rows` at once.

        Raises:
            StoreUnavailable: the lake cannot be read.
        """
        row = start.row
        for table in self._recorded.slices(start.mark):
            whole = table.combine_chunks()
            label = self._labels.of(whole.column("_id").combine_chunks())["_label"]
            for at in range(0, whole.num_rows, rows):
                part = whole.slice(at, rows)
                yield self._chunk(part, label.slice(at, rows), row)
                row += part.num_rows

    def _chunk(self, part: Any, label: Any, row: int) -> Chunk:
        kept = {
            name: _as(label if name == "_label" else part.column(name).combine_chunks(), kind)
            for name, kind in self.kept_types.items()
        }
        cells = {column.name: self._cells(part, column) for column in self._contract.columns}
        gone = set(self._asked) - set(part.column_names)
        unusable = dict.fromkeys(range(part.num_rows), UNRECORDED) if gone else {}
        after = Place(row + part.num_rows, mark=mark_of(part))
        return Chunk(row, part.num_rows, cells, kept, after, lambda _: None, unusable)

    def _cells(self, part: Any, column: Any) -> Cells:
        import pyarrow as pa

        if column.name in self._missing or column.name not in part.column_names:
            return cells_of(column, pa.nulls(part.num_rows))
        return cells_of(column, part.column(column.name).combine_chunks())


def _as(array: Any, kind: Any) -> Any:
    """An array of ours as the type that it has everywhere; classes that were written as numbers as their text."""
    import pyarrow as pa

    if array.type == kind:
        return array
    if pa.types.is_floating(array.type) and pa.types.is_string(kind):
        return pa.array([value_text(value) for value in array.to_pylist()], kind)
    return array.cast(kind, safe=False)
