"""A key may have limits of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """A column that is empty for the keys there are: the server's own limits hold for them."""
    op.add_column("perene_keys", sa.Column("limits", sa.Text))
