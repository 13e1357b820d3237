"""The ladder of a trial: shadow, canary, A/B with growing weights; after it comes promotion, and the watch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from registry.errors import ConfigInvalid

__all__ = ["CANARY", "LADDER", "Step", "ladder"]

CANARY = 0.01
LADDER = ("shadow", "canary", "ab:0.05", "ab:0.25", "ab:0.5")


@dataclass(frozen=True, slots=True)
class Step:
    """One stage: how the deployment stands while it lasts. `weight` is the candidate's share, 0 in shadow."""

    kind: Literal["shadow", "canary", "ab"]
    weight: float

    @property
    def drawn(self) -> bool:
        """Whether entities are drawn to an arm, so that the arms can be compared."""
        return self.weight > 0.0


def ladder(specs: Iterable[str]) -> tuple[Step, ...]:
    """Read the names of stages, each with a weight where it needs one.

    Shadow can only come first, then a canary, and weights grow: whom the candidate answered it goes on answering.

    >>> ladder(["shadow", "canary", "ab:0.5"])[1:]
    (Step(kind='canary', weight=0.01), Step(kind='ab', weight=0.5))

    Raises:
        ConfigInvalid: a stage is unknown, in the wrong place or repeated, a weight is no share of both arms, or there
            is no A/B in which a trial could be won.
    """
    found: list[Step] = []
    for spec in specs:
        step = _step(spec)
        order = ("shadow", "canary", "ab").index(step.kind)
        before = found[-1] if found else None
        if before is not None and order < ("shadow", "canary", "ab").index(before.kind):
            raise _invalid("stages are in the wrong order", "shadow, canary, then A/B")
        if before is not None and step.weight <= before.weight:
            raise _invalid("a stage does not widen the one before", "growing weights, each stage once")
        found.append(step)
    if not found or found[-1].kind != "ab":
        raise _invalid("no stage can be won", 'an A/B stage at the end, such as "ab:0.5"')
    return tuple(found)


def _step(spec: str) -> Step:
    name, _, given = spec.partition(":")
    if name == "shadow" and not given:
        return Step("shadow", 0.0)
    try:
        weight = float(given) if given else CANARY if name == "canary" else -1.0
    except ValueError:
        weight = -1.0
    if not 0.0 < weight < 1.0:
        raise _invalid("a stage cannot be read", '"shadow", "canary", or "ab:0.25" with a weight between 0 and 1')
    if name == "canary":
        return Step("canary", weight)
    if name == "ab":
        return Step("ab", weight)
    raise _invalid("a stage is unknown", "shadow, canary or ab")


def _invalid(message: str, expected: str) -> ConfigInvalid:
    return ConfigInvalid(message, where="stages", expected=expected)
