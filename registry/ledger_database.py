"""Connections of the ledger: one transaction style on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from registry.errors import ConfigInvalid, StoreUnavailable


def connect(url: str) -> Engine:
    """An engine for `url`, with SQLite set to WAL, full sync and immediate write transactions.

    Raises:
        ConfigInvalid: the url cannot be understood.
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
        if engine.url.database:
            Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
        event.listen(engine, "connect", _sqlite_pragmas)
        event.listen(engine, "begin", _sqlite_begin)
    return engine


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
def _translated() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise StoreUnavailable(
            "the ledger's database does not answer", where="ledger.url", hint="perene doctor checks it"
        ) from error


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by us, IMMEDIATE, see below
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}").close()


def _sqlite_begin(connection: Connection) -> None:
    # a deferred transaction that upgrades to a write fails at once when another writer is active
    reads = connection.get_execution_options().get("perene_read", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
