from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.exc import OperationalError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from segue import outbox
from segue.errors import InvalidPayload, UsageError
from segue.outbox.handoff import Bell
from segue.outbox.schema import outbox_table
from segue.outbox.sql import message_of_row


@dataclass(frozen=True)
class Placed:
    id: str


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'shop.sqlite'}")
    outbox.create_all(engine)
    yield engine
    engine.dispose()


def add(session: Any, key: str = "o-1", **more: Any) -> str:
    return outbox.add(session, "orders.events", Placed(key), key=key, type="order.placed", **more)


def messages(engine: Engine) -> list[outbox.Message]:
    with engine.connect() as connection:
        rows = connection.execute(select(outbox_table).order_by(outbox_table.c.seq)).mappings().all()
    return [message_of_row(row) for row in rows]


def keys(engine: Engine) -> list[str]:
    return [message.aggregateid for message in messages(engine)]


def test_a_message_is_written_with_the_users_commit_and_becomes_a_cloud_event(engine: Engine) -> None:
    with Session(engine) as session:
        id = add(session, headers={"tenant": "t-1", "traceparent": "00-1-2-01"})
        assert keys(engine) == []
        session.commit()
    [message] = messages(engine)
    sent = message.outgoing()
    headers = {name: (value or b"").decode() for name, value in sent.headers}
    assert (sent.topic, sent.key, sent.value) == ("orders.events", b"o-1", b'{"id":"o-1"}')
    assert headers["ce_id"] == id
    assert headers["ce_type"] == "order.placed"
    assert (headers["tenant"], headers["traceparent"]) == ("t-1", "00-1-2-01")


def test_a_rollback_takes_the_message_along(engine: Engine) -> None:
    with Session(engine) as session:
        add(session)
        session.flush()
        session.rollback()
        session.commit()
    assert keys(engine) == []


def test_a_rollback_to_a_savepoint_takes_only_what_was_added_behind_it(engine: Engine) -> None:
    with Session(engine) as session:
        add(session, "before")
        savepoint = session.begin_nested()
        add(session, "behind")
        savepoint.rollback()
        add(session, "after")
        session.commit()
    assert keys(engine) == ["before", "after"]


def test_messages_keep_the_order_in_which_they_were_added(engine: Engine) -> None:
    with Session(engine) as session:
        for n in range(50):
            add(session, str(n))
        session.commit()
    assert keys(engine) == [str(n) for n in range(50)]


def test_one_function_serves_async_sessions(tmp_path: Path, engine: Engine) -> None:
    async def place() -> None:
        async_engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'shop.sqlite'}")
        async with AsyncSession(async_engine) as session:
            add(session, "kept")
            await session.commit()
            add(session, "dropped")
            await session.rollback()
        await async_engine.dispose()

    asyncio.run(place())
    assert keys(engine) == ["kept"]


def test_core_connections_and_plain_ones_are_served_too(tmp_path: Path, engine: Engine) -> None:
    with engine.begin() as connection:
        add(connection, "core")
    plain = sqlite3.connect(tmp_path / "shop.sqlite")
    add(plain, "plain", headers={"a": "b"})
    plain.commit()
    add(plain, "dropped")
    plain.rollback()
    plain.close()
    assert keys(engine) == ["core", "plain"]
    assert messages(engine)[1].headers == {"a": "b"}


def test_a_commit_rings_the_relays_of_the_process_and_a_savepoint_does_not(engine: Engine) -> None:
    bell = Bell()
    with Session(engine) as session:
        with session.begin_nested():
            add(session)
        assert not bell.wait(0)
        session.commit()
    assert bell.wait(0)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"topic": "no topic"}, UsageError),
        ({"topic": ".."}, UsageError),
        ({"key": "k" * 256}, UsageError),
        ({"key": "a\x00b"}, UsageError),
        ({"type": ""}, UsageError),
        ({"id": "not-a-uuid"}, UsageError),
        ({"headers": {"ce_id": "1"}}, UsageError),
        ({"headers": {"n": 1}}, UsageError),
        ({"payload": b"x" * 300_000}, InvalidPayload),
        ({"payload": object()}, InvalidPayload),
    ],
)
def test_what_cannot_travel_is_refused_at_the_call(
    engine: Engine, wrong: dict[str, Any], error: type[Exception]
) -> None:
    arguments: dict[str, Any] = {"topic": "t", "payload": None, "key": "k", "type": "x", **wrong}
    with Session(engine) as session, pytest.raises(error):
        outbox.add(session, arguments.pop("topic"), arguments.pop("payload"), **arguments)
    assert keys(engine) == []


def test_something_that_is_no_session_is_refused_with_a_sentence() -> None:
    with pytest.raises(UsageError, match="Session"):
        add("session")


def test_messages_of_a_hundred_adds_keep_their_order_across_flushes(engine: Engine) -> None:
    with Session(engine) as session:
        for number in range(100):
            add(session, f"o-{number:03}")
            if number % 30 == 0:
                session.flush()
        session.commit()
    assert keys(engine) == [f"o-{number:03}" for number in range(100)]


def test_after_messages_could_not_be_written_a_commit_is_refused_until_the_rollback(engine: Engine) -> None:
    with Session(engine) as session:
        session.connection().exec_driver_sql("INSERT INTO outbox_relay VALUES ('x', '2026-01-01')")  # begins
        session.connection().exec_driver_sql("ALTER TABLE outbox RENAME TO elsewhere")
        add(session, "lost")
        with pytest.raises(OperationalError):
            session.flush()
        with pytest.raises(PendingRollbackError, match="roll back first"):
            session.commit()
        session.rollback()
        add(session, "kept")
        session.commit()
    assert keys(engine) == ["kept"]


def test_a_savepoint_heals_a_write_that_failed_behind_it(engine: Engine) -> None:
    with Session(engine) as session:
        add(session, "before")
        savepoint = session.begin_nested()
        session.connection().exec_driver_sql("ALTER TABLE outbox RENAME TO elsewhere")
        add(session, "behind")
        with pytest.raises(OperationalError):
            session.flush()
        savepoint.rollback()
        session.commit()
    assert keys(engine) == ["before"]


def test_an_object_that_was_expunged_with_the_session_sends_nothing(engine: Engine) -> None:
    with Session(engine) as session:
        add(session, "dropped")
        session.expunge_all()
        add(session, "kept")
        session.commit()
    assert keys(engine) == ["kept"]
