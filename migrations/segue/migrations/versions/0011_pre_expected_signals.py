"""By when a signal should have come that a saga waits for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011_pre_expected_signals"
down_revision = "0010_pre_kept_starts"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("saga", sa.Column("expected_at", MOMENT, nullable=True))
    where = sa.text("expected_at IS NOT NULL")
    op.create_index("saga_expected_at", "saga", ["expected_at"], postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    op.drop_index("saga_expected_at", "saga")
    op.drop_column("saga", "expected_at")
