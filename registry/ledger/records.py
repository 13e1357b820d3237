"""Runs, trials, keys and kept state, inside the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Table, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from registry.keys import KeyLimits, KeyRecord
from registry.ledger import tables as t
from registry.ledger.rows import dump, iso, parse_time, utc_now


def append(connection: Connection, table: Table, values: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """Add a row about a run or a trial."""
    connection.execute(insert(table).values(**values, body=dump(body), at=iso(utc_now())))


def is_over(connection: Connection, experiment_id: str) -> bool:
    """Whether a row says that a trial has ended."""
    e = t.experiments
    query = select(e.c.id).where(e.c.experiment_id == experiment_id, e.c.stage == "done").limit(1)
    return connection.execute(query).first() is not None


def latest(
    connection: Connection, table: Table, identifier: str, model: str | None, limit: int
) -> list[tuple[RowMapping, datetime]]:
    """The newest row of each run or trial, with the time of its first one; the one begun last comes first."""
    spans = select(
        func.min(table.c.id).label("first"), func.max(table.c.id).label("last"), func.min(table.c.at).label("start")
    ).group_by(table.c[identifier])
    if model is not None:
        spans = spans.where(table.c.model == model)
    span = spans.subquery()
    query = select(table, span.c.start).join(span, table.c.id == span.c.last).order_by(span.c.first.desc()).limit(limit)
    return [(row, parse_time(row["start"])) for row in connection.execute(query).mappings()]


def save_state(connection: Connection, name: str, body: bytes) -> None:
    """Keep `body` under `name`, replacing what was there."""
    replace = update(t.states).where(t.states.c.name == name).values(body=body)
    if connection.execute(replace).rowcount == 0:
        try:
            with connection.begin_nested():
                connection.execute(insert(t.states).values(name=name, body=body))
        except IntegrityError:  # another process was first by a moment
            connection.execute(replace)


def add_key(connection: Connection, key: KeyRecord) -> None:
    """Append an API key's record."""
    connection.execute(
        insert(t.keys).values(
            id=key.id,
            sha256=key.sha256,
            scopes=dump(sorted(key.scopes)),
            models=dump(sorted(key.models)),
            label=key.label,
            revoked=key.revoked,
            at=iso(utc_now()),
            limits=dump(key.limits.given()),
        )
    )


def keys(connection: Connection) -> list[KeyRecord]:
    """The latest record of every key."""
    newest = select(func.max(t.keys.c.row)).group_by(t.keys.c.id)
    rows = connection.execute(select(t.keys).where(t.keys.c.row.in_(newest)).order_by(t.keys.c.row))
    return [
        KeyRecord(
            r.id,
            r.sha256,
            frozenset(json.loads(r.scopes)),
            frozenset(json.loads(r.models)),
            r.label,
            bool(r.revoked),
            KeyLimits(**json.loads(r.limits or "{}")),
        )
        for r in rows
    ]
