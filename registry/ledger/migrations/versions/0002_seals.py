"""A seal over each chain, so that rows missing at its end are found."""

from __future__ import annotations

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table and seal what is there; and let Perene 0.1.0, which would not seal, refuse this ledger."""
    seals = op.create_table(
        "perene_seals",
        sa.Column("chain", sa.String(80), primary_key=True),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("seal", sa.String(64), nullable=False),
    )
    connection = op.get_bind()
    made: dict[str, tuple[int, str]] = {}
    moves = connection.execute(sa.text("SELECT model, id, hash FROM perene_deployments ORDER BY id"))
    evidence = connection.execute(sa.text("SELECT id, hash FROM perene_evidence ORDER BY id"))
    links = [(f"deployments/{row.model}", row.id, row.hash) for row in moves]
    links += [("evidence", row.id, row.hash) for row in evidence]
    for chain, identifier, link in links:
        rows, seal = made.get(chain, (0, ""))
        made[chain] = rows + 1, hashlib.sha256(f"{seal}:{identifier}:{link}".encode()).hexdigest()
    if made:
        op.bulk_insert(seals, [{"chain": chain, "rows": rows, "seal": seal} for chain, (rows, seal) in made.items()])
    op.execute("DELETE FROM perene_schema")
    op.execute("INSERT INTO perene_schema (version) VALUES (2)")
