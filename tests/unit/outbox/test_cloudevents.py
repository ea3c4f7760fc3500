"""What Segue sends is what the CloudEvents project's own library reads."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from segue import outbox
from segue.activities.outcome import Answered, failure, reply_to
from segue.errors import UsageError
from segue.outbox.message import message_of
from segue.outbox.schema import outbox_table
from segue.outbox.sql import message_of_row
from segue.topics.broker import Outgoing
from tests.unit.activities.kit import command, refund

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)


def read(sent: Outgoing) -> Any:
    message = KafkaMessage(
        headers={name: value or b"" for name, value in sent.headers}, key=sent.key, value=sent.value or b""
    )
    return from_binary(message, JSONFormat())


def added(path: Path, **options: Any) -> Outgoing:
    engine = create_engine(f"sqlite:///{path / 'shop.sqlite'}")
    outbox.create_all(engine)
    with Session(engine) as session:
        outbox.add(session, "orders", {"id": "o-1"}, key="o-1", type="order.placed", **options)
        session.commit()
        row = session.execute(select(outbox_table)).mappings().one()
        sent = message_of_row(row).outgoing()
    engine.dispose()
    return sent


@pytest.mark.parametrize(("options", "source"), [({}, "/segue/outbox"), ({"source": "/shop"}, "/shop")])
def test_a_message_says_who_sends_it(tmp_path: Path, options: dict[str, Any], source: str) -> None:
    event = read(added(tmp_path, **options))
    assert (event.get_source(), event.get_type(), event.get_data()) == (source, "order.placed", {"id": "o-1"})


@pytest.mark.parametrize("source", ["", "x" * 256, "a\x00b"])
def test_a_source_that_cannot_travel_is_a_sentence(tmp_path: Path, source: str) -> None:
    with pytest.raises(UsageError, match="source"):
        added(tmp_path, source=source)


@pytest.mark.parametrize("sent", [command(), command(activity=refund)])
def test_commands_and_replies_are_cloud_events(sent: Any) -> None:
    asked = message_of("payments.commands", "o-1", sent.headers(), b'{"id":"o-1"}', NOW).outgoing()
    assert read(asked).get_source() == "/test"
    for answered in (Answered(outcome="success", body=b'{"n":1}'), failure("no", "no", {"balance": 0})):
        event = read(reply_to(sent, answered, source="/payments", now=NOW).outgoing())
        assert event.get_source() == "/payments"
        assert event.get_attributes()["causationid"] == sent.id


def test_a_connection_that_has_to_be_awaited_is_refused_before_anything_is_written() -> None:
    connection = psycopg.AsyncConnection.__new__(psycopg.AsyncConnection)
    with pytest.raises(UsageError, match=r"psycopg.*AsyncConnection, which has to be awaited: pass an AsyncSession"):
        outbox.add(connection, "orders", {"id": "o-1"}, key="o-1", type="order.placed")
