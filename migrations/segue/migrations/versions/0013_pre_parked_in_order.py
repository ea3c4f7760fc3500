"""Parked records in the order in which they came."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013_pre_parked_in_order"
down_revision = "0012_pre_own_fingerprints"
branch_labels = None
depends_on = None


def upgrade() -> None:
    where = sa.text("state = 'parked'")
    op.create_index("dead_letter_parked", "dead_letter", ["id"], postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    op.drop_index("dead_letter_parked", "dead_letter")
