"""The ledger's schema from nothing, from Perene 0.1.0 and from the future, on both databases."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from registry.errors import ConfigInvalid
from registry.keys import KeyLimits
from registry.ledger import Ledger
from registry.ledger.migrations import config
from registry.ledger.schema import HEAD, VERSION_TABLE
from registry.ledger.tables import metadata

OLD = Path(__file__).with_name("ledger_0_1_0.sql")
OPEN = """
import sys
from registry.ledger import Ledger
Ledger.open(sys.argv[1]).close()
print("alembic" in sys.modules)
"""


def make_old(url: str) -> None:
    """The ledger that 0.1.0 left, byte for byte but for the names of types."""
    postgres = url.startswith("postgresql")
    words = ("SERIAL", "BYTEA", r"'\x00ff'") if postgres else ("INTEGER", "BLOB", "X'00ff'")
    script = OLD.read_text()
    for name, word in zip(("@serial@", "@blob@", "@bytes@"), words, strict=True):
        script = script.replace(name, word)
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in script.splitlines()[1:]:
            connection.exec_driver_sql(statement)
        if postgres:
            for table, key in (("deployments", "id"), ("evidence", "id"), ("runs", "id"), ("keys", "row")):
                name = f"perene_{table}"
                connection.exec_driver_sql(
                    f"SELECT setval(pg_get_serial_sequence('{name}', '{key}'), (SELECT max(\"{key}\") FROM {name}))"
                )
    engine.dispose()


def opening(url: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", OPEN, url]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_old_ledger_is_brought_up_with_its_rows(ledger_url: str) -> None:
    """Every kind of row reads as before, the chains hold, and the next rows continue them."""
    make_old(ledger_url)
    ledger = Ledger.open(ledger_url)
    try:
        assert [(d.revision, d.champion, d.evidence_id) for d in ledger.history("toy")] == [
            (1, 1, None),
            (2, 1, 1),
            (3, 2, 2),
        ]
        assert ledger.deployments().keys() == {"bike", "toy"}
        assert [e.body for e in ledger.evidence()] == [{"action": "promote"}, {"n": 0.5, "run_id": "r1"}]
        assert [r.status for r in ledger.runs()] == ["done"]
        assert [e.state for e in ledger.experiments()] == ["promoted"]
        assert [(k.label, k.limits) for k in ledger.keys()] == [("shop", KeyLimits())]  # noqa: SIM118
        assert ledger.load_state("monitor/toy") == b"\x00\xff"
        assert ledger.verify() == []
        assert {chain: s["rows"] for chain, s in ledger.seals().items()} == {
            "deployments/bike": 1,
            "deployments/toy": 3,
            "evidence": 2,
        }
        ledger.move("toy", expected_revision=3, champion=1, actor="me", reason="on")
        ledger.record_evidence("toy", "gates", {})
        assert ledger.verify() == []
    finally:
        ledger.close()


def test_what_was_forged_in_an_old_ledger_is_still_found(ledger_url: str) -> None:
    """A migration seals what is there, but makes no row true."""
    make_old(ledger_url)
    engine = create_engine(ledger_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE perene_deployments SET champion = 9 WHERE model = 'toy' AND revision = 2"))
    engine.dispose()
    ledger = Ledger.open(ledger_url)
    try:
        assert ledger.verify() == ["deployment of toy revision 2 was altered"]
    finally:
        ledger.close()


@pytest.mark.parametrize("old", [False, True], ids=["empty", "0.1.0"])
def test_two_processes_at_once_make_one_schema(ledger_url: str, old: bool) -> None:
    """Neither fails, and both see the head."""
    if old:
        make_old(ledger_url)
    both = [opening(ledger_url), opening(ledger_url)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    engine = create_engine(ledger_url)
    with engine.connect() as connection:
        versions = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars().all()
    engine.dispose()
    assert versions == [HEAD]


def test_the_tables_are_what_the_code_says(ledger_url: str) -> None:
    """Autogenerate would write nothing; and the constant in the code is the newest file."""
    Ledger.open(ledger_url).close()
    engine = create_engine(ledger_url)
    with engine.connect() as connection:
        names = {"include_name": lambda name, kind, parents: kind != "table" or name != VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=names)
        assert compare_metadata(context, metadata) == []
        assert ScriptDirectory.from_config(config(connection)).get_heads() == [HEAD]
    engine.dispose()


def test_a_ledger_at_its_head_is_opened_without_alembic(ledger_url: str) -> None:
    """It takes longer to import than a ledger to open; the control is the first opening."""
    said = [opening(ledger_url).communicate(timeout=60) for _ in range(2)]
    assert [out.strip() for out, _ in said] == ["True", "False"], said


def test_a_newer_ledger_is_refused_and_left_alone(ledger_url: str) -> None:
    Ledger.open(ledger_url).close()
    engine = create_engine(ledger_url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0999'"))
    with pytest.raises(ConfigInvalid, match="newer Perene") as caught:
        Ledger.open(ledger_url)
    assert (caught.value.expected, caught.value.got) == (f"schema {HEAD} or older", "schema 0999")
    with engine.connect() as connection:
        assert connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars().all() == ["0999"]
    engine.dispose()


def test_it_shares_a_database_with_another_alembic(ledger_url: str) -> None:
    """MLflow keeps its own revision in `alembic_version`: neither touches the other's."""
    engine = create_engine(ledger_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('of mlflow')"))
    Ledger.open(ledger_url).close()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["of mlflow"]
        assert "perene_deployments" in inspect(connection).get_table_names()
    engine.dispose()


def test_perene_0_1_0_refuses_what_it_would_not_seal(ledger_url: str) -> None:
    """It looks for a number above 1 in its own table."""
    Ledger.open(ledger_url).close()
    engine = create_engine(ledger_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT max(version) FROM perene_schema")).scalar() == 2
    engine.dispose()
