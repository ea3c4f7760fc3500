from __future__ import annotations

from segue.errors import DecodeError
from segue.topics.broker import Record
from segue.topics.deadletter import HEADER_BYTES, dead_letter_record, is_reference, kept

RECORD = Record(
    topic="payments.commands",
    partition=3,
    offset=70_000,
    key=b"\x00k",
    value=b"\xff{",
    headers=(("ce_id", b"1"), ("binary", b"\xff"), ("twice", b"1"), ("twice", b"2"), ("empty", None)),
    timestamp_ms=1_700_000_000_000,
)


def test_key_value_and_headers_stay_as_they_are_and_the_origin_is_written_as_spring_does() -> None:
    dead = dead_letter_record(RECORD, "payments.dlq", "invalid_input", DecodeError("no JSON"), "payments", 2, "o-1")
    added = dict(dead.headers[len(RECORD.headers) :])
    assert (dead.topic, dead.key, dead.value) == ("payments.dlq", RECORD.key, RECORD.value)
    assert dead.headers[: len(RECORD.headers)] == RECORD.headers
    assert added == {
        "kafka_dlt-original-topic": b"payments.commands",
        "kafka_dlt-original-partition": b"\x00\x00\x00\x03",
        "kafka_dlt-original-offset": b"\x00\x00\x00\x00\x00\x01\x11\x70",
        "kafka_dlt-original-timestamp": (1_700_000_000_000).to_bytes(8, "big"),
        "kafka_dlt-original-consumer-group": b"payments",
        "kafka_dlt-exception-fqcn": b"segue.errors.DecodeError",
        "kafka_dlt-exception-message": b"no JSON",
        "dlq_reason": b"invalid_input",
        "dlq_attempts": b"2",
        "dlq_saga_id": b"o-1",
    }


def test_a_record_that_dies_again_has_its_headers_replaced_and_not_doubled() -> None:
    first = dead_letter_record(RECORD, "a.dlq", "one", None, "g", 1, "o-1")
    again = Record(topic="a.dlq", partition=0, offset=1, key=first.key, value=first.value, headers=first.headers)
    second = dead_letter_record(again, "b.dlq", "two", None, "g", 1, None)
    names = [name for name, _ in second.headers if name.startswith(("dlq_", "kafka_dlt-"))]
    assert len(names) == len(set(names))
    assert dict(second.headers)["dlq_reason"] == b"two"
    assert "dlq_saga_id" not in names


def test_a_message_is_cut_at_a_kibibyte_between_characters() -> None:
    dead = dead_letter_record(RECORD, "a.dlq", "x", ValueError("ü" * 2000), "g", 1, None)
    message = dict(dead.headers)["kafka_dlt-exception-message"]
    assert message is not None
    assert len(message) == 1024
    assert message.decode() == "ü" * 512


def test_a_record_that_unpacks_to_more_than_a_megabyte_is_kept_by_reference() -> None:
    bomb = Record(topic="t", partition=1, offset=7, key=b"k", value=bytes(5_000_000), headers=(("ce_id", b"1"),))
    reference = kept(bomb)
    assert is_reference(reference)
    assert (reference.topic, reference.partition, reference.offset, reference.key) == ("t", 1, 7, b"k")
    told = dict(reference.headers)
    assert (told["segue_bytes"], told["segue_first_bytes"]) == (b"5000007", bytes(256))
    letter = dead_letter_record(bomb, "d", "undecodable", None, "g", 1, None)
    assert letter.value is None
    assert dict(letter.headers)["segue_sha256"] == told["segue_sha256"]
    assert sum(len(name) + len(value or b"") for name, value in letter.headers) < HEADER_BYTES


def test_whatever_kafka_takes_by_default_is_kept_whole() -> None:
    record = Record(topic="t", partition=0, offset=0, value=bytes(1_048_000))
    assert kept(record) is record
    assert not is_reference(record)
