"""What an error of the database means: try again, run the batch again, or never again. One table, one function.

SQLSTATE classes: PostgreSQL manual, appendix A. SQLite: https://www.sqlite.org/rescode.html
"""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, DisconnectionError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from segue.coordinator.schema import metadata
from segue.coordinator.store import Unfit
from segue.errors import Fenced, RejectedWrite, SegueError, StoreUnavailable

#: Whole codes, looked up before the classes.
_STATES: dict[str, type[SegueError]] = {
    "22012": Fenced,  # a division by zero is how our statements say that somebody else was faster
    "25006": StoreUnavailable,  # read-only transaction: we reached a standby in the middle of a failover
    "26000": StoreUnavailable,  # a prepared statement is gone: a connection pooler has changed the server's side
    "25P03": StoreUnavailable,  # idle_in_transaction_session_timeout
    "25P04": StoreUnavailable,  # transaction_timeout
    "55P03": StoreUnavailable,  # lock_timeout
    # A prepared statement gives other columns since a migration; a new connection prepares it anew. Nothing else that
    # is asked here can be "not supported".
    "0A000": StoreUnavailable,
    "42P01": Unfit,  # undefined table: the migrations have not run
    "42703": Unfit,  # undefined column: the migrations are behind
    "42501": Unfit,  # the role lacks a privilege
}
#: The first two characters of a code.
_CLASSES: dict[str, type[SegueError]] = {
    "08": StoreUnavailable,  # connection exception
    "22": RejectedWrite,  # data exception
    "23": RejectedWrite,  # integrity constraint violation
    "40": StoreUnavailable,  # serialization failure, deadlock
    "53": StoreUnavailable,  # insufficient resources: disk full, too many connections
    "54": RejectedWrite,  # program limit exceeded
    "57": StoreUnavailable,  # operator intervention: shutdown, cancel, statement_timeout
    "58": StoreUnavailable,  # system error outside PostgreSQL: I/O
}
_UNIQUE_VIOLATION = "23505"

#: Prefixes of SQLite's extended result codes, the longest first.
_SQLITE: tuple[tuple[str, type[SegueError]], ...] = (
    ("SQLITE_CONSTRAINT_UNIQUE", Fenced),
    ("SQLITE_CONSTRAINT_PRIMARYKEY", Fenced),
    ("SQLITE_CONSTRAINT_ROWID", Fenced),
    ("SQLITE_CONSTRAINT", RejectedWrite),
    ("SQLITE_MISMATCH", RejectedWrite),
    ("SQLITE_TOOBIG", RejectedWrite),
    ("SQLITE_RANGE", RejectedWrite),
    ("SQLITE_BUSY", StoreUnavailable),
    ("SQLITE_LOCKED", StoreUnavailable),
    ("SQLITE_FULL", StoreUnavailable),
    ("SQLITE_IOERR", StoreUnavailable),
    ("SQLITE_INTERRUPT", StoreUnavailable),
    ("SQLITE_NOMEM", StoreUnavailable),
    ("SQLITE_PROTOCOL", StoreUnavailable),
    ("SQLITE_CANTOPEN", StoreUnavailable),
    ("SQLITE_READONLY", Unfit),
)


def _own_constraints() -> frozenset[str]:
    names: set[str] = set()
    for table in metadata.tables.values():
        names.add(f"{table.name}_pkey")
        names.update(f"{table.name}_{column.name}_key" for column in table.columns if column.unique)
        names.update(str(constraint.name) for constraint in table.constraints if constraint.name)
        names.update(str(index.name) for index in table.indexes if index.name)
    return frozenset(names)


#: Names under which PostgreSQL reports our own keys and unique indexes: their violation means that another was first.
OWN_CONSTRAINTS = _own_constraints()


def outcome_of(error: BaseException) -> SegueError | None:
    """The meaning of a database error; None for what is no such error, or a mistake in our SQL that must be seen."""
    if isinstance(error, PoolTimeout | DisconnectionError):
        return StoreUnavailable(f"no connection to the database: {_text(error)}")
    if isinstance(error, StatementError) and error.orig is not None:
        if isinstance(error, DBAPIError) and error.connection_invalidated and not _sqlstate(error.orig):
            return StoreUnavailable(f"the connection to the database broke: {_text(error.orig)}")
        return outcome_of(error.orig)
    kind = _kind_of(error)
    return None if kind is None else kind(_sentence(kind, error))


def _kind_of(error: BaseException) -> type[SegueError] | None:
    if isinstance(error, UnicodeEncodeError | OverflowError):
        return RejectedWrite  # the driver could not even encode the value
    if isinstance(error, sqlite3.Error):
        return _sqlite_kind(error)
    if not _is_driver_error(error):
        return StoreUnavailable if isinstance(error, OSError) else None
    state = _sqlstate(error)
    if state is None:
        # DataError without a SQLSTATE comes from the driver: a NUL in a text. All others: the connection.
        return RejectedWrite if type(error).__name__ == "DataError" else _connection_kind(error)
    if state == _UNIQUE_VIOLATION:
        constraint = getattr(getattr(error, "diag", None), "constraint_name", None)
        return Fenced if constraint in OWN_CONSTRAINTS else RejectedWrite
    return _STATES.get(state) or _CLASSES.get(state[:2])


def _connection_kind(error: BaseException) -> type[SegueError] | None:
    names = {kind.__name__ for kind in type(error).__mro__}
    return StoreUnavailable if names & {"OperationalError", "InterfaceError"} else None


def _sqlite_kind(error: sqlite3.Error) -> type[SegueError] | None:
    name = getattr(error, "sqlite_errorname", None) or ""
    for prefix, kind in _SQLITE:
        if name.startswith(prefix):
            return kind
    if "no such table" in str(error) or "has no column" in str(error) or "no such column" in str(error):
        return Unfit
    return None


def _is_driver_error(error: BaseException) -> bool:
    return any(kind.__module__.partition(".")[0] == "psycopg" for kind in type(error).__mro__)


def _sqlstate(error: BaseException) -> str | None:
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None


def _sentence(kind: type[SegueError], error: BaseException) -> str:
    state = _sqlstate(error) or getattr(error, "sqlite_errorname", None)
    if state == "22012":
        return "sagas were started or moved on by another process meanwhile"
    where = f" ({state})" if state else ""
    if kind is Unfit:
        return f"the database lacks what Segue needs{where}; run `segue db upgrade`: {_text(error)}"
    return f"{_text(error)}{where}"


def _text(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
