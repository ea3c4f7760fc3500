"""Where the audit ends, so that lines cut off there are missed; who asked, as database and system know it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_pre_audit_head"
down_revision = "0002_pre_runs"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("lines", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("mac", sa.String(length=64), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    for table in ("operator_request", "audit"):
        op.add_column(table, sa.Column("database_role", sa.String(length=255), nullable=True))
        op.add_column(table, sa.Column("system_user", sa.String(length=255), nullable=True))
    op.execute(
        "INSERT INTO audit_head (id, lines, hash, mac, at)"
        " SELECT 1, seq, hash, NULL, at FROM audit ORDER BY seq DESC LIMIT 1"
    )


def downgrade() -> None:
    for table in ("operator_request", "audit"):
        for column in ("system_user", "database_role"):
            op.drop_column(table, column)
    op.drop_table("audit_head")
