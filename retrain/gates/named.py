"""Parts of the rows by the value of one column, under names that may be kept and shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from registry.baseline import parts
from registry.contract import Column

__all__ = ["Mask", "named_parts", "shown"]

Mask = NDArray[np.bool_]
LONGEST: Final = 60


def named_parts(column: Column, values: Any, *, noun: str) -> Iterator[tuple[str, Mask]]:
    """The parts as the card has them; of a column whose values may not be stored, numbered."""
    known: set[str] = set()
    for number, (value, mask) in enumerate(parts(column, values), start=1):
        name = shown(value) if column.policy == "store" else f"{noun} {number}"
        name = name if name not in known else f"{name} ({noun} {number})"
        known.add(name)
        yield name, mask


def shown(value: str) -> str:
    r"""A category's value as a row of evidence and a terminal can bear it.

    >>> shown("a\x1b[2Jb" + "c" * 100)[:8]
    'a [2Jbcc'
    """
    return "".join(c if c.isprintable() else " " for c in value)[:LONGEST]
