"""API keys: made once, shown once, stored as a digest."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Final

from registry.errors import ConfigInvalid

SCOPES: Final = frozenset({"predict", "feedback", "read", "promote", "admin"})


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What the ledger keeps of a key. An empty `models` allows every model."""

    id: str
    sha256: str
    scopes: frozenset[str]
    models: frozenset[str]
    label: str
    revoked: bool = False


def new_key(label: str, scopes: set[str], models: set[str] | None = None) -> tuple[str, KeyRecord]:
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
    secret = f"prn_{identifier}_{secrets.token_urlsafe(32)}"
    return secret, KeyRecord(identifier, digest(secret), frozenset(scopes), frozenset(models or ()), label)


def digest(secret: str) -> str:
    """Hex sha256 of a key. Keys carry 256 random bits, so a plain digest is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()
