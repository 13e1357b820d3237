"""Who used what: requests, rows and seconds by key, model and day, counted from the event lake.

Days and bounds are those of arrival, by the server's clock: a caller chooses the event time, and must not choose the
month that it is billed in. Shadow answers are not counted, for nobody asked for them. A row that lies in two files,
after a crash or while files are merged, is counted once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from monitoring.lake.consumed import versions_of
from monitoring.lake.lake import Key, Lake
from monitoring.reading.recorded import day_of, opened, settled

__all__ = ["Used", "Whose", "usage"]

Array = npt.NDArray[Any]
_Group = tuple[str, int]
"""A key and a day since 1970."""
_US: Final = 86_400_000_000
_EPOCH: Final = date(1970, 1, 1)
_NUMBER: Final = 40
"""Bits of a row's number; those above are its boot's."""


class Whose(NamedTuple):
    """A key (the id, never the key), a model and a day of UTC."""

    key: str
    model: str
    day: date


@dataclass(frozen=True, slots=True)
class Used:
    """What was answered; `latency_us` are microseconds inside the process, of each request once."""

    requests: int = 0
    rows: int = 0
    latency_us: int = 0

    def __add__(self, other: Used) -> Used:
        return Used(self.requests + other.requests, self.rows + other.rows, self.latency_us + other.latency_us)


def usage(lake: Lake, *, low: int | None, high: int | None) -> dict[Whose, Used]:
    """What arrived at low <= time < high, in microseconds since 1970; in the order of keys, models and days.

    Raises:
        StoreUnavailable: the lake cannot be read.
    """
    found: dict[Whose, Used] = {}
    for model in lake.models():
        days = sorted({day_of(key) for key in lake.files(model, "prediction")})
        for day in days:
            # event time may be earlier than arrival by years, but is never more than a day later
            if high is None or _micros(day - timedelta(days=1)) < high:
                found |= {whose: found.get(whose, Used()) + used for whose, used in _day(lake, model, day, low, high)}
    return dict(sorted(found.items()))


def _day(lake: Lake, model: str, day: date, low: int | None, high: int | None) -> Iterator[tuple[Whose, Used]]:
    """One folder of event time, whose rows may have arrived on several days."""

    def look() -> dict[_Group, Used]:
        versions: dict[tuple[int, ...], list[Key]] = defaultdict(list)
        for key in lake.files(model, "prediction"):
            if day_of(key) == day and _touches(lake, key, low, high):
                versions[versions_of(key.name)].append(key)
        total: dict[_Group, Used] = defaultdict(Used)
        for files in versions.values():
            for group, used in _counted(lake, files, low, high):
                total[group] += used
        return total

    for (key, number), used in settled(look).items():
        yield Whose(key, model, _EPOCH + timedelta(days=number)), used


def _touches(lake: Lake, key: Key, low: int | None, high: int | None) -> bool:
    """Whether rows of a file arrived between the bounds, by its footer."""
    if low is None and high is None:
        return True
    with opened(lake, key) as file:
        column = file.schema_arrow.names.index("_received")
        for n in range(file.num_row_groups):
            told = file.metadata.row_group(n).column(column).statistics
            if told is None or not told.has_min_max:
                return True
            first, last = (pa.scalar(value, pa.timestamp("us", tz="UTC")).value for value in (told.min, told.max))
            if (high is None or first < high) and (low is None or last >= low):
                return True
    return False


def _counted(lake: Lake, files: Sequence[Key], low: int | None, high: int | None) -> Iterator[tuple[_Group, Used]]:
    """Counts of files that may share rows."""
    boots: dict[str, int] = {}
    numbers = [_numbers(lake, key, boots) for key in files]
    for key, own, once in zip(files, numbers, _firsts(numbers), strict=True):
        yield from _tally(lake, key, own, once, low, high)


def _numbers(lake: Lake, key: Key, boots: dict[str, int]) -> Array:
    """One number for each row of a file: its boot's place among `boots`, and its own number."""
    with opened(lake, key, words=["_boot"]) as file:
        table = file.read(columns=["_boot", "_seq"])
    column = table.column("_boot").combine_chunks()
    names = column.dictionary.to_pylist()
    places = np.array([boots.setdefault(name, len(boots)) for name in names], np.int64)
    found: Array = (places[column.indices.to_numpy()] << _NUMBER) | table.column("_seq").to_numpy()
    return found


def _firsts(numbers: Sequence[Array]) -> list[Array | None]:
    """Which rows of each file are in none before it; None where that is all of them."""
    whole = np.concatenate(numbers) if numbers else np.empty(0, np.int64)
    ordered = np.sort(whole)
    if not (np.diff(ordered) == 0).any():
        return [None] * len(numbers)
    del ordered
    once = np.zeros(len(whole), dtype=bool)
    once[np.unique(whole, return_index=True)[1]] = True
    return list(np.split(once, np.cumsum([len(part) for part in numbers])[:-1]))


def _tally(
    lake: Lake, file: Key, numbers: Array, once: Array | None, low: int | None, high: int | None
) -> Iterator[tuple[_Group, Used]]:
    with opened(lake, file, words=["_key"]) as source:
        table = source.read(columns=["_received", "_key", "_latency_ms"])
    column = table.column("_key").combine_chunks()
    keys, code = column.dictionary.to_pylist(), column.indices.to_numpy()
    received = table.column("_received").cast(pa.int64()).to_numpy()
    latency = np.rint(table.column("_latency_ms").to_numpy() * 1_000).astype(np.int64)
    keep = np.ones(len(numbers), dtype=bool) if once is None else once
    keep = keep & (received >= (low if low is not None else 0))
    if high is not None:
        keep &= received < high
    begins = _begins(numbers, received, latency)
    numbers, received, latency, code, begins = (a[keep] for a in (numbers, received, latency, code, begins))
    if not len(numbers):
        return
    day = received // _US
    group = code.astype(np.int64) * (1 << 24) + day
    for one in np.unique(group):
        mine = group == one
        used = Used(int(begins[mine].sum()), int(mine.sum()), int(latency[mine & begins].sum()))
        yield (keys[one >> 24], int(one & ((1 << 24) - 1))), used


def _begins(numbers: Array, received: Array, latency: Array) -> Array:
    """Which rows are the first of their request.

    The rows of a request have consecutive numbers, one time of arrival to the microsecond and one latency.
    """
    order = np.argsort(numbers, kind="stable")
    same = (np.diff(numbers[order]) == 1) & (np.diff(received[order]) == 0) & (np.diff(latency[order]) == 0)
    found = np.ones(len(numbers), dtype=bool)
    found[order[1:][same]] = False
    return found


def _micros(day: date) -> int:
    return (day - _EPOCH).days * _US
