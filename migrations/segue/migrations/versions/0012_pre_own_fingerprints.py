"""The code of sagas as each coordinator has it: two on one database may have other code under one name and version.

A table of its own, and no column in the key of `definition`: code of before would find two rows there where it expects
the one that it has written, and not start.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012_pre_own_fingerprints"
down_revision = "0011_pre_expected_signals"
branch_labels = None
depends_on = None

#: Where one coordinator has ever read from this database, all of `definition` is its own. Of several, nobody can tell
#: whose code it was: each writes its own when it starts.
_BACKFILL = (
    "INSERT INTO definition_fingerprint (coordinator, name, version, fingerprint, registered_at)"
    " SELECT (SELECT min(coordinator) FROM consumer_offset), name, version, fingerprint, registered_at FROM definition"
    " WHERE (SELECT count(DISTINCT coordinator) FROM consumer_offset) = 1"
)


def upgrade() -> None:
    op.create_table(
        "definition_fingerprint",
        sa.Column("coordinator", sa.String(length=120), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("coordinator", "name", "version"),
    )
    op.execute(_BACKFILL)


def downgrade() -> None:
    op.drop_table("definition_fingerprint")
