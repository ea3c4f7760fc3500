"""Whose a saga and a dead letter are, where several coordinators share a database; and room for their names in keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_pre_coordinators"
down_revision = "0003_pre_audit_head"
branch_labels = None
depends_on = None

_TABLES = ("saga", "dead_letter")
#: Columns that hold keys: (table, column, length before, whether it may be empty).
_KEYS = (
    ("outbox", "aggregateid", 255, False),
    ("outbox", "saga_key", 600, True),
    ("outbox_quarantine", "aggregateid", 255, False),
)
_KEY = 640

#: Where one coordinator has ever read from this database, all rows are its own: they get its name as the default of
#: the new column, which writes none of them. Of several, each saga's first event tells: a coordinator that starts
#: reads those, a page at a time.
_ONLY_ONE = "SELECT min(coordinator) FROM consumer_offset HAVING count(DISTINCT coordinator) = 1"


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    for table in _TABLES:
        if dialect == "postgresql":
            _add_on_postgresql(table)
        else:
            _add(table)
            op.execute(f"UPDATE {table} SET coordinator = ({_ONLY_ONE}) WHERE EXISTS ({_ONLY_ONE})")
    here = sa.text("coordinator = ''")
    op.create_index("saga_of_nobody", "saga", ["id"], unique=False, postgresql_where=here, sqlite_where=here)
    if dialect == "sqlite":
        return  # it knows no lengths, and would copy the tables
    for table, column, length, nullable in _KEYS:
        _resize(table, column, length, _KEY, nullable=nullable)


def downgrade() -> None:
    if op.get_context().dialect.name != "sqlite":
        for table, column, length, nullable in _KEYS:
            _resize(table, column, _KEY, length, nullable=nullable)
    op.drop_index("saga_of_nobody", table_name="saga")
    for table in reversed(_TABLES):
        op.drop_column(table, "coordinator")


def _add(table: str) -> None:
    op.add_column(table, sa.Column("coordinator", sa.String(length=120), nullable=False, server_default=""))


def _add_on_postgresql(table: str) -> None:
    op.execute(
        f"DO $$ BEGIN EXECUTE 'ALTER TABLE {table} ADD COLUMN coordinator VARCHAR(120) DEFAULT '"
        f" || quote_literal(coalesce(({_ONLY_ONE}), '')) || ' NOT NULL'; END $$"
    )
    # What coordinators of the version before go on writing is not taken for anybody's.
    op.execute(f"ALTER TABLE {table} ALTER COLUMN coordinator SET DEFAULT ''")


def _resize(table: str, column: str, before: int, after: int, *, nullable: bool) -> None:
    op.alter_column(
        table,
        column,
        existing_type=sa.String(length=before),
        type_=sa.String(length=after),
        existing_nullable=nullable,
    )
