"""The ledger's schema, as a line of Alembic migrations that come with the package.

Alembic costs 0.3 s to import; `registry.ledger.schema` comes here only when there is something to do.
"""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

__all__ = ["config", "upgrade"]

_one_at_a_time = threading.Lock()
"""Alembic's `context` is one for the whole process."""


def config(connection: Connection) -> Config:
    """Alembic's configuration over an open connection, for `alembic.command`."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def upgrade(connection: Connection, *, stamp: str | None = None) -> None:
    """Bring the schema to its head inside the caller's transaction; `stamp` is the revision it already has."""
    with _one_at_a_time:
        if stamp is not None:
            command.stamp(config(connection), stamp)
        command.upgrade(config(connection), "head")
