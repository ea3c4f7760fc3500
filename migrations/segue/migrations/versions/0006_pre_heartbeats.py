"""Signs of life of activities that take long, beside the histories: one small row for each command that has them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006_pre_heartbeats"
down_revision = "0005_pre_undo_error"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "heartbeat",
        sa.Column("command_id", sa.String(255), primary_key=True),
        sa.Column("saga_id", sa.String(255), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("newest", sa.BigInteger(), nullable=False),
        sa.Column("known", sa.LargeBinary(), nullable=False),
        sa.Column("details", sa.LargeBinary(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
    )
    op.create_index("heartbeat_saga", "heartbeat", ["saga_id"])


def downgrade() -> None:
    op.drop_table("heartbeat")
