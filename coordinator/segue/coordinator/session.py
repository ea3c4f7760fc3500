"""One transaction on one connection: errors become ours, calls have a deadline, a broken connection is thrown away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy import Connection, Executable, Row

from segue.coordinator import statements
from segue.coordinator.outcomes import outcome_of
from segue.errors import SegueError, StoreUnavailable
from segue.outbox.watchdog import Guard

if TYPE_CHECKING:
    from segue.outbox.pipeline import Answer, Call, Pipeline

Rows = Sequence[Row[Any]]
_PIPELINE = "segue.pipeline"


class Session:
    """Runs statements of one transaction.

    After an error the transaction is dead: it is rolled back even if the caller swallows the error, because a part of
    what it meant to write is missing.
    """

    def __init__(self, connection: Connection, guard: Guard, audit_key: bytes = b"") -> None:
        self.connection = connection
        self.audit_key = audit_key
        self.dialect = connection.dialect.name
        self._guard = guard
        self._now: datetime | None = None
        self._deferred: list[tuple[Call, Callable[[Answer], None] | None]] = []
        self.failure: BaseException | None = None

    def begin(self) -> None:
        """Begin. PostgreSQL hears of it with the first statement."""
        try:
            with self._guard:
                self.connection.begin()
        except Exception as error:  # noqa: BLE001 - raised again as what it means
            self._raise(error)

    @property
    def driver(self) -> Any:
        """The connection of the driver (psycopg, sqlite3)."""
        return self.connection.connection.driver_connection

    @property
    def now(self) -> datetime:
        """The database's clock, read once per transaction, before anything that may wait for a lock."""
        if self._now is None and self.dialect == "sqlite":
            [row] = self.rows(statements.NOW_SQLITE)
            self._now = datetime.fromisoformat(row[0])
        elif self._now is None:
            self.drive([])
        assert self._now is not None
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
        if self.dialect == "postgresql" and (self._now is None or self._deferred):
            self.drive([])
        self._alive()
        try:
            with self._guard:
                result = self.connection.execute(statement, parameters)
                return result.all() if fetch else result.rowcount
        except Exception as error:  # noqa: BLE001 - raised again as what it means
            self._raise(error)

    def defer(self, call: Call, check: Callable[[Answer], None]) -> None:
        """Run a statement in the round trip of the next one, or before the commit; then `check` what it gave."""
        self._deferred.append((call, check))

    def put_off(self, call: Call) -> None:
        """Run a statement whose answer nobody needs in the round trip of the next one, or in that of COMMIT.

        It has to fail by itself where it does not do what it should.
        """
        self._deferred.append((call, None))

    def drive(self, calls: Sequence[Call]) -> list[Answer]:
        """Run statements on PostgreSQL in one round trip, with all that was put off."""
        self._alive()
        deferred, self._deferred = self._deferred, []
        begin = statements.PG_BEGIN if self._now is None else ()
        try:
            with self._guard:
                answers = self._pipeline.run([*begin, *(call for call, _ in deferred), *calls])
        except Exception as error:  # noqa: BLE001 - raised again as what it means
            self._raise(error)
        if begin:
            [(self._now,)] = answers[1].rows()
        for (_, check), answer in zip(deferred, answers[len(begin) :], strict=False):
            if check is not None:
                check(answer)
        return answers[len(begin) + len(deferred) :]

    def glance(self, text: str) -> list[tuple[Any, ...]]:
        """The rows of one statement on PostgreSQL that needs no transaction around it: no BEGIN, no COMMIT."""
        self._alive()
        try:
            with self._guard:
                return self._pipeline.run([(text, ())])[0].rows()
        except Exception as error:  # noqa: BLE001 - raised again as what it means
            self._raise(error)

    @property
    def _pipeline(self) -> Pipeline:
        info = self.connection.info
        pipeline: Pipeline | None = info.get(_PIPELINE)
        if pipeline is None:
            from segue.outbox.pipeline import Pipeline

            pipeline = info[_PIPELINE] = Pipeline(self.driver)
        return pipeline

    def _alive(self) -> None:
        if self.failure is not None:
            raise self.failure

    def fail(self, error: SegueError) -> SegueError:
        """Mark the transaction as dead for a reason of ours; returns the error, to be raised."""
        self.failure = error
        return error

    def commit(self) -> None:
        """Commit. Raises what made the transaction fail, or StoreUnavailable if nobody knows whether it happened."""
        if self.failure is None and any(check is not None for _, check in self._deferred):
            try:
                self.drive([])
            except BaseException:
                self.rollback()
                raise
        if self.failure is not None:
            self.rollback()
            raise self.failure
        begin = statements.PG_BEGIN if self._now is None else ()
        calls, self._deferred = [call for call, _ in self._deferred], []
        try:
            with self._guard:
                if calls:
                    self._pipeline.run([*begin, *calls, statements.PG_COMMIT])
                self.connection.commit()  # after that there is no transaction, and the driver does nothing
        except Exception as error:
            if calls and not self._broken() and self.driver.pgconn.transaction_status in _OPEN:
                self._refused(error)
            self._discard()
            if outcome_of(error) is None:
                raise
            raise StoreUnavailable(f"the outcome of COMMIT is unknown: {outcome_of(error)}") from error

    def _refused(self, error: Exception) -> NoReturn:
        """What goes before COMMIT has failed, or could not be sent, so that COMMIT was not run: roll back, say why."""
        try:
            self._raise(error)
        finally:
            self.rollback()

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
        if self.dialect != "postgresql":
            return False
        pgconn = self.driver.pgconn
        return pgconn.transaction_status not in _AT_REST or pgconn.pipeline_status != _NO_PIPELINE

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
#: libpq's PQTRANS_INTRANS and PQTRANS_INERROR: COMMIT was not run.
_OPEN = frozenset((2, 3))
#: libpq's PQ_PIPELINE_OFF.
_NO_PIPELINE = 0
