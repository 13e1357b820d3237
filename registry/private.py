"""Addresses of stores, which may hold passwords, on their way to a child: not among its arguments, which `ps` shows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

LEDGER: Final = "PERENE_CHILD_LEDGER_URL"
TRACKING: Final = "PERENE_CHILD_TRACKING_URI"


def addresses(ledger_url: str, tracking_uri: str) -> dict[str, str]:
    """Variables for the environment of a child that needs the stores."""
    return {LEDGER: ledger_url, TRACKING: tracking_uri}


def taken(name: str) -> str:
    """An address that the parent gave, or nothing; taken away, so that children of ours do not inherit it."""
    return os.environ.pop(name, "")


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, also where there was one before that others could."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)
