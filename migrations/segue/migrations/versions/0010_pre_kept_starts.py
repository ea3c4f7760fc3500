"""Starts of sagas whose type no coordinator has yet: kept until one has it, found by the type."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010_pre_kept_starts"
down_revision = "0009_pre_readable"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("dead_letter", sa.Column("definition", sa.String(length=255), nullable=True))


def downgrade() -> None:
    op.drop_column("dead_letter", "definition")
