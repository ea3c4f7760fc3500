"""The worker's transaction while handlers have it: what they must not do to it, and what they leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from sqlalchemy import event
from sqlalchemy.orm import Session

from segue.errors import UsageError

#: Set in `Session.info` while a handler runs in the worker's transaction, to the savepoint behind which it runs, or
#: None where there is none; so that its `commit()` can be refused.
GUARD = "segue.activities.guard"


class SharedSession(Protocol):
    """A session in which one handler runs after the other, in one transaction and without savepoints."""

    def lent(self, activity: str) -> AbstractContextManager[None]:
        """For one handler: at the end all that it did is with the database, and the session knows nothing of it.

        Raises UsageError where it ended the transaction or left a savepoint open.
        """
        ...

    def forget(self) -> None:
        """The next handler finds no object that another one has loaded: it might be older than its own look."""
        ...


class SqlSharedSession:
    """`SharedSession` over one of SQLAlchemy."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._transaction = session.get_transaction()

    @contextmanager
    def lent(self, activity: str) -> Iterator[None]:
        session = self._session
        session.info[GUARD] = None
        try:
            yield
            if session.get_transaction() is not self._transaction or session.get_nested_transaction() is not None:
                raise transaction_ended(activity)
            session.flush()
        finally:
            session.info.pop(GUARD, None)
        if session.get_transaction() is not self._transaction:
            raise transaction_ended(activity)
        session.expunge_all()

    def forget(self) -> None:
        self._session.expunge_all()


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
