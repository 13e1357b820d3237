"""Shapley values of a model that can only be asked: all mixes of a row with background rows, or some orders of them.

With few columns every subset is asked, and the values are exact. With many, columns are changed from a background row's
value to the row's own, one after the other, in random orders and their reverses: each order adds up to the answer
exactly, and the mean over orders is an unbiased estimate (Castro et al., Computers & Operations Research 2009).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
Value = Callable[[Tensors], Array]
"""Tensors of N rows in, the number that is explained of each out [N]."""
BUDGET: Final = 20_000
"""Rows that a model is asked to explain one, about: what a boosted model answers in a tenth of a second."""
MOST_ORDERS: Final = 32
_AT_ONCE: Final = 4_096
_LEAST_ROWS: Final = 8


@dataclass(frozen=True)
class Players:
    """The contract's columns: for each the tensor that it lies in, and its place there."""

    places: tuple[tuple[str, int], ...]

    def mixed(self, row: Tensors, background: Tensors, taken: Array) -> Tensors:
        """For each set of columns taken from the row [sets, columns], that row over all of the background."""
        made = {}
        for name, rows in background.items():
            columns = [number for number, (tensor, _) in enumerate(self.places) if tensor == name]
            own = taken[:, None, columns]
            made[name] = np.where(own, row[name][None], rows[None]).reshape(-1, rows.shape[1])
        return made


@dataclass(frozen=True)
class Mixed:
    """Values of each column, what the background is answered on average, and how sure that is."""

    values: Array
    base: float
    method: str
    rows: int
    deviation: float | None
    """The largest standard error of a column; none where every subset was asked."""


def mix(value: Value, players: Players, row: Tensors, background: Tensors, *, seed: int = 0) -> Mixed:
    """Shapley values of one row (tensors of one row) against the mean of the background."""
    count = len(players.places)
    rows = len(next(iter(background.values())))
    if rows << min(count, 40) <= BUDGET:
        return _all(value, players, row, background, rows)
    # the most expensive contracts are compared with fewer rows rather than in fewer orders
    kept = max(min(rows, _LEAST_ROWS), min(rows, BUDGET // (2 * count)))
    if kept < rows:
        chosen = np.linspace(0, rows - 1, kept).astype(int)
        background = {name: tensor[chosen] for name, tensor in background.items()}
    orders = 2 * max(1, min(MOST_ORDERS, BUDGET // (kept * count)) // 2)
    random = np.random.default_rng(seed)
    found = np.zeros((orders // 2, count))
    base = 0.0
    for pair in range(orders // 2):
        order = random.permutation(count)
        for way in (order, order[::-1]):
            taken = np.tri(count + 1, count, -1, dtype=bool)[:, np.argsort(way)]
            answers = _means(value, players, row, background, taken)
            base = float(answers[0])
            found[pair, way] += np.diff(answers) / 2
    error = found.std(0, ddof=1) / math.sqrt(len(found)) if len(found) > 1 else None
    return Mixed(found.mean(0), base, "permutation", kept, None if error is None else float(error.max()))


def _all(value: Value, players: Players, row: Tensors, background: Tensors, rows: int) -> Mixed:
    count = len(players.places)
    taken = (np.arange(1 << count)[:, None] >> np.arange(count)) & 1 == 1
    answers = _means(value, players, row, background, taken)
    sizes = taken.sum(1)
    share = np.array([math.factorial(s) * math.factorial(count - s - 1) / math.factorial(count) for s in range(count)])
    values = np.zeros(count)
    for column in range(count):
        without = np.flatnonzero(~taken[:, column])
        values[column] = share[sizes[without]] @ (answers[without | (1 << column)] - answers[without])
    return Mixed(values, float(answers[0]), "exact", rows, None)


def _means(value: Value, players: Players, row: Tensors, background: Tensors, taken: Array) -> Array:
    """The mean answer for each set of columns."""
    rows = len(next(iter(background.values())))
    step = max(1, _AT_ONCE // rows)
    parts = [
        value(players.mixed(row, background, taken[start : start + step])).reshape(-1, rows).mean(1)
        for start in range(0, len(taken), step)
    ]
    return np.concatenate(parts)
