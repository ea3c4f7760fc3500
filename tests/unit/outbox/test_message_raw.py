"""Rows of the outbox become records: raw ones unchanged, many at once as each alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from segue.outbox.message import COLUMN_HEADERS, headers_of, raw_message, record_of
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
