"""What a deployment says of routing beyond one candidate's weight: arms, segments and how much of shadow is asked.

Kept as JSON in the deployment's row of the ledger. Values are compared, never evaluated: a rule has no patterns.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from typing import Any, Final

import msgspec

from registry.errors import LedgerConflict

__all__ = [
    "Routing",
    "Segment",
    "Share",
    "When",
    "check_routing",
    "follow",
    "read_routing",
    "routing_from",
    "salt_of",
    "write_routing",
]

SALT_MOST: Final = 64
MOST_ARMS: Final = 10
MOST_SEGMENTS: Final = 100
MOST_VALUES: Final = 1_000
MOST_TEXT: Final = 256
MOST_BYTES: Final = 256 * 1024
LARGEST_VERSION: Final = 999_999_999
_HEADER: Final = re.compile(r"[a-z0-9-]{1,64}\Z")
_SECRET: Final = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
_ROUNDING: Final = 1e-9
"""Weights such as ten times 0.1 do not add up to 1 in floating point."""


class When(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request header, or a column of the contract, and the values that make a segment."""

    values: tuple[str | int | bool, ...] = msgspec.field(name="in")
    header: str | None = None
    column: str | None = None


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests that one version answers, outside of any trial."""

    when: When
    version: int


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One candidate of several, and its share of the entities in [0, 1]."""

    version: int
    weight: float


class Routing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`segments` of None are those of the deployment before: they are an operator's, and outlast trials."""

    shadow_share: float = 1.0
    segments: tuple[Segment, ...] | None = None
    arms: tuple[Share, ...] = ()

    @property
    def versions(self) -> tuple[int, ...]:
        """Every version that is named, once."""
        named = (*(arm.version for arm in self.arms), *(segment.version for segment in self.segments or ()))
        return tuple(dict.fromkeys(named))


def routing_from(body: Any) -> Routing:
    """The routing in plain values, as a file or a request gives them.

    Raises:
        LedgerConflict: they are not of that form.
    """
    try:
        return msgspec.convert(body, Routing)
    except msgspec.ValidationError as error:
        wanted = '{"shadow_share"?, "segments"?: [{"when": {"header" | "column", "in"}, "version"}], "arms"?}'
        raise LedgerConflict(
            f"the routing cannot be understood: {str(error)[:200]}", where="routing", expected=wanted
        ) from None


def check_routing(routing: Routing, *, champion: int, candidate: int | None, mode: str | None, weight: float) -> None:
    """Refuse a routing that cannot be, or that does not fit the deployment it comes with.

    Raises:
        LedgerConflict: it says which part, and what would do.
    """
    routing = routing_from(msgspec.to_builtins(routing))  # a struct made in Python was not looked at
    if not 0.0 <= routing.shadow_share <= 1.0:  # NaN too
        raise _refused("the part of requests that a shadow is asked is a share", "shadow_share", "0 to 1")
    if routing.arms:
        _check_arms(routing.arms, champion, candidate, mode, weight)
    if len(routing.segments or ()) > MOST_SEGMENTS:
        raise _refused("there are too many segments", "segments", f"at most {MOST_SEGMENTS}")
    for number, segment in enumerate(routing.segments or ()):
        _check_segment(segment, f"segments[{number}]")
    if len(msgspec.json.encode(routing)) > MOST_BYTES:
        raise _refused("the segments are too large", "segments", f"at most {MOST_BYTES} bytes of JSON")


def _check_arms(arms: tuple[Share, ...], champion: int, candidate: int | None, mode: str | None, weight: float) -> None:
    if mode not in ("ab", "canary"):
        raise _refused("several candidates are compared by A/B", "arms", "mode ab or canary")
    if len(arms) > MOST_ARMS:
        raise _refused("there are too many arms", "arms", f"at most {MOST_ARMS}")
    for number, arm in enumerate(arms):
        where = f"arms[{number}]"
        _check_version(arm.version, where)
        if arm.version == champion:
            raise _refused("an arm is the champion, which has what the arms leave", where, "another version")
        if not (math.isfinite(arm.weight) and 0.0 <= arm.weight <= 1.0):
            raise _refused("the weight of an arm is a share", where, "0 to 1")
    twice = [version for version, count in Counter(arm.version for arm in arms).items() if count > 1]
    if twice:
        raise _refused(f"version {twice[0]} is an arm twice", "arms", "each version once")
    whole = math.fsum(arm.weight for arm in arms)
    if whole > 1.0 + _ROUNDING:
        raise _refused("the weights of the arms come to more than the whole", "arms", "1 at most", f"{whole:.6g}")
    if (arms[0].version, arms[0].weight) != (candidate, weight):
        raise _refused("the first arm is not the candidate with its weight", "arms[0]", "the deployment's candidate")


def _check_segment(segment: Segment, where: str) -> None:
    when = segment.when
    _check_version(segment.version, where)
    if (when.header is None) == (when.column is None):
        raise _refused("a segment is told by a header or by a column", where, "one of header and column")
    if when.header is not None and (not _HEADER.match(when.header) or when.header in _SECRET):
        raise _refused("the header of a segment cannot be that", where, "a name in lower case that carries no secret")
    if when.column is not None and not 0 < len(when.column) <= MOST_TEXT:
        raise _refused("the column of a segment has no possible name", where, "a column of the contract")
    if not 0 < len(when.values) <= MOST_VALUES:
        raise _refused("a segment needs values", where, f"1 to {MOST_VALUES}")
    for value in when.values:
        if isinstance(value, str) and len(value) > MOST_TEXT:
            raise _refused("a value of a segment is too long", where, f"at most {MOST_TEXT} characters")
        if when.header is not None and not isinstance(value, str):
            raise _refused("the value of a header is text", where, "a string")


def _check_version(version: int, where: str) -> None:
    if not 0 < version <= LARGEST_VERSION:
        raise _refused("a version is a whole number from 1", where, "for example 3")


def _refused(message: str, where: str, expected: str, got: str = "") -> LedgerConflict:
    return LedgerConflict(message, where=f"routing.{where}", expected=expected, got=got)


def salt_of(experiment_id: str) -> str:
    """What a trial's entities are drawn with, one for all of its stages: its id, or the digest of a long one."""
    return experiment_id if len(experiment_id) <= SALT_MOST else hashlib.sha256(experiment_id.encode()).hexdigest()


def follow(before: Routing | None, routing: Routing) -> Routing:
    """The routing that comes after another: with its segments, where it names none itself."""
    if routing.segments is not None:
        return routing
    kept = (before.segments if before is not None else None) or ()
    return msgspec.structs.replace(routing, segments=kept)


def write_routing(routing: Routing) -> str | None:
    """The canonical text of a routing as the ledger keeps it; None where it says nothing."""
    if not (routing.arms or routing.segments) and routing.shadow_share == 1.0:
        return None
    return msgspec.json.encode(routing, order="sorted").decode()


def read_routing(text: str | None) -> Routing | None:
    """What `write_routing` wrote; None too for text that it did not write, which `verify` finds in the chain.

    A row that somebody damaged must not keep a rollback from being made.
    """
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Routing)
    except msgspec.DecodeError:
        return None
