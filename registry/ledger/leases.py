"""Leases with fencing tokens, inside the caller's transaction."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from registry.errors import LeaseLost
from registry.ledger.tables import leases


def acquire(connection: Connection, name: str, holder: str, ttl_seconds: float, now: float) -> int | None:
    """Take the lease if it is free, run out at `now` (unix seconds) or the holder's own; returns its new token."""
    row = connection.execute(select(leases).where(leases.c.name == name).with_for_update()).first()
    if row is None:
        try:
            connection.execute(insert(leases).values(name=name, holder=holder, token=1, expires=now + ttl_seconds))
        except IntegrityError:  # another worker was first by a moment
            connection.rollback()
            return None
        return 1
    if row.expires > now and row.holder != holder:
        return None
    token = int(row.token) + 1
    fields = {"holder": holder, "token": token, "expires": now + ttl_seconds}
    connection.execute(update(leases).where(leases.c.name == name).values(**fields))
    return token


def extend(connection: Connection, name: str, holder: str, token: int, expires: float) -> bool:
    """Set when the lease runs out (unix seconds); False when it belongs to somebody else by now."""
    mine = (leases.c.name == name) & (leases.c.holder == holder) & (leases.c.token == token)
    return connection.execute(update(leases).where(mine).values(expires=expires)).rowcount == 1


def fence(connection: Connection, name: str, token: int | None) -> None:
    """Hold the lease's row for this transaction and check that `token`, if one is given, is the newest.

    Raises:
        LeaseLost: another holder has taken over.
    """
    if token is None:
        return
    newest = connection.execute(select(leases.c.token).where(leases.c.name == name).with_for_update()).scalar()
    if newest != token:
        raise LeaseLost("another worker leads by now; this write was not made", expected=str(token))
