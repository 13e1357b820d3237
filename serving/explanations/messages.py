"""What a serving process and the child that explains say to each other, in frames of `registry.native.protocol`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Method = Literal["auto", "permutation"]


class Where(msgspec.Struct, frozen=True):
    """A version's bundle: its folder, and the digest that it must have."""

    folder: str
    digest: str


class Ask(msgspec.Struct, frozen=True):
    """Rows to explain by one version, or recorded predictions by the versions that answered them."""

    model: str
    versions: dict[int, Where]
    version: int | None = None
    """Which of them is to explain; always there for rows."""
    rows: list[list[Any]] = []
    ids: list[str] = []
    method: Method = "auto"


class Item(msgspec.Struct, frozen=True):
    """One explanation, or why there is none: `shown` is what callers are told, as JSON."""

    shown: bytes
    prediction_id: str = ""
    version: int = 0
    """Who explained; none did where it is 0."""


class Told(msgspec.Struct, frozen=True):
    """An item for each row or id, in their order; or what is wrong with all of them."""

    items: list[Item] = []
    error: dict[str, str] | None = None
