"""Whether rows that some versions answered can be asked of another one: decided on contracts, before any work."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from monitoring.intake.events import value_text
from registry.contract import Contract, Output
from serving.batch.refusals import BatchRefused

_TAKEN: Final = {("int", "float")}
"""Types that another one takes as they are."""
_SHOWN: Final = 5


class ReplayRefused(BatchRefused):
    """Recorded rows that another version cannot be asked about."""

    code = "replay_refused"


@dataclass(frozen=True)
class Fit:
    """How recorded rows are asked: columns that are not in the log are null.

    `orders` has, for each recorded version, the places of the new version's classes among the recorded ones.
    """

    missing: frozenset[str] = frozenset()
    orders: Mapping[int, list[int]] = field(default_factory=dict)


def fit(target: Contract, recorded: Mapping[int, Contract], *, without_dropped: bool) -> Fit:
    """How to ask `target` about rows that `recorded` versions answered.

    Raises:
        ReplayRefused: columns are missing, of another type or not in the log, or the answers mean something else.
    """
    reasons = [f"version {n}: {why}" for n, contract in recorded.items() for why in _differences(contract, target)]
    if reasons:
        more = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
        raise ReplayRefused(
            f"what was recorded does not fit: {'; '.join(reasons[:_SHOWN])}{more}",
            where="--onto",
            hint="choose a version whose columns and answers are the same, or a window in which they are",
        )
    hidden = _hidden(target, recorded)
    needed = [column.name for column in target.columns if column.name in hidden and not column.nullable]
    if hidden and (needed or not without_dropped):
        named = ", ".join(f"'{name}' ({hidden[name]})" for name in hidden)
        raise ReplayRefused(
            f"the log does not hold the values of {named}",
            where="policies",
            hint=f"{', '.join(needed)} may not be null: this traffic cannot be replayed"
            if needed
            else "--without-dropped asks with null in their place; answers then differ for that alone",
        )
    return Fit(frozenset(hidden), {n: _order(contract.output, target.output) for n, contract in recorded.items()})


def _differences(old: Contract, new: Contract) -> Iterator[str]:
    """Why rows or answers of `old` are not those of `new`; a column that `new` does not ask for is left out."""
    before = {column.name: column for column in old.columns}
    for column in new.columns:
        was = before.get(column.name)
        if was is None:
            near = difflib.get_close_matches(column.name, [n for n in before if n not in new.names], n=1)
            renamed = f" (renamed from '{near[0]}'?)" if near else ""
            yield f"there is no column '{column.name}'{renamed}"
        elif was.dtype != column.dtype and (was.dtype, column.dtype) not in _TAKEN:
            yield f"column '{column.name}' is {was.dtype}, not {column.dtype}"
    if old.output.kind != new.output.kind:
        yield f"it answers by {old.output.kind}, not {new.output.kind}"
    elif set(_classes(old.output)) != set(_classes(new.output)):
        gone = len(set(_classes(old.output)) - set(_classes(new.output)))
        come = len(set(_classes(new.output)) - set(_classes(old.output)))
        yield f"its classes are others ({gone} are gone, {come} have come)"
    elif old.output.targets != new.output.targets:
        yield "it answers other numbers, or in another order"


def _hidden(target: Contract, recorded: Mapping[int, Contract]) -> dict[str, str]:
    """Columns of `target` whose values some version did not store, with the policy."""
    wanted = set(target.names)
    kept = {(c.name, c.policy) for contract in recorded.values() for c in contract.columns if c.policy != "store"}
    return {name: policy for name, policy in sorted(kept) if name in wanted}


def _classes(output: Output) -> list[str | None]:
    return [value_text(value) for value in output.classes]


def _order(old: Output, new: Output) -> list[int]:
    before = _classes(old)
    return [before.index(name) for name in _classes(new)]
