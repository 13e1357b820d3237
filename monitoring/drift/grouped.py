"""Columns of one kind side by side: their cells in one array, so that a window is judged in a few operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monitoring.drift.drift import Floats, cells, ordered
from monitoring.drift.season import matched, pooled_hours
from monitoring.drift.windows import DEPTH, Window, scales_of


@dataclass(frozen=True, slots=True)
class Group:
    """Names of F columns, their cells [F, T, B] by window, newest last, and what each pool is compared with."""

    names: list[str]
    in_order: bool
    cells: Floats
    reference: Floats
    """[F, S, B]: the reference of every scale."""


def groups(specs: Mapping[str, dict[str, Any]], closed: Sequence[Window]) -> list[Group]:
    """Numbers, and columns whose cells have no order, of the last closed windows."""
    kept = closed[-DEPTH:]
    hours = pooled_hours(kept, scales_of(len(kept)))
    found = []
    for in_order in (True, False):
        names = [name for name, spec in specs.items() if ordered(spec) == in_order]
        if names:
            made = [cells(specs[n], np.array([window.counts[n] for window in kept])) for n in names]
            references = [matched(specs[n], hours) for n in names]
            found.append(Group(names, in_order, stack(made), stack(references)))
    return found


def stack(rows: Sequence[npt.NDArray[Any]]) -> Floats:
    """Cells of several columns, filled up with empty ones, which every test passes over."""
    width = max(row.shape[-1] for row in rows)
    found = np.zeros((len(rows), *rows[0].shape[:-1], width))
    for i, row in enumerate(rows):
        found[i, ..., : row.shape[-1]] = row
    return found
