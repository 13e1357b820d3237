"""What changed between the contracts of two versions, and which of it breaks callers of the first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from registry.contract import EXACT_INT, Column, Contract

Kind = Literal[
    "added", "removed", "retyped", "null", "narrowed", "widened", "precision", "output", "classes", "numbers"
]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `column` is empty where it is about the answer or about all columns."""

    kind: Kind
    column: str
    message: str
    breaking: bool


def contract_diff(old: Contract, new: Contract) -> list[Change]:
    """Every difference from `old` to `new`, breaking ones first, then by column.

    Breaking is what makes a row that `old` takes fail on `new`, or an answer mean something else. Fewer categories do
    neither, because unseen values are served; they are told, since answers there are guesses from then on.
    """
    before = {column.name: column for column in old.columns}
    after = {column.name: column for column in new.columns}
    found = [
        Change("removed", name, f"column '{name}' was removed", breaking=True) for name in before if name not in after
    ]
    found += [
        Change("added", name, f"column '{name}' is new and required", breaking=True)
        for name in after
        if name not in before
    ]
    for name in before.keys() & after.keys():
        found += _column(before[name], after[name])
    found += _precision(old, new)
    found += _output(old, new)
    return sorted(found, key=lambda change: (not change.breaking, change.column, change.kind, change.message))


def _column(old: Column, new: Column) -> Iterator[Change]:
    name = old.name
    if old.dtype != new.dtype:
        yield Change("retyped", name, f"column '{name}' changed from {old.dtype} to {new.dtype}", breaking=True)
    if old.nullable != new.nullable:
        says = "no longer accepts null" if old.nullable else "accepts null now"
        yield Change("null", name, f"column '{name}' {says}", breaking=old.nullable)
    if old.dtype != new.dtype or old.categories is None or new.categories is None:
        return
    gone, come = set(old.categories) - set(new.categories), set(new.categories) - set(old.categories)
    if gone:
        yield Change(
            "narrowed",
            name,
            f"column '{name}': {len(gone)} of {len(old.categories)} categories are unknown now",
            breaking=False,
        )
    if come:
        yield Change("widened", name, f"column '{name}': {len(come)} categories are new", breaking=False)


def _precision(old: Contract, new: Contract) -> Iterator[Change]:
    if old.precision != new.precision:
        limit = EXACT_INT[new.precision]
        large = [
            c.name for c in old.columns if c.dtype == "int" and max(abs(c.minimum or 0), abs(c.maximum or 0)) > limit
        ]
        says = f"numbers changed from {old.precision} to {new.precision}"
        refused = f"; integers of column '{large[0]}' beyond ±{limit:,} are refused now" if large else ""
        yield Change("precision", "", says + refused, breaking=bool(large))


def _output(old: Contract, new: Contract) -> Iterator[Change]:
    if old.output.kind != new.output.kind:
        yield Change("output", "", f"the output changed from {old.output.kind} to {new.output.kind}", breaking=True)
        return
    before, after = old.output.classes, new.output.classes
    if before != after:
        gone, come = len(set(before) - set(after)), len(set(after) - set(before))
        counts = f": {gone} removed, {come} added" if gone or come else ""
        yield Change("classes", "", f"the classes or their order changed{counts}", breaking=True)
    if (old.output.targets, old.output.scores) != (new.output.targets, new.output.scores):
        yield Change("numbers", "", "the numbers that it answers, or their order, changed", breaking=True)
