"""Run by Alembic: the migrations happen on the connection, and in the transaction, of whoever called."""

from __future__ import annotations

from alembic import context

from registry.ledger.schema import VERSION_TABLE
from registry.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # not Alembic's own name: MLflow keeps its version there, and both may share one database
    version_table=VERSION_TABLE,
)
context.run_migrations()
