"""Each service's connection to the database that DATABASE_URL names: a SQLite file, or PostgreSQL."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.orm import Session, sessionmaker


def connect(service: str) -> sessionmaker[Session]:
    """Sessions of the service's own database; nothing is opened before the first one is used."""
    return sessionmaker(engine_of(os.environ.get("DATABASE_URL", f"sqlite:///{service}.sqlite")))


def engine_of(url: str) -> Engine:
    """An engine for a service's database."""
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url)
    # SQLite has one writer at a time: threads that wait for its one connection are served in turn, whereas those that
    # wait for its lock look again and again. The timeout is for other processes.
    engine = create_engine(url, pool_size=1, max_overflow=0, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _configure(connection: object, _record: object) -> None:
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    return engine


def now() -> datetime:
    """The time that is written into rows; UTC, without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)
