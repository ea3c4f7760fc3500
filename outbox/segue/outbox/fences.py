"""The statements of the participant's fence, and the SQLAlchemy adapter of its port."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import Connection, RowMapping, and_, delete, or_, select, update

from segue.errors import StoreUnavailable
from segue.outbox import postgres
from segue.outbox.faults import UnfitDatabase
from segue.outbox.message import Message
from segue.outbox.schema import MYSQL_COLLATION, inbox_table
from segue.outbox.sql import DatabaseTime, database_now, insert_messages, insert_or_ignore
from segue.outbox.store import LockedRow


def lock_inbox_row(connection: Connection, consumer: str, saga_key: str) -> tuple[RowMapping, bool, datetime]:
    """Insert or lock the fence row: (row, whether it is new, database time).

    The insert comes first: on SQLite it takes the write lock before anything is read, as BEGIN IMMEDIATE would; on
    PostgreSQL it waits for whoever is inserting the same row.
    """
    inbox = inbox_table
    blank = {
        "consumer": consumer,
        "saga_key": saga_key,
        "attempt": 0,
        "compensate_attempt": 0,
        "tombstone": False,
        "created_at": DatabaseTime(),
        "updated_at": DatabaseTime(),
    }
    inserting = insert_or_ignore(connection, inbox).values(blank)
    inserted = connection.execute(inserting, execution_options={"preserve_rowcount": True})
    where = and_(inbox.c.consumer == consumer, inbox.c.saga_key == saga_key)
    row = connection.execute(select(inbox, DatabaseTime().label("now")).where(where).with_for_update()).mappings().one()
    if (row["consumer"], row["saga_key"]) != (consumer, saga_key):
        # Another one's row: its stored answer would be given for a command that nobody has handled.
        raise UnfitDatabase(
            f"table inbox takes {saga_key!r:.200} and {row['saga_key']!r:.200} for one; its collation must be binary: "
            f"ALTER TABLE inbox CONVERT TO CHARACTER SET utf8mb4 COLLATE {MYSQL_COLLATION}"
        )
    return row, inserted.rowcount == 1, cast("datetime", row["now"])


def update_inbox_row(connection: Connection, consumer: str, saga_key: str, values: Mapping[str, Any]) -> None:
    """Change the fence row that this transaction has locked."""
    inbox = inbox_table
    connection.execute(
        update(inbox)
        .where(inbox.c.consumer == consumer, inbox.c.saga_key == saga_key)
        .values(**values, updated_at=DatabaseTime())
    )


def delete_inbox_row(connection: Connection, consumer: str, saga_key: str) -> None:
    """Take back a fence row that this transaction has just inserted."""
    inbox = inbox_table
    connection.execute(delete(inbox).where(inbox.c.consumer == consumer, inbox.c.saga_key == saga_key))


def store_details(
    connection: Connection, consumer: str, saga_key: str, command_id: str, details: bytes, lease: int
) -> bool:
    """Keep the last heartbeat's details, while that command is still being handled under this lease; whether it is."""
    inbox = inbox_table
    handled = or_(
        and_(inbox.c.invoke_id == command_id, inbox.c.invoke_reply.is_(None)),
        and_(inbox.c.compensate_id == command_id, inbox.c.compensate_reply.is_(None)),
    )
    here = (inbox.c.consumer == consumer, inbox.c.saga_key == saga_key, inbox.c.lease == lease)
    kept = update(inbox).where(*here, handled).values(details=details, updated_at=DatabaseTime())
    return bool(connection.execute(kept).rowcount)


def sweep_inbox_rows(connection: Connection, consumer: str, retention: timedelta, limit: int) -> int:
    """Delete up to `limit` rows that nothing has touched for `retention`; how many."""
    inbox = inbox_table
    before = database_now(connection) - retention
    old = select(inbox.c.saga_key).where(inbox.c.consumer == consumer, inbox.c.updated_at < before).limit(limit)
    keys: Iterable[str] = connection.execute(old).scalars().all()
    gone = connection.execute(
        delete(inbox).where(inbox.c.consumer == consumer, inbox.c.saga_key.in_(list(keys)), inbox.c.updated_at < before)
    )
    return int(gone.rowcount)


class SqlServiceRows:
    """`ServiceRows` on a connection in a transaction.

    `with_commit`: rows may be updated as late as with COMMIT, where that saves a round trip. Only for who ends the
    transaction himself, through SQLAlchemy, and updates outside of any savepoint.
    """

    __slots__ = ("_connection", "_with_commit")

    def __init__(self, connection: Connection, *, with_commit: bool = False) -> None:
        self._connection = connection
        self._with_commit = with_commit

    def lock_inbox_row(self, consumer: str, saga_key: str) -> LockedRow:
        if postgres.speaks(self._connection):
            return _insert_or_lock_on_postgres(self._connection, consumer, saga_key)
        row, new, now = lock_inbox_row(self._connection, consumer, saga_key)
        return cast("Mapping[str, Any]", row), new, now

    def lock_inbox_rows(self, consumer: str, saga_keys: Sequence[str]) -> Mapping[str, LockedRow]:
        keys = sorted(set(saga_keys))
        if postgres.speaks(self._connection):
            return _lock_on_postgres(self._connection, consumer, keys)
        # Elsewhere blank rows are the locks: what SQLite has read before it writes may be outdated by then.
        return {key: self.lock_inbox_row(consumer, key) for key in keys}

    def update_inbox_row(self, consumer: str, saga_key: str, values: Mapping[str, Any]) -> None:
        if postgres.speaks(self._connection):
            postgres.update_fences(self._connection, consumer, {saga_key: values}, with_commit=self._with_commit)
        else:
            update_inbox_row(self._connection, consumer, saga_key, values)

    def write_inbox_rows(
        self,
        consumer: str,
        *,
        new: Mapping[str, Mapping[str, Any]],
        known: Mapping[str, Mapping[str, Any]],
        unused: Collection[str],
    ) -> None:
        if not postgres.speaks(self._connection):
            for key in sorted(unused):
                delete_inbox_row(self._connection, consumer, key)
            whole = {key: {name: row[name] for name in postgres.FENCE_COLUMNS} for key, row in new.items()}
            for key, values in (*whole.items(), *known.items()):
                update_inbox_row(self._connection, consumer, key, values)
            return
        if new and postgres.insert_fences(self._connection, consumer, new) < len(new):
            raise StoreUnavailable("another worker has handled one of these commands meanwhile")
        alike: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
        for key, values in known.items():
            alike.setdefault(tuple(values), {})[key] = values
        for rows in alike.values():
            postgres.update_fences(self._connection, consumer, rows, with_commit=self._with_commit)

    def store_details(self, consumer: str, saga_key: str, command_id: str, details: bytes, lease: int) -> bool:
        return store_details(self._connection, consumer, saga_key, command_id, details, lease)

    def delete_inbox_row(self, consumer: str, saga_key: str) -> None:
        delete_inbox_row(self._connection, consumer, saga_key)

    def insert_messages(self, messages: Sequence[Message]) -> None:
        insert_messages(self._connection, messages)


def _insert_or_lock_on_postgres(connection: Connection, consumer: str, key: str) -> LockedRow:
    inserted = postgres.insert_blank_fence(connection, consumer, key)
    if inserted is not None:
        return postgres.BLANK, True, inserted
    [(_, *values, moment)] = postgres.lock_fence(connection, consumer, key)
    return dict(zip(postgres.FENCE_COLUMNS, values, strict=True)), False, moment


def _lock_on_postgres(connection: Connection, consumer: str, keys: Sequence[str]) -> dict[str, LockedRow]:
    found = postgres.lock_fences(connection, consumer, keys)
    now: datetime = found[0][0]  # there is always a row, if only for the time
    locked: dict[str, LockedRow] = {
        key: (dict(zip(postgres.FENCE_COLUMNS, values, strict=True)), False, now)
        for _, key, *values in found
        if key is not None
    }
    return {key: locked.get(key) or (postgres.BLANK, True, now) for key in keys}
