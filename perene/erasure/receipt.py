"""The receipt: what was erased where, under its own digest, and in a chain with the receipts before it.

It names the subject by pseudonym only, so that it can be kept and shown for years.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

from registry.errors import ConfigInvalid

__all__ = ["FORMAT", "LIMITS", "kept", "last_digest", "read", "seal", "write"]

FORMAT: Final = 1
LIMITS: Final = (
    "versions trained on these rows, their golden rows and what MLflow keeps of them: train anew to be rid of them",
    "the monitors' state in the ledger: ids and outputs of the newest predictions, without features or subject",
    "files that people made: perene predict --batch, perene events export, the input and output of batch jobs",
    "training data outside of the lake",
    "backups, snapshots, replicas; earlier versions of objects, where the object store keeps them",
    "spools, logs and kept answers of other homes on the same lake: run the command in each home",
    "logs that something other than perene collects",
    "memory of running servers (answers without ids, until their version is unloaded)",
    "labels whose prediction was never in this lake",
)
"""What a receipt does not cover."""


def seal(body: dict[str, Any]) -> dict[str, Any]:
    """The body with its digest."""
    return {**body, "sha256": _digest(body)}


def write(folder: Path, receipt: dict[str, Any], name: str) -> Path:
    """Keep a receipt for good, readable by its owner; the same one again is the same file."""
    path = folder / f"{name}.json"
    draft = folder / f".{name}.draft"
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(json.dumps(receipt, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return path


def read(path: Path) -> dict[str, Any]:
    """A receipt, whole and unchanged as far as its own digest can say.

    Raises:
        ConfigInvalid: it is none, or was changed.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        body = {name: value for name, value in found.items() if name != "sha256"}
        whole = found["format"] == FORMAT and found["sha256"] == _digest(body)
        _ = [
            found[name]
            for name in ("model", "subjects", "tombstones", "items", "since", "until", "finished", "previous")
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigInvalid(
            f"{path}: not a receipt of an erasure", where="--verify", expected="a file that perene erase wrote"
        ) from error
    if not whole:
        raise ConfigInvalid(
            f"{path}: the receipt was changed", where="--verify", hint="compare it with the ledger's evidence"
        )
    return found


def last_digest(folder: Path) -> str:
    """The digest of the newest receipt; empty before the first one."""
    found = kept(folder)
    return str(found[-1]["sha256"]) if found else ""


def kept(folder: Path) -> list[dict[str, Any]]:
    """The receipts of a home, oldest first; one that was changed is none, and stops no other."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(ConfigInvalid):
            found.append(read(path))
    return found


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
