"""Reading the coordinator's database, from a thread or from an event loop; nothing is ever written."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from segue.client.rows import Sight, look
from segue.errors import ConfigError, StoreUnavailable
from segue.outbox.deadline import CALL_TIMEOUT, deadline, watch
from segue.outbox.faults import is_transient_database
from segue.outbox.search_path import keep_search_path

#: Seconds to wait for a connection to PostgreSQL.
CONNECT_TIMEOUT = 5

_NOT_GIVEN = (
    "this client has no database: give `database=` (the coordinator's URL or an Engine), from which results, queries "
    "and descriptions are read"
)


class Reader(Protocol):
    """Looks at a saga. Raises StoreUnavailable for what passes, ConfigError for what does not."""

    def look(self, saga_id: str) -> Sight: ...

    def close(self) -> None: ...


class AsyncReader(Protocol):
    """The same as coroutines."""

    async def look(self, saga_id: str) -> Sight: ...

    async def close(self) -> None: ...


class NoDatabase:
    """In place of a database that was not configured: says so."""

    def look(self, saga_id: str) -> Sight:
        raise ConfigError(_NOT_GIVEN)

    def close(self) -> None:
        pass


class Database:
    """A database over an Engine: the caller's, or one of its own that `close` disposes of."""

    def __init__(self, database: str | URL | Engine) -> None:
        self._own = not isinstance(database, Engine)
        self._engine = database if isinstance(database, Engine) else _engine(database)
        watch(self._engine)

    def look(self, saga_id: str) -> Sight:
        with _translated(), deadline(CALL_TIMEOUT), self._engine.connect() as connection:
            return look(connection, saga_id)

    def close(self) -> None:
        if self._own:
            self._engine.dispose()


class ThreadedReader:
    """A sync reader for an event loop: every look is made in a thread."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def look(self, saga_id: str) -> Sight:
        return await asyncio.to_thread(self._reader.look, saga_id)

    async def close(self) -> None:
        self._reader.close()


class AsyncDatabase:
    """A database over the caller's AsyncEngine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        watch(engine)

    async def look(self, saga_id: str) -> Sight:
        with _translated(), deadline(CALL_TIMEOUT):
            async with self._engine.connect() as connection:
                return await connection.run_sync(look, saga_id)

    async def close(self) -> None:
        pass


def reader_of(database: str | URL | Engine | None) -> Reader:
    """The reader for what the user gave."""
    return NoDatabase() if database is None else Database(database)


def async_reader_of(database: str | URL | Engine | AsyncEngine | None) -> AsyncReader:
    """The same for an event loop."""
    return AsyncDatabase(database) if isinstance(database, AsyncEngine) else ThreadedReader(reader_of(database))


def _engine(database: str | URL) -> Engine:
    try:
        url = make_url(database)
    except ArgumentError:
        raise ConfigError(
            "database is not a URL; write postgresql+psycopg://user@host/name or sqlite:///path"
        ) from None
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    timeout: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT} if url.get_backend_name() == "postgresql" else {}
    try:
        return keep_search_path(create_engine(url, pool_pre_ping=True, hide_parameters=True, connect_args=timeout))
    except ModuleNotFoundError as error:
        where = url.render_as_string()
        raise ConfigError(f"database {where} needs the package {error.name}: pip install 'segue[postgres]'") from None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        text = f"can't read the coordinator's database: {getattr(error, 'orig', None) or error!s:.300}"
        if is_transient_database(error):
            raise StoreUnavailable(text) from error
        hint = "is `database` the coordinator's, in the schema that `coordinator.schema` names, and up to date?"
        raise ConfigError(f"{text}; {hint}") from error
