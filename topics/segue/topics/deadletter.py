"""The record on a dead letter topic: the original, byte for byte, and headers that say where it came from and why.

The headers are those that Spring's DeadLetterPublishingRecoverer writes (numbers big-endian), so that its tools read
them; `dlq_*` are Segue's own, as text. Replaced, never duplicated, when a record dies twice.
"""

from __future__ import annotations

import struct
from hashlib import sha256

import msgspec

from segue.topics.broker import Headers, Outgoing, Record

#: Longest text of the error, in bytes of UTF-8; there is never a stack trace.
MAX_MESSAGE_BYTES = 1024
PREFIXES = ("kafka_dlt-", "dlq_")
#: Bytes that the headers made here add to a record at most: names, numbers, a topic, a group, three texts.
HEADER_BYTES = 8 * 1024
#: Bytes of a record, key and headers included, that is kept as it is. Whatever Kafka takes uncompressed by default is
#: smaller. Of a larger one (a few kB may unpack to hundreds of MB) only a reference is kept: the topic still has it.
MOST_KEPT = 1_048_588
#: What a reference says: the size in bytes, a hash, the first bytes of the value and of the key.
REFERENCE = ("segue_bytes", "segue_sha256", "segue_first_bytes")
_FIRST_BYTES = 256


def kept(record: Record) -> Record:
    """The record as it is, or a reference to it where it is too large to be stored, published or listed."""
    size = _size(record)
    if size <= MOST_KEPT:
        return record
    digest = sha256(record.key or b"")
    digest.update(record.value or b"")
    told = (str(size).encode(), digest.hexdigest().encode(), (record.value or b"")[:_FIRST_BYTES])
    key = None if record.key is None else record.key[:_FIRST_BYTES]
    return msgspec.structs.replace(record, key=key, value=None, headers=tuple(zip(REFERENCE, told, strict=True)))


def is_reference(record: Record) -> bool:
    """Whether this stands for a record that was too large to keep."""
    return record.value is None and tuple(name for name, _ in record.headers) == REFERENCE


def _size(record: Record) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def dead_letter_record(
    record: Record, topic: str, reason: str, error: BaseException | None, group: str, attempts: int, saga_id: str | None
) -> Outgoing:
    """`record`, or a reference to one that is too large, as it is to be produced to the dead letter topic `topic`.

    `reason` is a short code for programs, `group` the consumer group that gave up after `attempts` tries, `saga_id` the
    saga concerned if it is known.
    """
    record = kept(record)
    own = tuple((name, value) for name, value in record.headers if not name.startswith(PREFIXES))
    added: Headers = (
        ("kafka_dlt-original-topic", record.topic.encode()),
        ("kafka_dlt-original-partition", struct.pack(">i", record.partition)),
        ("kafka_dlt-original-offset", struct.pack(">q", record.offset)),
        ("kafka_dlt-original-timestamp", struct.pack(">q", record.timestamp_ms)),
        ("kafka_dlt-original-consumer-group", group.encode()),
        ("kafka_dlt-exception-fqcn", _name_of(error).encode()),
        ("kafka_dlt-exception-message", _cut(_text_of(error) or reason)),
        ("dlq_reason", _cut(reason)),
        ("dlq_attempts", str(attempts).encode()),
    )
    if saga_id is not None:
        added += (("dlq_saga_id", _cut(saga_id)),)
    return Outgoing(topic=topic, key=record.key, value=record.value, headers=own + added)


def _name_of(error: BaseException | None) -> str:
    return "" if error is None else f"{type(error).__module__}.{type(error).__qualname__}"


def _text_of(error: BaseException | None) -> str:
    try:
        return "" if error is None else str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ of somebody's exception must not lose the record
        return _name_of(error)


def _cut(text: str) -> bytes:
    return text.encode("utf-8", "replace")[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore").encode()
