"""Names for people and hashed values that nobody can guess back without the installation's secret.

A plain digest of an e-mail address is as good as the address: whoever has a list of addresses finds it. The secret is
made once for a home and read by all its processes; installations that share a lake name one file for all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from registry.errors import ConfigInvalid, StoreUnavailable

__all__ = ["Digest", "Pseudonyms", "load_pseudonyms", "plain"]

Digest = Callable[[str], str]
"""From a text to its pseudonym, 16 hexadecimal digits."""
PLACE: Final = Path("keys", "subjects")
"""The secret's file below the home."""
LEAST: Final = 32
"""Characters of a secret."""


def plain(text: str) -> str:
    """The pseudonym of version 0.1, which needs no secret: lakes still hold it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Pseudonyms:
    """Pseudonyms under one secret.

    >>> Pseudonyms(b"a secret of thirty-two characters")("anna@example.org")
    'd89d1a87b492909b'
    """

    def __init__(self, secret: bytes) -> None:
        key = hashlib.blake2b(secret, person=b"perene-subjects").digest()
        self._keyed = hashlib.blake2b(key=key, digest_size=8)

    def __call__(self, text: str) -> str:
        """The pseudonym of a text."""
        hashed = self._keyed.copy()
        hashed.update(text.encode("utf-8", "surrogatepass"))
        return hashed.hexdigest()


def load_pseudonyms(home: Path, file: Path | None = None) -> Pseudonyms:
    """The pseudonyms of an installation; the first process to ask makes the secret, and all get the same.

    Args:
        home: folder of the installation.
        file: a secret that several installations share, instead of the home's own.

    Raises:
        ConfigInvalid: the file named is not there or too short; it is not made, since another one may be the right one.
        StoreUnavailable: the home's own cannot be read or written.
    """
    path = file or home / PLACE
    try:
        if file is None and not path.exists():
            _make(path)
        secret = path.read_bytes().strip()
    except OSError as error:
        hint = "name an existing file, or leave subject_key out" if file else "make the home's folder keys writable"
        kind = ConfigInvalid if file else StoreUnavailable
        raise kind("the secret for pseudonyms cannot be read", where=str(path), hint=hint) from error
    if len(secret) < LEAST:
        raise ConfigInvalid(
            "the secret for pseudonyms is too short",
            where=str(path),
            expected=f"at least {LEAST} characters",
            hint="make one with: openssl rand -hex 32",
        )
    return Pseudonyms(secret)


def _make(path: Path) -> None:
    """Write a secret under its name, whole and once: of several processes the first one's counts."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as target:
        target.write(secrets.token_hex(32) + "\n")
        target.flush()
        os.fsync(target.fileno())
    try:
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename it never takes the place of one that is there
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
