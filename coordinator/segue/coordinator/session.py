"""One transaction on one connection: errors become ours, calls have a deadline, a broken connection is thrown away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from sqlalchemy import Connection, Executable, Row

from segue.coordinator import statements
from segue.coordinator.outcomes import outcome_of
from segue.errors import SegueError, StoreUnavailable
from segue.outbox.watchdog import Guard

Rows = Sequence[Row[Any]]


class Session:
    """Runs statements of one transaction.

    After an error the transaction is dead: it is rolled back even if the caller swallows the error, because a part of
    what it meant to write is missing.
    """

    def __init__(self, connection: Connection, guard: Guard) -> None:
        self.connection = connection
        self.dialect = connection.dialect.name
        self._guard = guard
        self._now: datetime | None = None
        self.failure: BaseException | None = None

    def begin(self) -> None:
        """Begin. PostgreSQL tells its time with the same round trip."""
        try:
            with self._guard:
                self.connection.begin()
                if self.dialect == "postgresql":
                    cursor = self.driver.cursor()
                    cursor.execute(statements.PG_BEGIN, prepare=False)
                    cursor.nextset()
                    self._now = cursor.fetchone()[0]
        except Exception as error:  # noqa: BLE001 - raised again as what it means
            self._raise(error)

    @property
    def driver(self) -> Any:
        """The connection of the driver (psycopg), for the hot path."""
        return self.connection.connection.driver_connection

    @property
    def now(self) -> datetime:
        """The database's clock, read once per transaction."""
        if self._now is None:
            [row] = self.rows(statements.NOW_SQLITE)
            self._now = datetime.fromisoformat(row[0])
        return self._now

    def rows(self, statement: Executable) -> Rows:
        """All rows that a Core statement returns."""
        return self._core(statement, None, fetch=True)  # type: ignore[no-any-return]

    def change(self, statement: Executable, parameters: Sequence[Mapping[str, Any]] | None = None) -> int:
        """Run a Core statement, once or for each of `parameters`; how many rows it wrote."""
        return self._core(statement, parameters, fetch=False)  # type: ignore[no-any-return]

    def returned(self, statement: Executable, parameters: Sequence[Mapping[str, Any]]) -> Rows:
        """What a Core statement with RETURNING returns."""
        return self._core(statement, parameters, fetch=True)  # type: ignore[no-any-return]

    def _core(self, statement: Executable, parameters: Sequence[Mapping[str, Any]] | None, *, fetch: bool) -> Any:
        self._alive()
        try:
            with self._guard:
                result = self.connection.execute(statement, parameters)
                return result.all() if fetch else result.rowcount
        except Exception as error:  # noqa: BLE001 - raised again as what it means
            self._raise(error)

    def drive(self, text: str, parameters: Sequence[Any]) -> Any:
        """Run a statement through psycopg, results in binary; returns its cursor, all rows received."""
        self._alive()
        try:
            with self._guard:
                cursor = self.driver.cursor(binary=True)
                cursor.execute(text, parameters)
                return cursor
        except Exception as error:  # noqa: BLE001 - raised again as what it means
            self._raise(error)

    def drive_all(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Run statements through psycopg in two round trips; returns the cursor of each, all rows received."""
        self._alive()
        try:
            with self._guard:
                driver = self.driver
                with driver.pipeline():
                    cursors = [driver.execute(text, parameters) for text, parameters in calls[:-1]]
                # PostgreSQL does not time an idle transaction whose last statements came in a pipeline: a coordinator
                # frozen here would hold its locks for ever. So the last one comes by itself.
                return cursors + [driver.execute(text, parameters) for text, parameters in calls[-1:]]
        except Exception as error:  # noqa: BLE001 - raised again as what it means
            self._raise(error)

    def _alive(self) -> None:
        if self.failure is not None:
            raise self.failure

    def fail(self, error: SegueError) -> SegueError:
        """Mark the transaction as dead for a reason of ours; returns the error, to be raised."""
        self.failure = error
        return error

    def commit(self) -> None:
        """Commit. Raises what made the transaction fail, or StoreUnavailable if nobody knows whether it happened."""
        if self.failure is not None:
            self.rollback()
            raise self.failure
        try:
            with self._guard:
                self.connection.commit()
        except Exception as error:
            self._discard()
            if outcome_of(error) is None:
                raise
            raise StoreUnavailable(f"the outcome of COMMIT is unknown: {outcome_of(error)}") from error

    def rollback(self) -> None:
        """Roll back; never raises. A connection that can't be trusted any more is closed instead."""
        if self._broken():
            self._discard()
            return
        try:
            with self._guard:
                self.connection.rollback()
        except Exception:  # noqa: BLE001 - the transaction dies with its connection
            self._discard()

    def _broken(self) -> bool:
        if self._guard.fired or isinstance(self.failure, StoreUnavailable) or self.connection.invalidated:
            return True
        # An exception from outside (KeyboardInterrupt) may have hit the driver in the middle of a call.
        return self.dialect == "postgresql" and self.driver.info.transaction_status not in _AT_REST

    def _discard(self) -> None:
        if not self.connection.invalidated:
            self.connection.invalidate()

    def _raise(self, error: Exception) -> NoReturn:
        meaning = outcome_of(error)
        if self._guard.fired:
            meaning = StoreUnavailable("the database did not answer in time; the connection was cut")
        self.failure = meaning or error
        if meaning is None:
            raise error
        raise meaning from error


#: libpq's PQTRANS_IDLE, PQTRANS_INTRANS and PQTRANS_INERROR: no call is under way.
_AT_REST = frozenset((0, 2, 3))
