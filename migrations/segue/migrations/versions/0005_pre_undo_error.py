"""Why a saga's undo is not done, beside why it began."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005_pre_undo_error"
down_revision = "0004_pre_coordinators"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("saga", sa.Column("undo_error_code", sa.String(length=255), nullable=True))
    op.add_column("saga", sa.Column("undo_error_message", sa.Text(), nullable=True))


def downgrade() -> None:
    for column in ("undo_error_message", "undo_error_code"):
        op.drop_column("saga", column)
