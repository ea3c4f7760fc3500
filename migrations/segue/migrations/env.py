"""Alembic's environment: the runner hands over an open connection, or the name of a dialect for SQL text."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

VERSION_TABLE = "segue_version"


def run() -> None:
    """Run the migrations that Alembic's command asks for, in the caller's transaction."""
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is None:
        dialect = context.config.attributes["dialect"]
        context.configure(dialect_name=dialect, version_table=VERSION_TABLE, literal_binds=True)
    else:
        context.configure(connection=connection, version_table=VERSION_TABLE)
    with context.begin_transaction():
        context.run_migrations()


run()
