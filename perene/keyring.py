"""Keys of this machine's own commands, each in a file that only its owner can read."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from perene.config import Settings
from registry.keys import digest, new_key
from registry.ledger import Ledger

APP = ("app", frozenset({"predict"}))
LOCAL = ("local", frozenset({"predict", "feedback", "read"}))


def ensure_key(settings: Settings, label: str, scopes: frozenset[str]) -> str:
    """The secret kept as `label` under the home folder; made and recorded in the ledger when it is not valid."""
    path = settings.home / "keys" / label
    with closing(Ledger.open(settings.places.ledger_url)) as ledger:
        valid = {key.sha256 for key in ledger.keys() if not key.revoked}  # noqa: SIM118
        if path.is_file() and digest(path.read_text().strip()) in valid:
            return path.read_text().strip()
        secret, record = new_key(label, set(scopes))
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secret)
        ledger.add_key(record)
        os.replace(temporary, path)
    return secret


def stored_key(home: Path) -> str:
    """The key that local commands use, or nothing."""
    path = home / "keys" / LOCAL[0]
    return path.read_text().strip() if path.is_file() else ""
