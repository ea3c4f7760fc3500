"""Bring a database to the newest schema, say where it stands, and tell what is missing.

Errors of the database come as SQLAlchemy's; whoever calls knows how to tell people.
"""

from __future__ import annotations

import io
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema

#: The name under which Alembic keeps the revision; a user's own Alembic keeps `alembic_version`.
VERSION_TABLE = "segue_version"
#: Two processes that upgrade at once: the second one waits for this lock and finds nothing left to do.
_LOCK = text("SELECT pg_advisory_xact_lock(495790221618)")
#: A table that is busy makes the upgrade fail after this time instead of all that queue up behind it.
_LOCK_TIMEOUT = text("SET LOCAL lock_timeout = '30s'")
_SET_PATH = text("SELECT set_config('search_path', :path, true)")
_SEARCH_PATH = re.compile(r"(?:-c\s*|--)search_path=(\S+)")
_HAS_SCHEMA = text("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = :name)")
_WITH_TABLES = text(
    "SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
    "WHERE relname = :table AND relkind IN ('r', 'p') AND nspname NOT LIKE 'pg\\_%' ORDER BY nspname"
)


#: What the first migration makes.
FIRST_TABLES = frozenset(
    (
        "audit",
        "consumer_offset",
        "correlation",
        "dead_letter",
        "definition",
        "operator_request",
        "outbox",
        "outbox_batch",
        "outbox_lane",
        "outbox_quarantine",
        "outbox_relay",
        "saga",
        "saga_event",
    )
)


class TablesInTheWay(Exception):
    """Tables of these names are there, and no migration of Segue has made them."""


class TablesElsewhere(TablesInTheWay):
    """Segue's tables are in another schema of this database than the one that is asked for."""


def upgrade(url: str) -> None:
    """Bring the database to `head()`, in one transaction; nothing happens if it is there. Safe to run twice at once.

    A schema that the URL's search path begins with is made. Raises TablesInTheWay where somebody else has made such
    tables, TablesElsewhere where Segue has them in another schema already; nothing happens then.
    """
    with _transaction(url) as connection:
        _make_schema(connection, _search_path(url))
        _refuse_strangers(connection)
        _upgrade(connection)
    _write_ahead(url)


def current(url: str) -> str | None:
    """The revision of the database; None if Segue was never there."""
    with _transaction(url) as connection:
        return _current(connection)


def head() -> str:
    """The newest revision that this version knows."""
    [newest] = ScriptDirectory.from_config(_config()).get_heads()
    return newest


def check(url: str) -> list[str]:
    """What the database lacks of what this version needs, as sentences; empty if it can work.

    A database that is ahead is no difference, for old code runs on the new schema; nor is one that waits for its `post`
    migrations, which come when no old code is left.
    """
    with _transaction(url) as connection:
        found = _current(connection)
        if found is None:
            elsewhere = [_named_by(schema) for schema in _schemas_with_tables(connection)]
            hint = f"; there are some in another schema ({' or '.join(elsewhere)})" if elsewhere else ""
            return [f"The database has no tables of Segue yet; run `segue db upgrade`{hint}."]
        return _needed_after(found) + _missing(connection)


def sql(url: str) -> str:
    """The statements that create the newest schema in an empty database of this kind; nothing is connected to."""
    out = io.StringIO()
    config = _config()
    config.output_buffer = out
    config.attributes["dialect"] = make_url(url).get_backend_name()
    command.upgrade(config, "head", sql=True)
    path = _search_path(url)
    schema = f"CREATE SCHEMA IF NOT EXISTS {_first(path)};\n\nSET search_path TO {path};\n\n" if path else ""
    return schema + out.getvalue()


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _refuse_strangers(connection: Connection) -> None:
    if _current(connection) is not None:
        return
    found = sorted(FIRST_TABLES & set(inspect(connection).get_table_names()))
    if found:
        raise TablesInTheWay(
            f"the database has {', '.join(found)} already, which no migration of Segue's has made: a service has its "
            "outbox there. Give the coordinator a database of its own, or a schema (coordinator.schema = 'segue')"
        )


def _make_schema(connection: Connection, path: str) -> None:
    """Make the schema that is to hold the tables, unless they are in another one: nobody's tables are left behind."""
    if connection.dialect.name != "postgresql" or _current(connection) is not None:
        return
    there = bool(path) and connection.scalar(_HAS_SCHEMA, {"name": _first(path)})
    elsewhere = [] if there else _schemas_with_tables(connection)
    if elsewhere:
        raise TablesElsewhere(
            f"Segue's tables are in schema {', '.join(elsewhere)} of this database: set {_named_by(elsewhere[0])}. For "
            "a coordinator of other sagas, make a schema by hand (CREATE SCHEMA) and name it in coordinator.schema"
        )
    if path and not there:
        connection.execute(CreateSchema(_first(path)))


def _schemas_with_tables(connection: Connection) -> list[str]:
    """The schemas in which a migration of Segue has been."""
    if connection.dialect.name != "postgresql":
        return []
    return list(connection.scalars(_WITH_TABLES, {"table": VERSION_TABLE}))


def _named_by(schema: str) -> str:
    return f"coordinator.schema = {schema!r}"


def _search_path(url: str) -> str:
    """The search path that the URL asks for; empty: it does not say."""
    options = make_url(url).query.get("options", "")
    found = _SEARCH_PATH.findall(options if isinstance(options, str) else " ".join(options))
    return str(found[-1]) if found else ""


def _first(path: str) -> str:
    return path.partition(",")[0].strip().strip('"')


def _current(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def _config() -> Config:
    config = Config()
    # Percent signs are interpolation in Alembic's configuration.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _needed_after(revision: str) -> list[str]:
    """A sentence for each `pre` migration that comes after `revision`; none for a revision of a newer version."""
    scripts = ScriptDirectory.from_config(_config())
    known = {script.revision: number for number, script in enumerate(scripts.walk_revisions("base", "heads"))}
    if revision not in known:
        return [] if revision > head() else [f"The database is at revision {revision}, which is none of Segue's."]
    waiting = sorted(name for name, number in known.items() if number < known[revision] and "_pre_" in name)
    return [f"Migration {name} has not run yet; run `segue db upgrade`." for name in waiting]


def _missing(connection: Connection) -> list[str]:
    """Sentences for every table, column and index that the migrations make and the database lacks."""
    here = _shape(connection)
    with _transaction("sqlite://") as model:
        _upgrade(model)
        wanted = _shape(model)
    sentences = []
    for table, (columns, indexes) in sorted(wanted.items()):
        if table not in here:
            sentences.append(f"Table {table} is missing.")
            continue
        sentences.extend(f"Column {table}.{column} is missing." for column in sorted(columns - here[table][0]))
        sentences.extend(f"Index {index} on {table} is missing." for index in sorted(indexes - here[table][1]))
    return sentences


def _shape(connection: Connection) -> dict[str, tuple[set[str], set[str]]]:
    """Table → names of its columns, names of its indexes."""
    inspector = inspect(connection)
    return {
        table: (
            {column["name"] for column in inspector.get_columns(table)},
            {str(index["name"]) for index in inspector.get_indexes(table) if index["name"]},
        )
        for table in inspector.get_table_names()
    }


@contextmanager
def _transaction(url: str) -> Iterator[Connection]:
    """One transaction, alone: on PostgreSQL under the lock, on SQLite as the only writer."""
    engine = _engine(url)
    try:
        with engine.connect() as connection, connection.begin():
            yield connection
    finally:
        engine.dispose()


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite":
        path = _search_path(url)
        engine = create_engine(parsed, poolclass=NullPool)
        event.listen(engine, "begin", lambda connection: _begin_postgres(connection, path))
        return engine
    engine = create_engine(
        parsed, connect_args={"timeout": 30}, poolclass=None if _in_memory(parsed.database) else NullPool
    )
    event.listen(engine, "connect", _no_implicit_transactions)
    event.listen(engine, "begin", _begin_immediate)
    return engine


def _in_memory(database: str | None) -> bool:
    return database in {None, "", ":memory:"}


def _write_ahead(url: str) -> None:
    """Put a SQLite file into WAL mode, while nobody works on it: beside a writer the change fails at once, unwaited."""
    engine = _engine(url)
    if engine.dialect.name != "sqlite" or _in_memory(engine.url.database):
        return
    driver: Any = engine.raw_connection()
    try:
        driver.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError:
        pass  # another upgrade is writing, and changes the mode when it is done
    finally:
        driver.close()


def _begin_postgres(connection: Connection, path: str) -> None:
    connection.execute(_LOCK)
    connection.execute(_LOCK_TIMEOUT)
    if path:
        connection.execute(_SET_PATH, {"path": path})  # a pooler may leave out what the URL says


def _no_implicit_transactions(dbapi_connection: Any, record: Any) -> None:
    # The driver would commit before every CREATE TABLE.
    dbapi_connection.isolation_level = None


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
