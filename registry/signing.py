"""Signatures over a bundle's manifest: Ed25519 in a DSSE envelope, in a file beside it.

DSSE signs PAE(payloadType, payload), so that a signature made for one kind of document is none for another. The
manifest holds the sha256 of every other file: who signs it signs the bundle. A key id in the envelope is a hint
and decides nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from registry.bundle import MANIFEST
from registry.errors import BundleCorrupt, ConfigInvalid

PAYLOAD_TYPE: Final = "application/vnd.perene.manifest+json"
SIGNATURES: Final = "manifest.sig.json"
"""Beside the manifest, which cannot list it."""
PREFIX: Final = "ed25519:"
MAX_BYTES: Final = 4 * 1024 * 1024
MAX_SIGNATURES: Final = 32


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key that is trusted. `text` is how settings spell it."""

    key: Ed25519PublicKey

    @property
    def raw(self) -> bytes:
        """The key's 32 bytes."""
        return self.key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    @property
    def key_id(self) -> str:
        """sha256 of the key's bytes, hexadecimal."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def text(self) -> str:
        """`ed25519:` and the key in base64."""
        return PREFIX + base64.b64encode(self.raw).decode()


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key that signs manifests."""

    key: Ed25519PrivateKey

    @property
    def verifier(self) -> Verifier:
        """Its public half."""
        return Verifier(self.key.public_key())

    @property
    def key_id(self) -> str:
        """That of its public half."""
        return self.verifier.key_id


def new_key(path: Path) -> Verifier:
    """Write a new private key to `path`, readable by this account only; returns its public half.

    Raises:
        ConfigInvalid: the file exists already, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigInvalid(
            f"{path}: the key cannot be written there", where=str(path), hint="name a new file"
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    return Verifier(key.public_key())


def load_signer(path: Path) -> Signer:
    """Read a private key as `new_key` writes it.

    Raises:
        ConfigInvalid: there is none, or it is of another kind.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "a private key in PEM, as `perene signing new` writes it") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "an Ed25519 key")
    return Signer(key)


def load_verifier(trusted: str) -> Verifier:
    """A trusted key as settings spell it: `ed25519:…`, or the path of a file with that or with a public key in PEM.

    Raises:
        ConfigInvalid: it is neither.
    """
    text = trusted.strip()
    expected = "ed25519:… as `perene signing new` prints it, or a file with a public key"
    try:
        if not text.startswith(PREFIX):
            data = Path(text).read_bytes()
            if b"-----BEGIN" in data:
                key = serialization.load_pem_public_key(data)
                if not isinstance(key, Ed25519PublicKey):
                    raise _no_key(text, "an Ed25519 key")
                return Verifier(key)
            text = data.decode("ascii").strip()
        raw = base64.b64decode(text.removeprefix(PREFIX), validate=True)
        return Verifier(Ed25519PublicKey.from_public_bytes(raw))
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(trusted, expected) from error


def sign_bundle(folder: Path, signer: Signer) -> None:
    """Sign the manifest in `folder`, beside signatures of other keys that are there already."""
    payload = (folder / MANIFEST).read_bytes()
    target = folder / SIGNATURES
    others: list[dict[str, str]] = []
    if target.is_file():
        envelope = json.loads(target.read_bytes())
        if _decoded(str(envelope["payload"])) == payload:
            others = [s for s in envelope["signatures"] if s.get("keyid") != signer.key_id]
    signature = base64.b64encode(signer.key.sign(pae(PAYLOAD_TYPE, payload))).decode()
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [*others, {"keyid": signer.key_id, "sig": signature}],
    }
    target.write_text(json.dumps(envelope, indent=1) + "\n")


def verify_bundle(folder: Path, trusted: Sequence[Verifier]) -> str:
    """Check that a trusted key has signed the manifest in `folder`; returns the id of the key.

    Raises:
        BundleCorrupt: it is unsigned, or the envelope is none, is over something else, or is of unknown keys, or a
            signature does not hold.
    """
    envelope = _envelope(folder)
    payload = _decoded(envelope["payload"])
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise _refused("its signature is for another kind of document")
    if payload is None or payload != _bytes(folder / MANIFEST):
        raise _refused("its signature is over another manifest")
    message = pae(PAYLOAD_TYPE, payload)
    named = False
    for entry in envelope["signatures"]:
        signature = _decoded(entry["sig"])
        for verifier in trusted:
            named = named or entry.get("keyid") == verifier.key_id
            if signature is not None and _holds(verifier, signature, message):
                return verifier.key_id
    raise _refused("its signature does not hold" if named else "no trusted key has signed it")


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding.

    >>> pae("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _holds(verifier: Verifier, signature: bytes, message: bytes) -> bool:
    try:
        verifier.key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _envelope(folder: Path) -> dict[str, Any]:
    path = folder / SIGNATURES
    if not path.exists() and not path.is_symlink():
        raise _refused("it is not signed")
    try:
        found = json.loads(_bytes(path))
        signatures = found["signatures"]
        usable = (
            isinstance(found["payload"], str)
            and isinstance(found["payloadType"], str)
            and isinstance(signatures, list)
            and len(signatures) <= MAX_SIGNATURES
            and all(isinstance(entry["sig"], str) for entry in signatures)
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refused("its signature is no DSSE envelope") from error
    if not usable:
        raise _refused("its signature is no DSSE envelope")
    envelope: dict[str, Any] = found
    return envelope


def _bytes(path: Path) -> bytes:
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise _refused(f"{path.name} is missing, no plain file, or too large")
    return path.read_bytes()


def _decoded(text: str) -> bytes | None:
    """Base64 in either alphabet, as DSSE allows; None when it is none."""
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        return None


def _refused(reason: str) -> BundleCorrupt:
    return BundleCorrupt(
        f"the bundle is refused: {reason}",
        where=SIGNATURES,
        hint="log it with a trusted key ([signing] key), or trust its key ([signing] trusted)",
    )


def _no_key(where: object, expected: str) -> ConfigInvalid:
    return ConfigInvalid(f"{where}: not a key", where="signing", expected=expected, hint="perene signing new")
