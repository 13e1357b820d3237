"""Who answers: a pure function of the deployment and the entity."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import msgspec

Arm = Literal["champion", "candidate"]


@dataclass(frozen=True, slots=True)
class Route:
    """The part of a deployment that routing needs. `weight` is the candidate's share in [0, 1]."""

    champion: int
    candidate: int | None = None
    mode: str | None = None
    weight: float = 0.0
    salt: str = ""


class Choice(msgspec.Struct, frozen=True):
    """The version that answers, on which arm, and the version that is asked as well without being heard."""

    version: int
    arm: Arm
    shadow: int | None = None


def bucket(salt: str, entity: str) -> float:
    """First 8 bytes of SHA-256(salt, unit separator, entity), big endian, over 2^64: uniform in [0, 1].

    >>> round(bucket("s", "a"), 6)
    0.430662
    """
    digest = hashlib.sha256(f"{salt}\x1f{entity}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def choose(route: Route, entity: str) -> Choice:
    """Pick the arm of `entity`. Raising the weight only moves entities to the candidate: treated stay treated."""
    if route.candidate is None or route.mode is None:
        return Choice(route.champion, "champion")
    if route.mode == "shadow":
        return Choice(route.champion, "champion", shadow=route.candidate)
    if bucket(route.salt, entity) < route.weight:
        return Choice(route.candidate, "candidate")
    return Choice(route.champion, "champion")
