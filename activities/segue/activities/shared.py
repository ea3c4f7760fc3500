"""The worker's transaction while handlers have it: what they must not do to it, and what they leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from sqlalchemy import event
from sqlalchemy.orm import Session

from segue.activities.outcome import Rejected
from segue.errors import UsageError

#: Set in `Session.info` while a handler runs in the worker's transaction, to the savepoint behind which it runs, or
#: None where there is none; so that its `commit()` can be refused.
GUARD = "segue.activities.guard"


class SharedSession(Protocol):
    """A session in which one handler runs after the other, in one transaction."""

    def lent(self, activity: str, *, wary: bool) -> AbstractContextManager[None]:
        """For one handler: at the end all that it did is with the database, and the session knows nothing of it: the
        next one finds no object that might be older than its own look.

        `wary`: it runs behind a savepoint, and where `Rejected` leaves the block all that it did is taken back. Raises
        UsageError where it ended the transaction or left a savepoint open.
        """
        ...


class SqlSharedSession:
    """`SharedSession` over one of SQLAlchemy."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._transaction = session.get_transaction()
        #: Nothing was written since the last savepoint.
        self._untouched = False

    @contextmanager
    def lent(self, activity: str, *, wary: bool) -> Iterator[None]:
        session = self._session
        if wary and not self._untouched:
            # SQLAlchemy's own savepoint costs as much as all else that a command does; this one is not released, as the
            # transaction ends soon, and the next one of the same name hides it.
            session.connection().exec_driver_sql("SAVEPOINT segue_command")
        self._untouched = False
        session.info[GUARD] = None
        try:
            yield
            self._check(activity)
            session.flush()
        except Rejected:
            self._check(activity)
            if wary:
                session.expunge_all()  # what it has not flushed yet is never written
                session.connection().exec_driver_sql("ROLLBACK TO SAVEPOINT segue_command")
                self._untouched = True
            raise
        finally:
            session.info.pop(GUARD, None)
        self._check(activity)
        session.expunge_all()

    def _check(self, activity: str) -> None:
        session = self._session
        if session.get_transaction() is not self._transaction or session.get_nested_transaction() is not None:
            raise transaction_ended(activity)


def transaction_ended(activity: str) -> UsageError:
    """What is wrong with a handler that ends the worker's transaction."""
    return UsageError(
        f"the handler of {activity} ended the worker's transaction or left a savepoint open; it must not commit or "
        'roll back (or register it with transaction="manual")'
    )


@event.listens_for(Session, "before_commit")
def _refuse_commit(session: Session) -> None:
    if session.info and GUARD in session.info and session.get_nested_transaction() is session.info[GUARD]:
        raise UsageError('a handler must not commit: the worker does (or register it with transaction="manual")')
