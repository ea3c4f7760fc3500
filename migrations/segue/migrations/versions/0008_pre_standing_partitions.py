"""Partitions that stand, as a batch of records can't be read: where, why, and when one was last stepped over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008_pre_standing_partitions"
down_revision = "0007_pre_outbox_source"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("consumer_offset", sa.Column("skipped_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("consumer_offset", sa.Column("stands_at", sa.BigInteger(), nullable=True))
    op.add_column("consumer_offset", sa.Column("problem", sa.String(length=1024), nullable=True))


def downgrade() -> None:
    for column in ("problem", "stands_at", "skipped_at"):
        op.drop_column("consumer_offset", column)
