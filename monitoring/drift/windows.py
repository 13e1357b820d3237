"""Windows: counts of consecutive rows, closed by size or event-time age, and the ladder pooled over them.

A window is counts only, so windows merge exactly and shards add up to a single stream. A quiet hour does not
make a useless window: past its age a window stays open until it holds `min_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from registry.reference import HOURS

Counts = npt.NDArray[np.int64]

SCALES: Final = (1, 4, 16, 64)
DEPTH: Final = SCALES[-1]


class Window(msgspec.Struct):
    """Counts of `rows` consecutive rows; `start` and `end` are event times, unix seconds."""

    start: float = 0.0
    end: float = 0.0
    rows: int = 0
    counts: dict[str, list[int]] = {}
    hours: list[int] = []
    """Rows by hour of the day, UTC; empty where that is not known."""


class Segment(msgspec.Struct, frozen=True):
    """Rows [first, last) of a batch that fall in one window; `closes` it when True."""

    first: int
    last: int
    closes: bool


def segments(
    at: npt.NDArray[np.float64], start: float, rows: int, *, window_rows: int, max_age_s: float, min_rows: int
) -> Iterator[Segment]:
    """Cut a batch, in its order, into windows; the open one holds `rows` rows since `start`.

    The cut depends only on the rows before it, so it is the same however the stream is split into batches.
    """
    first = 0
    while first < len(at):
        if rows == 0:
            start = float(at[first])
        full = first + window_rows - rows
        # the earliest row that may open the next window, when it is too far from the start of this one
        floor = first + max(min_rows - rows, 1 if rows == 0 else 0)
        old = np.flatnonzero(at[floor:full] - start >= max_age_s)
        if len(old):
            last, closes = floor + int(old[0]), True
        else:
            last, closes = min(full, len(at)), full <= len(at)
        yield Segment(first, last, closes)
        first, rows = last, 0 if closes else rows + last - first


def merge(windows: Sequence[Window]) -> Window:
    """The window of all their rows together: exact, in any order."""
    filled = [window for window in windows if window.rows]
    if not filled:
        return Window()
    merged = Window(
        min(window.start for window in filled),
        max(window.end for window in filled),
        sum(window.rows for window in filled),
    )
    for window in filled:
        merged.counts = add(merged.counts, window.counts)
    if all(window.hours for window in filled):
        merged.hours = [sum(column) for column in zip(*(window.hours for window in filled), strict=True)]
    return merged


def add(left: Mapping[str, Sequence[int]], right: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Counts of both, column by column."""
    total = {name: list(counts) for name, counts in left.items()}
    for name, counts in right.items():
        before = total.get(name, [0] * len(counts))
        total[name] = [a + b for a, b in zip(before, counts, strict=True)]
    return total


def scales_of(held: int) -> list[int]:
    """Scales that `held` windows reach: while fewer exist than one asks for, the next smaller one stands for it."""
    return [scale for i, scale in enumerate(SCALES) if held and (i == 0 or held > SCALES[i - 1])]


def ladder(stack: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of windows' counts [..., T, B], newest last, those pooled over the last 1, 4, 16 and 64: [..., S, B]."""
    return np.stack([stack[..., -scale:, :].sum(axis=-2) for scale in scales_of(stack.shape[-2])], axis=-2)


Counter = Callable[[int, int], dict[str, list[int]]]


def extend(window: Window, segment: Segment, at: npt.NDArray[np.float64], count: Counter) -> Window:
    """`window` with the rows of `segment`; `count(first, last)` counts them column by column."""
    times = at[segment.first : segment.last]
    if not len(times):
        return window
    rows = len(times)
    hours = np.bincount((np.floor(times / 3600.0) % HOURS).astype(np.int64), minlength=HOURS).tolist()
    part = Window(float(times[0]), float(times.max()), rows, count(segment.first, segment.last), hours)
    if not window.rows:
        return part
    # the start is that of the first row in stream order: the age is counted from it
    return msgspec.structs.replace(merge([window, part]), start=window.start)
