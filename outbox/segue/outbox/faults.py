"""Which errors of a database pass by themselves: serialisation, deadlocks, time-outs, lost connections, shutdown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from segue.errors import RejectedWrite, StoreUnavailable, Unavailable

#: SQLSTATE classes that are worth another try: connection, transaction rollback, resources, operator intervention.
TRANSIENT_CLASSES = frozenset(("08", "40", "53", "57"))
#: Single states beyond those classes: lock not available, idle in transaction timeout.
TRANSIENT_STATES = frozenset(("55P03", "25P03"))
#: MySQL: lock wait timeout, deadlock, server gone, connection lost (during query, at handshake), can't connect.
TRANSIENT_MYSQL = frozenset((1205, 1213, 2006, 2013, 2055, 2002, 2003))
#: What SQLite says when another process writes; it has no codes on Python 3.10, and few on later ones.
TRANSIENT_SQLITE = ("database is locked", "database table is locked", "database is busy", "disk i/o error")


def is_transient_database(error: BaseException) -> bool:
    """True where running the same transaction again may succeed."""
    if isinstance(error, (Unavailable, PoolTimeout, DisconnectionError)):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    origin = error.orig
    state = getattr(origin, "sqlstate", None) or getattr(origin, "pgcode", None)
    if isinstance(state, str):
        return state[:2] in TRANSIENT_CLASSES or state in TRANSIENT_STATES
    kind = f"{type(origin).__module__}.{type(origin).__name__}"
    if "sqlite" in kind:
        return any(text in str(origin).lower() for text in TRANSIENT_SQLITE)
    if origin is not None and origin.args and origin.args[0] in TRANSIENT_MYSQL:
        return True
    # psycopg gives a lost connection, and a COMMIT whose answer was lost, an OperationalError without a state; one of
    # its subclasses (ConnectionTimeout) to a server that did not answer.
    names = {parent.__name__ for parent in type(origin).__mro__}
    return kind.startswith("psycopg") and "OperationalError" in names


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
