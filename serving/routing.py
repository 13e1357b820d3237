"""Who answers: a pure function of the deployment, the entity, and what tells a segment.

The same in every process, on every machine and in every language: docs/reference/assignment.md says how it is
computed, docs/reference/assignment-vectors.json has answers to check another implementation by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final, Literal

import msgspec

from registry.routing import Segment, Share

Arm = Literal["champion", "candidate", "segment"]
_LARGEST: Final = math.nextafter(1.0, 0.0)


@dataclass(frozen=True, slots=True)
class Rule:
    """Requests with one of these values in a header, or in a column of every row, are for one version."""

    version: int
    values: frozenset[tuple[bool, Any]]
    header: str = ""
    column: str = ""

    @classmethod
    def of(cls, segment: Segment) -> Rule:
        """The rule of a deployment's segment."""
        when = segment.when
        return cls(segment.version, frozenset(map(_key, when.values)), when.header or "", when.column or "")


@dataclass(frozen=True, slots=True)
class Route:
    """The part of a deployment that routing needs. `weight` is the candidate's share in [0, 1].

    With `arms` there are several candidates, of which the first is `candidate`. `revision` is that of the ledger's row
    that this is the route of; 0 where it is not, since a version of it could not be loaded.
    """

    champion: int
    candidate: int | None = None
    mode: str | None = None
    weight: float = 0.0
    salt: str = ""
    arms: tuple[Share, ...] = ()
    rules: tuple[Rule, ...] = ()
    shadow_share: float = 1.0
    revision: int = 0

    @property
    def versions(self) -> tuple[int, ...]:
        """Every version that may be asked, the champion first, each once."""
        named = (self.champion, self.candidate, *(a.version for a in self.arms), *(r.version for r in self.rules))
        return tuple(dict.fromkeys(version for version in named if version is not None))

    @property
    def candidates(self) -> tuple[int, ...]:
        """The versions that are tried."""
        return tuple(arm.version for arm in self.arms) or (() if self.candidate is None else (self.candidate,))

    @property
    def headers(self) -> tuple[str, ...]:
        """The request headers that segments are told by."""
        return tuple(rule.header for rule in self.rules if rule.header)

    def among(self, served: Collection[int]) -> Route:
        """The route with the versions that are served: no trial without all of its candidates, and segments whose
        version is missing are the champion's.

        A trial of which some replicas answer a part would be no fair draw; of one that they leave out, their answers
        say so.
        """
        rules = tuple(r if r.version in served else replace(r, version=self.champion) for r in self.rules)
        if all(version in served for version in self.candidates):
            return self if rules == self.rules else replace(self, rules=rules)
        return Route(self.champion, rules=rules)


class Choice(msgspec.Struct, frozen=True):
    """The version that answers, on which arm, the version that is asked as well without being heard, and the version
    that a trial drew; 0 where nothing was drawn.
    """

    version: int
    arm: Arm
    shadow: int | None = None
    assigned: int = 0


def bucket(salt: str, entity: str) -> float:
    """First 8 bytes of SHA-256(salt, unit separator, entity), big endian, over 2^64: uniform in [0, 1).

    What would round to 1 is the largest number below it.

    >>> round(bucket("s", "a"), 6)
    0.068915
    """
    return part(sha256(f"{salt}\x1f{entity}".encode()).digest()[:8])


def part(first: bytes) -> float:
    """Eight bytes as a part of the whole.

    >>> part(b"\\xff" * 8) < 1.0, part(b"\\x80" + bytes(7))
    (True, 0.5)
    """
    found = int.from_bytes(first) / 2**64
    return found if found < 1.0 else _LARGEST


def choose(route: Route, entity: str) -> Choice:
    """Pick the arm of `entity`. Raising the weight only moves entities to the candidate: treated stay treated."""
    champion = route.champion
    if route.candidate is None or route.mode is None:
        return Choice(champion, "champion")
    if route.mode == "shadow":
        return Choice(champion, "champion", shadow=route.candidate)
    drawn = bucket(route.salt, entity)
    version = arm_of(route.arms, drawn) if route.arms else route.candidate if drawn < route.weight else None
    if version is None:
        return Choice(champion, "champion", assigned=champion)
    return Choice(version, "candidate", assigned=version)


def arm_of(arms: Sequence[Share], drawn: float) -> int | None:
    """The candidate whose part of [0, 1) a draw lies in; None is the champion's.

    The first, third, … arm lie one after the other from 0 up, the second, fourth, … from 1 down, and the champion
    between them. So a change of the first two moves entities between that arm and the champion alone, as long as no arm
    lies further in; a change of an arm with others further in shifts those by as much.

    >>> [arm_of((Share(7, 0.2), Share(8, 0.3)), drawn) for drawn in (0.1, 0.2, 0.69, 0.7)]
    [7, None, None, 8]
    """
    low, high = 0.0, 1.0
    for number, arm in enumerate(arms):
        if number % 2 == 0:
            low += arm.weight
            if drawn < low:
                return arm.version
        else:
            high -= arm.weight
            if drawn >= high:
                return arm.version
    return None


def segment(
    route: Route, header: Callable[[str], str | None], rows: Iterable[Sequence[Any]], names: Sequence[str]
) -> int | None:
    """The version of the first rule that a request is told by; None where none has a say.

    A request whose rows are of several segments is the champion's: one version answers it, and it is in no trial.

    Args:
        route: with the rules.
        header: gives the value of a request header by its name in lower case.
        rows: by the contract that they were read by.
        names: columns of that contract.
    """
    for rule in route.rules:
        if rule.header:
            value = header(rule.header)
            if value is not None and _key(value) in rule.values:
                return rule.version
        elif rule.column in names:
            place = names.index(rule.column)
            found = {_key(row[place]) in rule.values for row in rows}
            if found == {True}:
                return rule.version
            if True in found:
                return route.champion
    return None


def _key(value: Any) -> tuple[bool, Any]:
    """1 == True in Python, but not in a contract."""
    return isinstance(value, bool), value
