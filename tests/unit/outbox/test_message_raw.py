"""A record with a binary key and headers travels through the outbox unchanged."""

from __future__ import annotations

from datetime import UTC, datetime

from segue.outbox.message import raw_message
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
