"""API keys: made once, shown once, stored as a digest."""

from __future__ import annotations

import binascii
import hashlib
import math
import re
import secrets
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from registry.errors import ConfigInvalid

SCOPES: Final = frozenset({"predict", "feedback", "read", "register", "promote", "admin", "erase", "alert"})
_FORM: Final = re.compile(r"prn_[0-9a-f]{8}_[A-Za-z0-9_-]{43}([0-9a-f]{8})?\Z")


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may ask for. None is what the server's `[serving.limits]` says, 0 is no limit."""

    requests_per_second: float | None = None
    rows_per_second: float | None = None
    concurrent: int | None = None
    rows_per_day: int | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 <= value < math.inf:
                raise ConfigInvalid("a limit is a number, not below 0", where=name, expected="0 for no limit")

    def given(self) -> dict[str, Any]:
        """The limits of the key's own."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What the ledger keeps of a key. An empty `models` allows every model."""

    id: str
    sha256: str
    scopes: frozenset[str]
    models: frozenset[str]
    label: str
    revoked: bool = False
    limits: KeyLimits = KeyLimits()


def new_key(
    label: str, scopes: set[str], models: set[str] | None = None, *, limits: KeyLimits | None = None
) -> tuple[str, KeyRecord]:
    """Make a key of 256 random bits; returns the secret, to be shown once, and its record.

    Raises:
        ConfigInvalid: a scope does not exist.
    """
    unknown = set(scopes) - SCOPES
    if unknown or not scopes:
        raise ConfigInvalid(
            "a key needs scopes that exist",
            where="scopes",
            expected=" ".join(sorted(SCOPES)),
            got=" ".join(sorted(unknown)),
        )
    identifier = secrets.token_hex(4)
    bare = f"prn_{identifier}_{secrets.token_urlsafe(32)}"
    secret = bare + _check(bare)
    record = KeyRecord(identifier, digest(secret), frozenset(scopes), frozenset(models or ()), label)
    return secret, replace(record, limits=limits or KeyLimits())


def digest(secret: str) -> str:
    """Hex sha256 of a key. Keys carry 256 random bits, so a plain digest is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def well_formed(secret: str) -> bool:
    """Whether this could be a key: a mistyped or cut one is told from an unknown one by its check digits.

    Keys of 0.1.0 have none: their form alone is looked at.
    """
    found = _FORM.match(secret)
    return found is not None and (found[1] is None or found[1] == _check(secret[:-8]))


def _check(bare: str) -> str:
    return f"{binascii.crc32(bare.encode()):08x}"
