"""Who sends a message (`ce_source`), in a column of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007_pre_outbox_source"
down_revision = "0006_pre_heartbeats"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Nullable: processes of the version before write it among the other headers, and go on doing so.
    op.add_column("outbox", sa.Column("source", sa.String(255), nullable=True))


def downgrade() -> None:
    op.drop_column("outbox", "source")
