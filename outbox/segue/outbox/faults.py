"""What an error of a database means: one table for the coordinator, the workers, the relays and the client.

SQLSTATE classes: PostgreSQL manual, appendix A. SQLite: https://www.sqlite.org/rescode.html. MySQL and MariaDB:
https://mariadb.com/kb/en/mariadb-error-code-reference/
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum

from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from segue.errors import ConfigError, RejectedWrite, StoreUnavailable, Unavailable


class UnfitDatabase(ConfigError):
    """The database lacks something that somebody has to give it; no record is to blame, and none is given up for it."""

    code = "unfit_database"


class DatabaseFault(Enum):
    """What to do about an error of the database."""

    #: The same transaction may succeed when it is run again: lost connections, deadlocks, time-outs, shutdown.
    PASSES = "passes"
    #: The database lacks something that somebody has to give it: a table, a column, a privilege, the right to write.
    #: Nothing is wrong with what was to be written; who waits, loses nothing.
    UNFIT = "unfit"
    #: There is such a row already.
    TAKEN = "taken"
    #: It will never take this value.
    REFUSED = "refused"


#: Whole SQLSTATEs, looked up before the classes.
STATES: Mapping[str, DatabaseFault] = {
    "23505": DatabaseFault.TAKEN,
    "25006": DatabaseFault.PASSES,  # read-only transaction: a standby in the middle of a failover
    "25P03": DatabaseFault.PASSES,  # idle_in_transaction_session_timeout
    "25P04": DatabaseFault.PASSES,  # transaction_timeout
    "26000": DatabaseFault.PASSES,  # a prepared statement is gone: a connection pooler has changed the server's side
    "3D000": DatabaseFault.UNFIT,  # no such database
    "3F000": DatabaseFault.UNFIT,  # no such schema
    "42501": DatabaseFault.UNFIT,  # the role lacks a privilege
    "42703": DatabaseFault.UNFIT,  # undefined column: the migrations are behind
    "42P01": DatabaseFault.UNFIT,  # undefined table: the migrations have not run
    "55P03": DatabaseFault.PASSES,  # lock_timeout
}
#: The first two characters of a SQLSTATE.
CLASSES: Mapping[str, DatabaseFault] = {
    "08": DatabaseFault.PASSES,  # connection exception
    "22": DatabaseFault.REFUSED,  # data exception
    "23": DatabaseFault.REFUSED,  # integrity constraint violation
    "28": DatabaseFault.UNFIT,  # invalid authorization
    "40": DatabaseFault.PASSES,  # serialization failure, deadlock
    "53": DatabaseFault.PASSES,  # insufficient resources: disk full, too many connections
    "54": DatabaseFault.REFUSED,  # program limit exceeded
    "57": DatabaseFault.PASSES,  # operator intervention: shutdown, cancel, statement_timeout
    "58": DatabaseFault.PASSES,  # system error outside PostgreSQL: I/O
}
#: Error numbers of MySQL and MariaDB.
MYSQL: Mapping[int, DatabaseFault] = {
    **dict.fromkeys((1205, 1213, 3572), DatabaseFault.PASSES),  # lock wait timeout, deadlock, NOWAIT
    **dict.fromkeys((2002, 2003, 2006, 2013, 2055), DatabaseFault.PASSES),  # the connection can't be made, or broke
    **dict.fromkeys((1021, 1040, 1114, 1203, 1226), DatabaseFault.PASSES),  # disk or table full, too many connections
    **dict.fromkeys((1053, 1080, 1317, 1927, 1969, 3024), DatabaseFault.PASSES),  # shutdown, killed, too slow
    **dict.fromkeys((1290, 1792, 1836), DatabaseFault.UNFIT),  # read-only
    **dict.fromkeys((1049, 1054, 1146, 1356), DatabaseFault.UNFIT),  # no such database, column, table, view
    **dict.fromkeys((1044, 1045, 1142, 1143, 1227, 1370), DatabaseFault.UNFIT),  # a privilege is missing
    **dict.fromkeys((1062, 1586), DatabaseFault.TAKEN),
    **dict.fromkeys((1048, 1153, 1264, 1292, 1366, 1406, 1451, 1452, 3819, 4025), DatabaseFault.REFUSED),
}
#: Prefixes of SQLite's extended result codes, the longest first.
SQLITE: tuple[tuple[str, DatabaseFault], ...] = (
    ("SQLITE_CONSTRAINT_UNIQUE", DatabaseFault.TAKEN),
    ("SQLITE_CONSTRAINT_PRIMARYKEY", DatabaseFault.TAKEN),
    ("SQLITE_CONSTRAINT_ROWID", DatabaseFault.TAKEN),
    ("SQLITE_CONSTRAINT", DatabaseFault.REFUSED),
    ("SQLITE_MISMATCH", DatabaseFault.REFUSED),
    ("SQLITE_TOOBIG", DatabaseFault.REFUSED),
    ("SQLITE_RANGE", DatabaseFault.REFUSED),
    ("SQLITE_BUSY", DatabaseFault.PASSES),
    ("SQLITE_LOCKED", DatabaseFault.PASSES),
    ("SQLITE_FULL", DatabaseFault.PASSES),
    ("SQLITE_IOERR", DatabaseFault.PASSES),
    ("SQLITE_INTERRUPT", DatabaseFault.PASSES),
    ("SQLITE_NOMEM", DatabaseFault.PASSES),
    ("SQLITE_PROTOCOL", DatabaseFault.PASSES),
    ("SQLITE_CANTOPEN", DatabaseFault.PASSES),
    ("SQLITE_READONLY", DatabaseFault.UNFIT),
)
#: What SQLite says under a code that says nothing, or that somebody on the way has lost.
SQLITE_SAYS: tuple[tuple[str, DatabaseFault], ...] = (
    ("no such table", DatabaseFault.UNFIT),
    ("has no column", DatabaseFault.UNFIT),
    ("no such column", DatabaseFault.UNFIT),
    ("database is locked", DatabaseFault.PASSES),
    ("database table is locked", DatabaseFault.PASSES),
    ("disk i/o error", DatabaseFault.PASSES),
)
#: Packages of PostgreSQL's drivers, and of MySQL's.
_POSTGRES, _MYSQL = ("psycopg", "psycopg2", "asyncpg"), ("pymysql", "MySQLdb", "aiomysql", "asyncmy", "mariadb")


def fault_of(error: BaseException) -> DatabaseFault | None:
    """What an error of SQLAlchemy or of a driver means; None for any other, and for a mistake in the SQL itself."""
    if isinstance(error, (Unavailable, PoolTimeout, DisconnectionError)):
        return DatabaseFault.PASSES
    if isinstance(error, UnfitDatabase):
        return DatabaseFault.UNFIT
    if isinstance(error, StatementError):
        if isinstance(error, DBAPIError) and error.connection_invalidated and sqlstate_of(error.orig) is None:
            return DatabaseFault.PASSES
        return None if error.orig is None else fault_of(error.orig)
    if isinstance(error, sqlite3.Error):
        return _fault_of_sqlite(error)
    if _is_of(error, _MYSQL):
        return MYSQL.get(error.args[0]) if error.args and isinstance(error.args[0], int) else None
    state = sqlstate_of(error)
    if state is not None:
        return STATES.get(state) or CLASSES.get(state[:2])
    return _fault_without_state(error) if _is_of(error, _POSTGRES) else None


def is_transient_database(error: BaseException) -> bool:
    """True where running the same transaction again may succeed."""
    return fault_of(error) is DatabaseFault.PASSES


def sqlstate_of(error: BaseException | None) -> str | None:
    """The SQLSTATE that a driver of PostgreSQL has noted."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state if isinstance(state, str) else None


def _fault_of_sqlite(error: sqlite3.Error) -> DatabaseFault | None:
    name = getattr(error, "sqlite_errorname", None) or ""
    for prefix, fault in SQLITE:
        if name.startswith(prefix):
            return fault
    said = str(error).lower()
    return next((fault for text, fault in SQLITE_SAYS if text in said), None)


def _fault_without_state(error: BaseException) -> DatabaseFault | None:
    # psycopg gives a lost connection, and a COMMIT whose answer was lost, an OperationalError without a state; one of
    # its subclasses (ConnectionTimeout) to a server that did not answer. A DataError without one comes of a NUL.
    names = {kind.__name__ for kind in type(error).__mro__}
    if "DataError" in names:
        return DatabaseFault.REFUSED
    return DatabaseFault.PASSES if names & {"OperationalError", "InterfaceError"} else None


def _is_of(error: BaseException, packages: tuple[str, ...]) -> bool:
    return any(kind.__module__.partition(".")[0] in packages for kind in type(error).__mro__)


@contextmanager
def translated() -> Iterator[None]:
    """Turn errors of SQLAlchemy into StoreUnavailable or, where trying again is useless, RejectedWrite."""
    try:
        yield
    except SQLAlchemyError as error:
        origin = getattr(error, "orig", None) or error
        text = f"{type(origin).__name__}: {origin!s:.300}"
        if is_transient_database(error):
            raise StoreUnavailable(text) from error
        raise RejectedWrite(text) from error
