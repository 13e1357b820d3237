"""What the database refuses, and what `verify` finds once its guards are gone; on SQLite and PostgreSQL."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Table, delete, insert, select, text, update
from sqlalchemy.exc import DataError, IntegrityError

from registry.keys import new_key
from registry.ledger import Ledger
from registry.ledger import tables as t
from registry.routing import Routing, Share
from tests.integration.ledger_tampering import attacking, remove_guards

TABLES = (t.deployments, t.evidence, t.seals)
Rows = dict[Table, list[dict[str, Any]]]


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    """Two models' moves, interleaved, with evidence between them."""
    opened = Ledger.open(ledger_url)
    for revision in range(6):
        seen = opened.record_evidence("toy", "gates", {"value": revision / 4})
        for model in ("toy", "bike"):
            trial: dict[str, Any] = {"candidate": 90, "mode": "ab", "weight": 0.25, "salt": "s"} if revision % 2 else {}
            if revision == 3:
                trial["routing"] = Routing(arms=(Share(90, 0.25), Share(91, 0.5)))
            opened.move(
                model,
                expected_revision=revision,
                champion=revision + 1,
                actor="ann",
                reason=f"move {revision}",
                evidence_id=seen,
                **trial,
            )
    yield opened
    opened.close()


def test_the_database_refuses_to_change_or_remove_a_row(ledger: Ledger, ledger_url: str) -> None:
    """Whoever asks, of every append-only table, and in whatever way the database knows."""
    ledger.record_run("r", "toy", status="running", step="train", body={})
    ledger.record_experiment("e", "toy", state="running", stage="shadow", body={})
    ledger.add_key(new_key("app", {"predict"})[1])
    for table in (t.deployments, t.evidence, t.runs, t.experiments, t.keys):
        column = "label" if table is t.keys else "model"
        statements = [f"UPDATE {table} SET {column} = 'x'", f"DELETE FROM {table}"]
        if ledger_url.startswith("postgresql"):
            statements.append(f"TRUNCATE {table}")
        else:
            statements.append(f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}")
        for statement in statements:
            with pytest.raises(IntegrityError, match="append-only"), attacking(ledger_url) as connection:
                connection.execute(text(statement))
        with attacking(ledger_url) as connection:
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar(), table.name
    assert ledger.verify() == []


def test_each_kind_of_tampering_is_named_with_its_place(ledger: Ledger, ledger_url: str) -> None:
    """A changed field, changed evidence, a row taken out of the middle, rows missing at the end."""
    with attacking(ledger_url) as connection:
        remove_guards(connection)
        connection.execute(text("UPDATE perene_deployments SET champion = 9 WHERE model = 'toy' AND revision = 2"))
        connection.execute(text("UPDATE perene_evidence SET body = '{}' WHERE id = 1"))
        connection.execute(text("DELETE FROM perene_deployments WHERE model = 'bike' AND revision IN (2, 6)"))
    assert ledger.verify() == [
        "deployment of toy revision 2 was altered",
        "deployment of bike revision 3 was altered",
        "evidence 1 was altered",
        "deployments/bike: 4 rows where 6 were sealed",
    ]


def test_a_hundred_of_a_hundred_random_tamperings_are_found(ledger: Ledger, ledger_url: str) -> None:
    """Any field of any row, rows removed, put in, swapped, renumbered, cut off at the end; each alone."""
    dice = random.Random(8)
    with attacking(ledger_url) as connection:
        remove_guards(connection)
        sound: Rows = {table: [dict(r) for r in connection.execute(select(table)).mappings()] for table in TABLES}
    kinds: list[Callable[[Connection, Rows, random.Random], str]] = [_field] * 6 + [_removed, _inserted, _swapped, _cut]
    found: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    while tried.total() < 100:
        try:
            with attacking(ledger_url) as connection:
                what = dice.choice(kinds)(connection, sound, dice)
        except (IntegrityError, DataError):
            continue  # the database would not have it
        tried[what] += 1
        found[what] += bool(ledger.verify())
        with attacking(ledger_url) as connection:
            for table in TABLES:
                connection.execute(delete(table))
                connection.execute(insert(table), sound[table])
        assert ledger.verify() == []
    print(f"{found.total()} of {tried.total()} found, {dict(tried)}")
    assert found == tried


def _field(connection: Connection, sound: Rows, dice: random.Random) -> str:
    table = dice.choice(TABLES)
    row = dice.choice(sound[table])
    column = dice.choice(list(table.columns))
    value = row[column.name]
    if column.nullable and dice.random() < 0.3 and value is not None:
        other: Any = None
    elif column.type.python_type is str:
        other = "x" if not value else dice.choice([value[:-1], value + "x", value.swapcase()])
    elif column.type.python_type is float:
        other = dice.choice([value + 0.5, math.nextafter(value, 1.0), -1.0])
    else:
        other = (value or 0) + dice.choice([-1, 1, 1000, -1000])
    if other == value:
        raise IntegrityError("nothing was changed", None, ValueError())
    key = next(iter(table.primary_key.columns))
    connection.execute(update(table).where(key == row[key.name]).values({column.name: other}))
    return f"{table.name}.{column.name}"


def _removed(connection: Connection, sound: Rows, dice: random.Random) -> str:
    table = dice.choice(TABLES)
    key = next(iter(table.primary_key.columns))
    connection.execute(delete(table).where(key == dice.choice(sound[table])[key.name]))
    return "removed"


def _inserted(connection: Connection, sound: Rows, dice: random.Random) -> str:
    """A row that looks right: the newest one again, as the next revision."""
    table = dice.choice(TABLES[:2])
    row = {**dice.choice(sound[table]), "id": 1000}
    row["previous"], row["hash"] = row["hash"], row["hash"][::-1]
    if "revision" in row:
        row["revision"] = 7
    connection.execute(insert(table).values(**row))
    return "inserted"


def _swapped(connection: Connection, sound: Rows, dice: random.Random) -> str:
    """Two rows change places."""
    table = dice.choice(TABLES[:2])
    one, other = dice.sample(sound[table], 2)
    for old, new in ((one["id"], -1), (other["id"], one["id"]), (-1, other["id"])):
        connection.execute(update(table).where(table.c.id == old).values(id=new))
    return "swapped"


def _cut(connection: Connection, sound: Rows, dice: random.Random) -> str:
    """The newest rows are gone, which no chain shows."""
    table = dice.choice(TABLES[:2])
    newest = sorted((row["id"] for row in sound[table]), reverse=True)[: dice.randint(1, 3)]
    connection.execute(delete(table).where(table.c.id.in_(newest)))
    return "cut off at the end"


def test_a_receipt_shows_what_a_seal_made_anew_hides(ledger: Ledger, ledger_url: str) -> None:
    """Whoever cuts the end off and seals the rest is found by what was kept elsewhere; later rows are no problem."""
    receipt = ledger.seals()
    ledger.move("toy", expected_revision=6, champion=1, actor="ann", reason="after the receipt")
    assert ledger.verify(receipt) == []
    with attacking(ledger_url) as connection:
        remove_guards(connection)
        for table in TABLES:
            connection.execute(delete(table))
    assert ledger.verify() == [], "without a receipt an empty ledger is as good as any"
    assert "deployments/toy: 6 rows of the receipt are missing" in ledger.verify(receipt)
    for revision in range(6):
        ledger.move("toy", expected_revision=revision, champion=9, actor="eve", reason="always was")
    assert [p for p in ledger.verify(receipt) if "toy" in p] == [
        "deployments/toy: the 6 rows of the receipt were rewritten"
    ]
