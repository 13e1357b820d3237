"""Tables of the ledger as they are at the head of `registry/migrations`: the same on SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata: Final = MetaData()

# how Perene 0.1.0 knows that this ledger is not for it
schema_version = Table("perene_schema", metadata, Column("version", Integer, primary_key=True))

deployments = Table(
    "perene_deployments",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("model", String(63), nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("champion", Integer, nullable=False),
    Column("candidate", Integer),
    Column("mode", String(16)),
    Column("weight", Float, nullable=False),
    Column("salt", String(64), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", String(32), nullable=False),
    Column("evidence_id", Integer),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("routing", Text),
    # the compare-and-swap: two writers of one revision cannot both commit
    UniqueConstraint("model", "revision", name="perene_one_row_per_revision"),
)

evidence = Table(
    "perene_evidence",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("model", String(63), nullable=False, index=True),
    Column("kind", String(32), nullable=False, index=True),
    Column("body", Text, nullable=False),
    Column("at", String(32), nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
)

seals = Table(
    "perene_seals",
    metadata,
    Column("chain", String(80), primary_key=True),
    Column("rows", Integer, nullable=False),
    Column("seal", String(64), nullable=False),
)


def _records(name: str, identifier: str, *extra: Column[str]) -> Table:
    return Table(
        name,
        metadata,
        Column("id", Integer, primary_key=True, autoincrement=True),
        Column(identifier, String(128), nullable=False, index=True),
        Column("model", String(63), nullable=False, index=True),
        *extra,
        Column("body", Text, nullable=False),
        Column("at", String(32), nullable=False),
    )


runs = _records(
    "perene_runs",
    "run_id",
    Column("status", String(16), nullable=False),
    Column("step", String(32), nullable=False),
)
experiments = _records(
    "perene_experiments",
    "experiment_id",
    Column("state", String(16), nullable=False),
    Column("stage", String(16), nullable=False),
)

leases = Table(
    "perene_leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(128), nullable=False),
    Column("token", Integer, nullable=False),
    Column("expires", Float, nullable=False),
)

states = Table(
    "perene_states",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("body", LargeBinary, nullable=False),
)

keys = Table(
    "perene_keys",
    metadata,
    Column("row", Integer, primary_key=True, autoincrement=True),
    Column("id", String(16), nullable=False, index=True),
    Column("sha256", String(64), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("models", Text, nullable=False),
    Column("label", String(128), nullable=False),
    Column("revoked", Boolean, nullable=False),
    Column("at", String(32), nullable=False),
    Column("limits", Text),
)
