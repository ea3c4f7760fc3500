"""A transaction on PostgreSQL in as few round trips as its statements allow: BEGIN goes with the first one, and what is
written last goes with COMMIT.

A lone command has nobody to share its transaction with, so that each of its waits for the server is the saga's. Through
psycopg's synchronous driver only: an event loop must not wait here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, TwoPhaseTransaction, event
from sqlalchemy.exc import DBAPIError

from segue.errors import StoreUnavailable
from segue.outbox.deadline import guarded

if TYPE_CHECKING:
    from segue.outbox.pipeline import Answer, Call, Pipeline, Value

#: Where a driver's connection keeps its prepared statements, and what is to be written with the next COMMIT: the
#: transaction that it belongs to, and the calls.
_PIPELINE, _PUT_OFF = "segue.pipeline", "segue.put_off"
#: libpq's PQTRANS_IDLE and PQ_PIPELINE_OFF.
_NO_TRANSACTION = _NO_PIPELINE = 0
_BEGIN, _COMMIT = "BEGIN", "COMMIT"
#: The server has forgotten a prepared statement (somebody has said DISCARD ALL), or it gives other columns since a
#: migration: a new connection prepares it anew.
_OUTLIVED = frozenset(("26000", "0A000"))


def fit(connection: Connection) -> bool:
    """Whether this connection's transaction can be driven from here.

    Not on an event loop, which must not wait; not where statements may not be prepared (a pooler gives each transaction
    another server), where texts are not sent as UTF-8, or where BEGIN or COMMIT would have to say more than its name.
    """
    dialect = connection.dialect
    if dialect.name != "postgresql" or dialect.driver != "psycopg" or dialect.is_async:
        return False
    driver = _driver(connection)
    plain = driver.isolation_level is driver.read_only is driver.deferrable is None
    if not plain or driver.autocommit or driver.prepare_threshold is None:
        return False
    if driver.pgconn.parameter_status(b"client_encoding") != b"UTF8":
        return False
    return not isinstance(connection.get_transaction(), TwoPhaseTransaction)


def ask(connection: Connection, text: str, values: Sequence[Value]) -> list[tuple[Any, ...]]:
    """The rows of one statement, in SQLAlchemy's transaction; placeholders are %s.

    It does not pass SQLAlchemy's cursor, so no listener hears of it. Raises SQLAlchemy's DBAPIError, RejectedWrite for
    a text that can't be sent, StoreUnavailable where what was prepared is of no use any more.
    """
    calls = [*_taken(connection), (_numbered(text), values)]
    return _run(connection, calls)[-1].rows()


def put_off(connection: Connection, text: str, values: Sequence[Value]) -> None:
    """Run a statement that is sure to write what it should in the round trip of COMMIT, or of the next `ask`.

    Not inside a savepoint that may be rolled back, and not where somebody else may commit below SQLAlchemy.
    """
    if not event.contains(connection.engine, "commit", _before_commit):
        event.listen(connection.engine, "commit", _before_commit)
    if not connection.in_transaction():
        connection.begin()
    calls = _taken(connection)
    connection.info[_PUT_OFF] = (connection.get_transaction(), [*calls, (_numbered(text), values)])


def _before_commit(connection: Connection) -> None:
    # The last thing before the driver is told to commit; it finds no transaction then, and does nothing.
    calls = _taken(connection)
    if not calls:
        return
    try:
        _run(connection, [*calls, (_COMMIT, ())])
    except Exception:
        _end(connection)
        raise


def _rolled_back(connection: Connection, *_: object) -> None:
    # psycopg says DEALLOCATE ALL after a ROLLBACK, also of a savepoint, once it has prepared a statement of its own.
    pipeline: Pipeline | None = None if connection.invalidated else connection.info.get(_PIPELINE)
    if pipeline is not None:
        pipeline.doubt()


def _end(connection: Connection) -> None:
    """Roll back: SQLAlchemy takes a transaction whose COMMIT has failed for ended."""
    if connection.invalidated:
        return
    _rolled_back(connection)
    try:
        _driver(connection).rollback()
    except Exception as error:  # noqa: BLE001 - the transaction dies with its connection
        connection.invalidate(error)


def _taken(connection: Connection) -> list[Call]:
    """What this very transaction has put off; what another one has, was rolled back with it."""
    transaction, calls = connection.info.pop(_PUT_OFF, (None, ()))
    return list(calls) if transaction is connection.get_transaction() else []


def _run(connection: Connection, calls: list[Call]) -> list[Answer]:
    from psycopg import Error  # an extra of the distribution

    driver = _driver(connection)
    if not connection.in_transaction():
        connection.begin()
    if driver.pgconn.transaction_status == _NO_TRANSACTION:
        calls.insert(0, (_BEGIN, ()))
    try:
        with guarded(connection):
            return _pipeline(connection).run(calls)
    except Error as error:
        lost, outlived = _broken(driver), error.sqlstate in _OUTLIVED
        if lost or outlived:
            connection.invalidate(error)
        if outlived:
            raise StoreUnavailable(f"this connection's prepared statements are of no use any more: {error}") from error
        raise DBAPIError.instance(
            calls[-1][0], None, error, Error, connection_invalidated=lost, dialect=connection.dialect
        ) from error
    except BaseException as error:
        if _broken(driver):
            connection.invalidate(error)  # stopped in the middle of it: whose answer comes next, nobody knows
        raise


def _broken(driver: Any) -> bool:
    return bool(driver.closed) or driver.pgconn.pipeline_status != _NO_PIPELINE


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


def _pipeline(connection: Connection) -> Pipeline:
    pipeline: Pipeline | None = connection.info.get(_PIPELINE)
    if pipeline is None:
        from segue.outbox.pipeline import Pipeline

        pipeline = connection.info[_PIPELINE] = Pipeline(_driver(connection))
        for name in ("rollback", "rollback_savepoint"):
            if not event.contains(connection.engine, name, _rolled_back):
                event.listen(connection.engine, name, _rolled_back)
    return pipeline


@lru_cache(maxsize=256)
def _numbered(text: str) -> str:
    """Placeholders as the server knows them."""
    first, *rest = text.split("%s")
    return first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))
