"""Connections of the ledger: one transaction style on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError, SQLAlchemyError

from registry.errors import ConfigInvalid, StoreUnavailable


def connect(url: str) -> Engine:
    """An engine for `url`, with SQLite set to WAL, full sync and immediate write transactions.

    Raises:
        ConfigInvalid: the url cannot be understood, or names a place where no file can be.
    """
    try:
        engine = create_engine(url, pool_pre_ping=True)
    except (SQLAlchemyError, ImportError) as error:
        raise ConfigInvalid(
            "the ledger's address cannot be understood",
            where="ledger_url",
            expected="sqlite:///path/ledger.db or postgresql+psycopg://user@host/name",
        ) from error
    if engine.dialect.name == "sqlite":
        _make_folder(engine.url.database)
        event.listen(engine, "connect", _sqlite_pragmas)
        event.listen(engine, "begin", _sqlite_begin)
    return engine


def _make_folder(database: str | None) -> None:
    if not database or database.startswith("file:"):
        return
    try:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigInvalid(
            "the folder of the ledger cannot be made",
            where="ledger_url",
            got=type(error).__name__,
            hint="name a folder that can be written",
        ) from error


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection that only reads: it waits for no writer."""
    with _translated(), engine.connect() as connection:
        yield connection.execution_options(perene_read=True)


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that is committed when the block ends without an error."""
    with _translated(), engine.begin() as connection:
        yield connection


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection whose every query sees one and the same moment."""
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with reading(engine) as connection:
        yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if "readonly database" in str(error.orig):
            raise StoreUnavailable(
                "the ledger's database is read-only; nothing was written",
                where="ledger_url",
                hint="let this account write the file and its folder",
            ) from error
        raise StoreUnavailable(
            "the ledger's database does not answer", where="ledger_url", hint="perene doctor checks it"
        ) from error
    except IntegrityError:
        raise  # whoever writes knows what it means
    except DatabaseError as error:
        if "not a database" in str(error.orig):
            raise ConfigInvalid(
                "the ledger's file is not a database",
                where="ledger_url",
                expected="a SQLite file made by Perene, or none yet",
                hint="name another file, or restore this one from a backup",
            ) from error
        if "malformed" in str(error.orig):
            raise StoreUnavailable(
                "the ledger's database is damaged", where="ledger_url", hint="restore it from a backup"
            ) from error
        raise


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by us, IMMEDIATE, see below
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}").close()


def _sqlite_begin(connection: Connection) -> None:
    # a deferred transaction that upgrades to a write fails at once when another writer is active
    reads = connection.get_execution_options().get("perene_read", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
