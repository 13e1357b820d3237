"""What a report is asked for by, and what its parts agree on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from registry.bundle import Bundle, read_bundle

__all__ = [
    "BUSY",
    "EMPTY",
    "EVIDENCE",
    "FACTS",
    "LEASE_LOST",
    "LOGGED",
    "Kind",
    "Spec",
    "begun",
    "bundle_of",
    "lock_of",
]

Kind = Literal["finding", "daily", "asked", "performance"]
EVIDENCE: Final = "report"
"""Kind of the rows in the ledger that tell of reports."""
FACTS: Final = "facts.json"
"""What a report's folder says of itself: written with it."""
LOGGED: Final = "logged.json"
"""Where MLflow has a copy: what erases one, erases the other."""
BUSY: Final = 73
LEASE_LOST: Final = 75
EMPTY: Final = 3
"""Exit status: there is too little to report on."""


class Spec(msgspec.Struct, frozen=True):
    """What to make. Bounds are event time, microseconds since 1970; `last` attempts go on without MLflow."""

    kind: Kind
    key: str
    model: str
    version: int
    home: str
    bundle: str
    lake_url: str = ""
    low: int | None = None
    high: int | None = None
    finding: int | None = None
    settings: dict[str, Any] = {}
    out: str = ""
    last: bool = True
    token: int | None = None
    parent: int = 0


def lock_of(home: Path) -> Path:
    """Who makes reports, or erases people from them, holds this; no model's name begins with a dot."""
    return home / "reports" / ".lock"


def begun() -> str:
    """Now, as facts tell it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def bundle_of(spec: Spec) -> Bundle:
    """The champion's bundle."""
    return read_bundle(Path(spec.bundle))
