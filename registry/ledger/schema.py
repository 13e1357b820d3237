"""Bring a ledger's schema to what this Perene knows: an empty database, an older one, or none of our business."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, Engine, func, inspect, select, text

from registry.errors import ConfigInvalid
from registry.ledger.database import reading, writing

VERSION_TABLE: Final = "perene_alembic"
HEAD: Final = "0005"
"""Newest revision of `registry/migrations`; kept here because Alembic takes longer to import than a ledger to open."""
_LOCK: Final = 7_265_431


def prepare(engine: Engine) -> None:
    """Migrate the database to `HEAD`, by one process at a time; a look at one row when it is there already.

    Raises:
        ConfigInvalid: the ledger is from a newer Perene.
        StoreUnavailable: the database does not answer, or cannot be written and would have to be.
    """
    with reading(engine) as connection:
        if _found(connection) == HEAD:
            return
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        found = _found(connection)  # again: whoever had the lock before may have done it all
        if found == HEAD:
            return
        from registry.ledger.migrations import upgrade

        stamped = found is None and inspect(connection).has_table("perene_schema")
        upgrade(connection, stamp="0001" if stamped else None)


def _found(connection: Connection) -> str | None:
    """The revision of the database; None for an empty one and for that of Perene 0.1.0, which knew no revisions."""
    if inspect(connection).has_table(VERSION_TABLE):
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
        if found is not None and found > HEAD:
            raise ConfigInvalid(
                "the ledger was written by a newer Perene",
                where="ledger_url",
                expected=f"schema {HEAD} or older",
                got=f"schema {found}",
                hint="upgrade Perene",
            )
        return found
    return None
