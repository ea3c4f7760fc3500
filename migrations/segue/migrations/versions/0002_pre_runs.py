"""Sagas of several runs: which run a saga is in, and where the history of that begins."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_pre_runs"
down_revision = "0001_pre_initial"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Defaults, so that coordinators of the version before go on writing: to them every saga is in its first run.
    op.add_column("saga", sa.Column("run", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("saga", sa.Column("first_seq", sa.BigInteger(), nullable=False, server_default="1"))


def downgrade() -> None:
    for column in ("first_seq", "run"):
        op.drop_column("saga", column)
