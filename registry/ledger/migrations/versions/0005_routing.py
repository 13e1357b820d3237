"""A deployment may say more of routing than one candidate's weight."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """A column that is empty for the deployments there are: their hashes stay what they were."""
    op.add_column("perene_deployments", sa.Column("routing", sa.Text))
