"""Rows of the outbox become records: raw ones unchanged, many at once as each alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from segue.outbox.message import COLUMN_HEADERS, Message, headers_of, raw_message, record_of, records_of
from segue.topics.broker import Outgoing

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_raw_message_becomes_exactly_the_record_it_was_made_of() -> None:
    record = Outgoing(
        topic="shop.dlq",
        key=b"\xff\x00key",
        value=b"\x00\x01",
        headers=(("a", b"\xfe"), ("a", None), ("kafka_dlt-original-partition", b"\x00\x00\x00\x07")),
    )
    assert raw_message("6f0c7c5e-6f0e-5f0a-9a7b-0d6f5a1c2b3d", record, NOW).outgoing() == record


def test_a_raw_message_keeps_a_missing_key_and_a_tombstone() -> None:
    record = Outgoing(topic="shop.dlq", key=None, value=None, headers=())
    assert raw_message("6f0c7c5e-6f0e-5f0a-9a7b-0d6f5a1c2b3d", record, NOW).outgoing() == record


ROWS = [
    {"id": "1", "type": "a", "created_at": NOW, "content_type": "json"},
    {"id": "2", "type": "a", "created_at": NOW + timedelta(microseconds=7), "content_type": "json"},
    {
        "id": "3",
        "type": "b",
        "created_at": NOW.astimezone(timezone(timedelta(hours=2))),
        "content_type": "json",
        "saga_attempt": 2,
        "deadline": NOW + timedelta(days=1),
    },
]


@pytest.mark.parametrize("rows", [ROWS[:1], ROWS[:2], ROWS], ids=["one", "alike", "with gaps"])
def test_many_rows_at_once_get_the_headers_that_each_gets_alone(rows: list[dict[str, object]]) -> None:
    values = [[row.get(name) for name in COLUMN_HEADERS] for row in rows]
    alone = [record_of(columns, "t", "k", b"", {}).headers for columns in values]
    assert headers_of(list(zip(*values, strict=True))) == alone


ALIKE: dict[str, Any] = {"aggregatetype": "t", "payload": b"1", "headers": {"b": "ü", "a": "1"}} | ROWS[0]
FULL: dict[str, Any] = {name: f"some {name}" for name in COLUMN_HEADERS}
FULL |= {"created_at": NOW, "deadline": NOW + timedelta(days=1), "saga_attempt": 3}


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [ALIKE | {"aggregateid": "x"}, ALIKE | {"aggregateid": "y", "id": "2", "payload": None}],
        [ALIKE | {"aggregateid": ""}, ALIKE | FULL | {"aggregateid": "x", "headers": {"b": "ü", "a": "1"}}],
        [
            ALIKE | {"aggregateid": "x"},
            ALIKE | {"aggregateid": "x", "headers": {"a": "1"}},
            ALIKE | {"aggregateid": "z"},
        ],
    ],
    ids=["none", "alike", "sparse columns and no key", "extras of their own"],
)
def test_many_messages_at_once_become_the_records_that_each_becomes_alone(rows: list[dict[str, Any]]) -> None:
    messages = [Message(**row) for row in rows]
    assert records_of(messages) == [message.outgoing() for message in messages]


def test_raw_messages_among_others_or_alone_are_unwrapped() -> None:
    record = Outgoing(topic="shop.dlq", key=b"k", value=b"1", headers=(("a", None),))
    raw = raw_message("6f0c7c5e-6f0e-5f0a-9a7b-0d6f5a1c2b3d", record, NOW)
    usual = Message(**ALIKE, aggregateid="x")
    assert records_of([raw, raw]) == [record, record]
    assert records_of([usual, raw]) == [usual.outgoing(), record]
