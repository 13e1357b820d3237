"""Recorded predictions of one model in the order of time, each once, in bounded memory.

A first look at a day reads times and numbers alone (some 80 bytes a row) and says in which order its rows come; then
rows are read a slice at a time. The order depends on the rows only, not on the files that hold them, so a reading
that stopped goes on after its last row even when upkeep has merged files meanwhile.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monitoring.lake.consumed import versions_of
from monitoring.lake.lake import Key, Lake
from monitoring.lake.lake_tables import Kind, empty_table, unify
from monitoring.lake.outcomes import counts, most_frequent
from monitoring.lake.revisions import numbered
from monitoring.reading.mark import Mark
from registry.errors import StoreUnavailable

__all__ = ["Mark", "Newest", "Recorded", "day_of", "mark_of", "opened", "outcome_names", "recorded_versions", "settled"]

T = TypeVar("T")
Array = npt.NDArray[Any]
SLICE: Final = 100_000
"""Rows that are read at once."""
_HELD: Final = 96 * 1024 * 1024
"""Bytes of files that are kept because the next slice most likely needs them too."""
_TRIES: Final = 5
"""How often files may vanish under a reading of one day: upkeep replaces them."""
_US: Final = 86_400_000_000
_NEWEST: Final = ("_id", "_received", "_boot", "_seq")


class Recorded:
    """Predictions of a model with low <= `_at` < high, both in microseconds since 1970.

    Args:
        lake: where they lie.
        model: name of the model.
        low: first moment; none is all.
        high: moment after the last.
        columns: those that are read, as far as files have them; none is all.
    """

    def __init__(
        self, lake: Lake, model: str, *, low: int | None, high: int | None, columns: Sequence[str] | None = None
    ) -> None:
        self._lake = lake
        self._model = model
        self._low = low
        self._high = high
        self._needed = None if columns is None else {*columns, "_at", "_boot", "_seq"}
        self._tables: OrderedDict[Key, pa.Table] = OrderedDict()

    def files(self) -> list[Key]:
        """Files of the days that the window touches, oldest first."""
        first = -_US if self._low is None else self._low - _US
        return [
            key
            for key in self._lake.files(self._model, "prediction")
            if first < _micros(day_of(key)) and (self._high is None or _micros(day_of(key)) < self._high)
        ]

    def schema(self) -> pa.Schema:
        """The columns of all files, as one type each."""

        def look() -> dict[pa.Schema, None]:
            return {self._reading(key, lambda file: file.schema_arrow.remove_metadata()): None for key in self.files()}

        schemas = [empty_table("prediction").schema, *settled(look)]
        return unify([_plain(schema).empty_table() for schema in schemas]).schema

    def most(self) -> int:
        """Rows of the files, which may hold more than the window and rows twice."""
        return settled(lambda: sum(self._lake.rows(key) for key in self.files()))

    def slices(self, after: Mark | None = None, rows: int = SLICE) -> Iterator[pa.Table]:
        """All rows after one of them, oldest first, at most so many at once.

        Raises:
            StoreUnavailable: files vanish again and again.
        """
        days = {day_of(key) for key in self.files()}
        for day in sorted(days):
            left = _TRIES
            while True:
                try:
                    for table in self._day(day, after, rows):
                        after, left = mark_of(table), _TRIES
                        yield table
                    break
                except FileNotFoundError as error:
                    left -= 1
                    self._tables.clear()
                    if not left:
                        raise StoreUnavailable(
                            "files of the event lake vanish while they are read", where=f"date={day}", hint="try again"
                        ) from error
            self._tables.clear()

    def _day(self, day: date, after: Mark | None, rows: int) -> Iterator[pa.Table]:
        files = [key for key in self.files() if day_of(key) == day]
        which, place, seq = self._order(files, after)
        for start in range(0, len(which), rows):
            part = slice(start, start + rows)
            table = self._slice(files, which[part], place[part])
            if not np.array_equal(table.column("_seq").to_numpy(), seq[part]):
                raise FileNotFoundError("a file was written anew")  # an erasure took rows out of it
            yield table

    def _order(self, files: Sequence[Key], after: Mark | None) -> tuple[Array, Array, Array]:
        """File, place in it and number of each row, in order; rows that lie in two files once."""
        looks = [self._reading(key, _look) for key in files]
        boots = sorted({boot for names, *_ in looks for boot in names})
        rank = {boot: n for n, boot in enumerate(boots)}
        at = _joined([look[1] for look in looks])
        seq = _joined([look[2] for look in looks])
        boot = _joined([np.array([rank[n] for n in names], np.int64)[codes] for names, _, _, codes in looks])
        which = np.repeat(np.arange(len(files), dtype=np.int32), [len(look[1]) for look in looks])
        place = _joined([np.arange(len(look[1])) for look in looks]).astype(np.int32)
        del looks
        keep = np.ones(len(at), dtype=bool)
        if self._low is not None:
            keep &= at >= self._low
        if self._high is not None:
            keep &= at < self._high
        if after is not None:
            # the boot of the mark may be among the files no more: erased, or its rows all lie before it
            passed = boot >= np.searchsorted(np.array(boots or [""]), after.boot, side="right")
            keep &= (at > after.at) | ((at == after.at) & ((seq > after.seq) | ((seq == after.seq) & passed)))
        chosen = np.flatnonzero(keep)
        order = chosen[np.lexsort((boot[chosen], seq[chosen], at[chosen]))]
        once = np.ones(len(order), dtype=bool)
        once[1:] = (np.diff(seq[order]) != 0) | (np.diff(boot[order]) != 0) | (np.diff(at[order]) != 0)
        order = order[once]
        return which[order], place[order], seq[order]

    def _slice(self, files: Sequence[Key], which: Array, place: Array) -> pa.Table:
        used = np.unique(which)
        parts = [_taken(self._table(files[n]), place[which == n]) for n in used]
        came = np.concatenate([np.flatnonzero(which == n) for n in used])
        whole = parts[0] if len(parts) == 1 else unify(parts)
        return whole if len(parts) == 1 else whole.take(pa.array(np.argsort(came)))

    def _table(self, key: Key) -> pa.Table:
        """A file's columns; the files that were wanted last are still there."""
        table = self._tables.pop(key, None)
        if table is None:
            table = self._reading(key, lambda file: _columns(file, self._needed))
        self._tables[key] = table
        while len(self._tables) > 1 and sum(t.nbytes for t in self._tables.values()) > _HELD:
            self._tables.popitem(last=False)
        return table

    def _reading(self, key: Key, look: Callable[[pq.ParquetFile], Any]) -> Any:
        with opened(self._lake, key, words=["_boot"]) as file:
            return look(file)


class Newest:
    """What the log has beside predictions, their labels or shadow answers: the newest, for some of them at a time.

    Args:
        lake: where they lie.
        model: name of the model.
        kind: label or shadow.
        columns: what is wanted of it.
    """

    def __init__(self, lake: Lake, model: str, kind: Kind, columns: Sequence[str]) -> None:
        self._lake = lake
        self._model = model
        self._kind = kind
        self._columns = tuple(columns)
        self._spans: dict[Key, tuple[str, str] | None] = {}

    def of(self, ids: pa.Array) -> dict[str, pa.Array]:
        """The columns in the order of the ids, of labels `_revision` too; null where there is nothing."""
        return settled(lambda: self._of(ids))

    def rows(self, ids: pa.Array) -> pa.Table:
        """All rows that are about these, in no order."""
        return settled(lambda: self._rows(ids))

    def _rows(self, ids: pa.Array) -> pa.Table:
        bounds = pc.min_max(ids).as_py()
        none = empty_table(self._kind)
        found = [none.select(sorted({*self._columns, *_NEWEST}))]
        for key in self._lake.files(self._model, self._kind):
            span = self._span(key)
            if span is None or not len(ids) or span[1] < bounds["min"] or span[0] > bounds["max"]:
                continue
            with opened(self._lake, key) as file:
                table = file.read(columns=[*self._columns, *_NEWEST]).replace_schema_metadata(None)
            found.append(table.filter(pc.is_in(table.column("_id"), value_set=ids)))
        return unify([table for table in found if table.num_rows] or found[:1])

    def _of(self, ids: pa.Array) -> dict[str, pa.Array]:
        whole = self._rows(ids)
        whole = numbered(whole) if self._kind == "label" else whole
        newest = whole.sort_by([(name, "descending") for name in _NEWEST[1:]])
        place = pc.index_in(ids, value_set=newest.column("_id").combine_chunks())
        return {
            name: newest.column(name).combine_chunks().take(place)
            for name in newest.column_names
            if name not in _NEWEST
        }

    def _span(self, key: Key) -> tuple[str, str] | None:
        """The first and the last id of a file, by its footer: ids rise with time, so most files are left alone."""
        if key not in self._spans:
            with opened(self._lake, key) as file:
                column = file.schema_arrow.names.index("_id")
                groups = [file.metadata.row_group(n).column(column).statistics for n in range(file.num_row_groups)]
            if all(group is not None and group.has_min_max for group in groups):
                spans = [(group.min, group.max) for group in groups]
                self._spans[key] = (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None
            else:
                self._spans[key] = ("", "\U0010ffff")
        return self._spans[key]


def outcome_names(lake: Lake, model: str) -> list[str]:
    """Names under which outcomes of a model were ever told, as many as become columns."""

    def look() -> list[str]:
        counted: Counter[str] = Counter()
        for key in lake.files(model, "outcome"):
            with opened(lake, key) as file:
                counted.update(counts(file.read(columns=["_outcomes"])))
        return most_frequent(counted)

    return settled(look)


@contextmanager
def opened(lake: Lake, key: Key, *, words: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """A file of the lake; columns of `words` that repeat are read as numbers of them.

    Raises:
        FileNotFoundError: it is gone, since it was merged or erased.
        StoreUnavailable: it is damaged, or the store does not give it.
    """
    with lake.storage.read(key) as source, pq.ParquetFile(source, read_dictionary=list(words)) as file:
        yield file


def settled(look: Callable[[], T]) -> T:
    """A look at many files, begun again when one of them was merged into another meanwhile."""
    for _ in range(_TRIES - 1):
        with suppress(FileNotFoundError):
            return look()
    try:
        return look()
    except FileNotFoundError as error:
        raise StoreUnavailable(
            "files of the event lake vanish while they are read", where="lake_url", hint="try again"
        ) from error


def day_of(key: Key) -> date:
    """The day that a file's folder is of, by the time of its events.

    Raises:
        StoreUnavailable: it is of none: somebody else put the file there.
    """
    try:
        return date.fromisoformat(key.parent.name.removeprefix("date="))
    except ValueError:
        raise StoreUnavailable(
            f"a file of the event lake is in no folder of a day: {key}",
            where="lake_url",
            hint="move it out of the lake",
        ) from None


def recorded_versions(files: Sequence[Key]) -> list[int]:
    """Versions that answered what files of predictions hold, by their names."""
    return sorted({version for key in files for version in versions_of(key.name)})


def _look(file: pq.ParquetFile) -> tuple[list[str], Array, Array, Array]:
    """Names of boots, and of each row its time, its number and its boot's place among the names."""
    table = file.read(columns=["_at", "_boot", "_seq"])
    boots = table.column("_boot").combine_chunks()
    at = table.column("_at").cast(pa.int64()).to_numpy()
    return boots.dictionary.to_pylist(), at, table.column("_seq").to_numpy(), boots.indices.to_numpy()


def _taken(table: pa.Table, places: Array) -> pa.Table:
    if places.max() >= table.num_rows:
        raise FileNotFoundError("a file was written anew")
    return table.take(pa.array(places))


def _plain(schema: pa.Schema) -> pa.Schema:
    """The same without the dictionaries that reading made."""
    kinds = (f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in schema)
    return pa.schema([field.with_type(kind) for field, kind in zip(schema, kinds, strict=True)])


def _columns(file: pq.ParquetFile, needed: set[str] | None) -> pa.Table:
    names = None if needed is None else [name for name in file.schema_arrow.names if name in needed]
    table = file.read(columns=names)
    number = table.column_names.index("_boot")
    return table.set_column(number, "_boot", table.column("_boot").cast(pa.string()))


def _joined(parts: Sequence[Array]) -> Array:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def mark_of(table: pa.Table) -> Mark:
    """The place of the last row."""
    last = table.slice(table.num_rows - 1)
    at = last.column("_at").cast(pa.int64())[0].as_py()
    return Mark(at, last.column("_seq")[0].as_py(), last.column("_boot")[0].as_py())


def _micros(day: date) -> int:
    return (day - date(1970, 1, 1)).days * _US
