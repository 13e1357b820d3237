"""An attacker who may write the ledger's database: with its own tools, and with the guards taken away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, create_engine, text


@contextmanager
def attacking(url: str) -> Iterator[Connection]:
    """A transaction of the attacker's own, committed at the end."""
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def remove_guards(connection: Connection) -> None:
    """Drop every trigger that keeps rows as they are."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("DROP FUNCTION perene_append_only() CASCADE"))
        return
    names = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all()
    assert names, "there was nothing to remove"
    for name in names:
        connection.execute(text(f"DROP TRIGGER {name}"))
