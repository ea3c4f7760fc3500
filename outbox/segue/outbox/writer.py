"""Adding messages to the outbox inside the user's own transaction.

On a session a message is a pending object like any other: it is written when the session flushes, in the user's
transaction, and gone when that rolls back, to a savepoint as well. So one function serves `Session` and `AsyncSession`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from sqlalchemy import Connection, event
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, registry, scoped_session

from segue.clock import SYSTEM_CLOCK, Clock, fresh_id
from segue.errors import InvalidPayload, UsageError
from segue.limits import DEFAULT_LIMITS, MAX_ID_LENGTH, Limits
from segue.outbox.handoff import ring_all
from segue.outbox.message import Message
from segue.outbox.schema import outbox_table
from segue.outbox.sql import insert_messages, insert_rows, row_of
from segue.topics.converter import Converter
from segue.topics.envelope import JSON


class DbApiConnection(Protocol):
    """A plain connection of psycopg, sqlite3 or PyMySQL (Django: `connection.connection`)."""

    def cursor(self) -> Any: ...


#: What a message can be added to. On a connection the row is inserted at once, on a session with its next flush.
Target: TypeAlias = Session | AsyncSession | Connection | DbApiConnection

#: `ce_source` of a message whose sender does not name himself.
SOURCE = "/segue/outbox"
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
#: Set in `Session.info` while a message awaits the commit, so that the relay is woken by it.
_PENDING_FLAG = "segue.outbox.pending"
#: Set in `Session.info` from a failed write of messages to the rollback that must follow.
_FAILED = "segue.outbox.failed"
_CONVERTER = Converter()
#: Module of a DB-API driver → the dialect that speaks to it, and a style of parameters by name that it knows.
_DRIVERS: Mapping[str, tuple[Any, str]] = {
    "sqlite3": (sqlite.dialect, "named"),
    "psycopg": (postgresql.psycopg.dialect, "pyformat"),
    "pymysql": (mysql.dialect, "pyformat"),
    "MySQLdb": (mysql.dialect, "pyformat"),
}


class OutboxRow:
    """A message among the pending objects of a session; made by `add`, nothing to use by hand.

    The session decides how long it lives (a rollback, also to a savepoint, drops it); the next flush writes it. Not
    through the unit of work, though: that costs four times the whole rest.
    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.columns = columns


registry().map_imperatively(OutboxRow, outbox_table, primary_key=[outbox_table.c.id])


def add(
    session: Target,
    topic: str,
    payload: Any,
    *,
    key: str,
    type: str,
    headers: Mapping[str, str] | None = None,
    id: str | None = None,
    source: str = SOURCE,
    content_type: str = JSON,
    clock: Clock = SYSTEM_CLOCK,
    limits: Limits = DEFAULT_LIMITS,
) -> str:
    """Send a message if, and only if, the transaction commits; returns the message's id (a uuid, drawn if not given).

    `payload` is a value (dataclass, pydantic model, …) that becomes JSON, or bytes that travel as they are, or None.
    `source` says who sends it (`ce_source`, a URI reference such as `/shop`).
    Messages with the same key keep the order in which they were written. Nothing is sent before the commit.
    Raises UsageError for a topic, key, type, id, source or header that can't travel, InvalidPayload for a payload that
    is too large or no JSON; the session is untouched then.
    """
    body = payload if payload is None or isinstance(payload, bytes) else _CONVERTER.to_bytes(payload, None)
    extras = _checked_headers(headers or {}, limits)
    message = Message(
        id=_checked_id(fresh_id() if id is None else id),
        aggregatetype=_checked_topic(topic),
        aggregateid=_checked_text("key", key),
        type=_checked_text("type", type),
        payload=_checked_size(body, limits),
        created_at=clock.now(),
        content_type=_checked_text("content_type", content_type, 100),
        source=_checked_text("source", source),
        traceparent=extras.pop("traceparent", None),
        tracestate=extras.pop("tracestate", None),
        headers=extras,
    )
    add_message(session, message)
    return message.id


def add_message(session: Target, message: Message) -> None:
    """Put a message that is complete already into the caller's transaction; for Segue's own messages."""
    if isinstance(session, AsyncSession):
        session = session.sync_session
    if isinstance(session, scoped_session):
        session = session()
    if isinstance(session, Session):
        session.add(OutboxRow(row_of(message)))
        session.info[_PENDING_FLAG] = True
    elif isinstance(session, Connection):
        insert_messages(session, [message])
        ring_all()  # early, but the relay polls often for a while after a ring
    elif isinstance(session, AsyncConnection):
        raise UsageError("an AsyncConnection can't be written to here; use: await conn.run_sync(outbox.add, ...)")
    else:
        _insert_plainly(session, message)
        ring_all()


@event.listens_for(Session, "before_flush")
def _write(session: Session, *_: object) -> None:
    if not session.info or _PENDING_FLAG not in session.info:
        return
    rows = [found for found in session.new if isinstance(found, OutboxRow)]
    if not rows:
        return
    for row in rows:
        session.expunge(row)
    try:
        insert_rows(session.connection(bind_arguments={"mapper": OutboxRow.__mapper__}), [row.columns for row in rows])  # type: ignore[attr-defined]
    except Exception as error:
        session.info[_FAILED] = error
        raise


@event.listens_for(Session, "before_commit")
def _refuse_to_forget(session: Session) -> None:
    # Where a flush fails, SQLAlchemy insists on a rollback. This one failed before that, and PostgreSQL answers a
    # COMMIT of a failed transaction with a silent ROLLBACK.
    if session.info and _FAILED in session.info:
        raise PendingRollbackError(f"messages could not be written, roll back first: {session.info[_FAILED]!r:.300}")


@event.listens_for(Session, "after_soft_rollback")
def _start_over(session: Session, *_: object) -> None:
    if session.info:
        session.info.pop(_FAILED, None)


@event.listens_for(Session, "after_commit")
def _hand_off(session: Session) -> None:
    if session.info and not session.in_nested_transaction() and session.info.pop(_PENDING_FLAG, False):
        ring_all()


# --- plain DB-API connections


def _insert_plainly(connection: Any, message: Message) -> None:
    make_dialect, paramstyle = _DRIVERS.get(type(connection).__module__.partition(".")[0], (None, ""))
    if make_dialect is None or not hasattr(connection, "cursor"):
        raise UsageError(
            f"can't add a message to a {type(connection).__module__}.{type(connection).__name__}: "
            "pass an SQLAlchemy Session, AsyncSession or Connection, or a psycopg, sqlite3 or PyMySQL connection"
        )
    if inspect.iscoroutinefunction(connection.commit):
        raise UsageError(
            f"can't add a message to a {type(connection).__module__}.{type(connection).__name__}, "
            "which has to be awaited: pass an AsyncSession, or add it with a sync connection"
        )
    dialect = make_dialect(paramstyle=paramstyle)
    row = row_of(message)
    compiled = outbox_table.insert().values(**row).compile(dialect=dialect)
    for name, value in row.items():
        process = outbox_table.c[name].type.dialect_impl(dialect).bind_processor(dialect)
        row[name] = value if process is None else process(value)
    cursor = connection.cursor()
    try:
        cursor.execute(str(compiled), row)
    finally:
        cursor.close()


# --- checks, all before the session is touched


def _checked_topic(topic: Any) -> str:
    if not isinstance(topic, str) or _TOPIC.fullmatch(topic) is None or topic in (".", ".."):
        raise UsageError(f"topic {topic!r:.80} can't be a topic: use 1 to 249 of a-z A-Z 0-9 . _ -")
    return topic


def _checked_text(what: str, value: Any, longest: int = MAX_ID_LENGTH) -> str:
    if not isinstance(value, str) or len(value) > longest or "\x00" in value or (what != "key" and not value):
        raise UsageError(f"{what} {value!r:.80} must be text of at most {longest} characters without NUL")
    return value


def _checked_id(id: str) -> str:
    try:
        return str(UUID(id))
    except (ValueError, AttributeError, TypeError):
        raise UsageError(f"id {id!r:.80} must be a uuid") from None


def _checked_size(body: bytes | None, limits: Limits) -> bytes | None:
    if body is not None and len(body) > limits.payload_bytes:
        raise InvalidPayload(f"payload has {len(body)} bytes, allowed are {limits.payload_bytes}")
    return body


def _checked_headers(headers: Mapping[Any, Any], limits: Limits) -> dict[str, str]:
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str) or "\x00" in value:
            raise UsageError(f"header {name!r:.80} must be text with a text value")
        if name.startswith("ce_") or name == "content-type":
            raise UsageError(f"header {name!r:.80} is set by Segue itself and can't be given")
    size = sum(len(name) + len(value) for name, value in headers.items())
    if len(headers) > limits.header_count // 2 or size > limits.header_bytes // 2:
        raise UsageError(f"{len(headers)} headers are too many or too long for one message")
    return dict(headers)
