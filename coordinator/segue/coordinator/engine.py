"""Connections to the two databases, set up so that nothing waits for ever: on the server, in the driver, and here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from segue.errors import ConfigError
from segue.outbox.line import Line
from segue.outbox.pooler import shares_sessions
from segue.outbox.search_path import search_path_of

_LINE = "segue.line"


def open_engine(url: str, *, pool_size: int, lock_timeout: timedelta, call_timeout: timedelta) -> Engine:
    """An engine for the store. Raises ConfigError for a URL that is none, or of a database that the store can't use."""
    parsed = _parsed(url)
    if parsed.get_backend_name() == "postgresql":
        return _postgres(parsed, pool_size, lock_timeout, call_timeout)
    return _sqlite(parsed, pool_size, lock_timeout)


def connect(engine: Engine) -> Connection:
    """A connection from the pool, alone to the caller till it is closed."""
    return engine.connect()


def cut_of(connection: Connection) -> Callable[[], None]:
    """What makes a call on this connection return at once, with an error; may be called from another thread."""
    line: Line | None = connection.connection.info.get(_LINE)
    if line is not None:
        return line.cut
    driver: Any = connection.connection.driver_connection
    return driver.interrupt  # type: ignore[no-any-return]


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(
            f"database: {url!r} is not a database URL; use postgresql+psycopg:// or sqlite:///"
        ) from error
    if parsed.drivername in {"sqlite", "sqlite+pysqlite"}:
        return parsed
    if parsed.drivername in {"postgresql", "postgresql+psycopg"}:
        return parsed.set(drivername="postgresql+psycopg")
    shown = parsed.render_as_string(hide_password=True)
    raise ConfigError(f"database: {shown} is neither postgresql+psycopg:// nor sqlite:///")


def _postgres(url: URL, pool_size: int, lock_timeout: timedelta, call_timeout: timedelta) -> Engine:
    # Statements are prepared by `segue.outbox.pipeline`; the driver drops its own, and all others, at a ROLLBACK.
    arguments: dict[str, Any] = {"autocommit": True, "prepare_threshold": None}
    if "connect_timeout" not in url.query:
        arguments["connect_timeout"] = max(2, round(call_timeout.total_seconds()))
    if "application_name" not in url.query:
        arguments["application_name"] = "segue"
    try:
        engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=call_timeout.total_seconds(),
            connect_args=arguments,
            hide_parameters=True,  # they are payloads, and errors reach logs
        )
    except ModuleNotFoundError as error:
        raise ConfigError("database: PostgreSQL needs the driver psycopg; install segue[postgres]") from error
    settings = {
        "lock_timeout": _ms(lock_timeout),
        "statement_timeout": _ms(call_timeout),
        "idle_in_transaction_session_timeout": _ms(call_timeout),
        "default_transaction_isolation": "read committed",
        "default_transaction_read_only": "off",
        "TimeZone": "UTC",
        # Prepared statements keep plans that were made while a table was empty, and an empty table is read as a whole,
        # or hashed: all that is done here for many rows is to be done by their keys.
        "enable_seqscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        # For the same reason: a look for the next alarm collected all sagas of a definition, ended ones too.
        "enable_bitmapscan": "off",
        # So nothing is to be gained from planning a statement anew for each array that it is given; left to itself the
        # server does, for it takes an array whose length it can't see for longer than one of a single saga.
        "plan_cache_mode": "force_generic_plan",
        # A scan that is off, where there is no other way, counts as so dear that the server would compile the statement
        # each time: a second of its time to find 500 sagas that are due.
        "jit": "off",
    }
    if path := search_path_of(url):
        settings["search_path"] = path  # a pooler in session mode may have left the URL's own out
    query = "SELECT " + ", ".join("set_config(%s, %s, false)" for _ in settings)

    @event.listens_for(engine, "connect")
    def prepare(dbapi_connection: Any, record: Any) -> None:
        if shares_sessions(dbapi_connection):
            # Before anything is set, which another client would find in its session.
            raise ConfigError(
                f"database: behind {url.host}:{url.port} is a connection pooler in transaction mode, which gives each "
                "transaction another session of PostgreSQL; Segue sets up sessions of its own, and holds few of them: "
                "give the address of PostgreSQL itself, or of a pool in session mode"
            )
        dbapi_connection.execute(query, [text for pair in settings.items() for text in pair])
        record.info[_LINE] = Line(dbapi_connection.fileno())

    @event.listens_for(engine, "close")
    def close(dbapi_connection: Any, record: Any) -> None:
        line = record.info.pop(_LINE, None)
        if line is not None:
            line.close()

    return engine


def _sqlite(url: URL, pool_size: int, lock_timeout: timedelta) -> Engine:
    seconds = lock_timeout.total_seconds()
    in_memory = url.database in {None, "", ":memory:"}
    sizes = {} if in_memory else {"pool_size": pool_size, "max_overflow": 0}
    engine = create_engine(url, connect_args={"timeout": seconds}, hide_parameters=True, **sizes)

    @event.listens_for(engine, "connect")
    def prepare(dbapi_connection: Any, record: Any) -> None:
        # The driver's own idea of transactions does not know BEGIN IMMEDIATE.
        dbapi_connection.isolation_level = None
        dbapi_connection.execute("PRAGMA journal_mode = WAL")
        # With NORMAL a power cut may take back the last commits, whose commands are out already.
        dbapi_connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # Every transaction begins as the writer: one that begins as a reader can't become it without failing.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _ms(duration: timedelta) -> str:
    return f"{duration // timedelta(milliseconds=1)}ms"
