"""The record on a dead letter topic: the original, byte for byte, and headers that say where it came from and why.

The headers are those that Spring's DeadLetterPublishingRecoverer writes (numbers big-endian), so that its tools read
them; `dlq_*` are Segue's own, as text. Replaced, never duplicated, when a record dies twice.
"""

from __future__ import annotations

import struct

from segue.topics.broker import Headers, Outgoing, Record

#: Longest text of the error, in bytes of UTF-8; there is never a stack trace.
MAX_MESSAGE_BYTES = 1024
PREFIXES = ("kafka_dlt-", "dlq_")


def dead_letter_record(
    record: Record, topic: str, reason: str, error: BaseException | None, group: str, attempts: int, saga_id: str | None
) -> Outgoing:
    """`record` as it is to be produced to the dead letter topic `topic`.

    `reason` is a short code for programs, `group` the consumer group that gave up after `attempts` tries, `saga_id` the
    saga concerned if it is known.
    """
    kept = tuple((name, value) for name, value in record.headers if not name.startswith(PREFIXES))
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
    return Outgoing(topic=topic, key=record.key, value=record.value, headers=kept + added)


def _name_of(error: BaseException | None) -> str:
    return "" if error is None else f"{type(error).__module__}.{type(error).__qualname__}"


def _text_of(error: BaseException | None) -> str:
    try:
        return "" if error is None else str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ of somebody's exception must not lose the record
        return _name_of(error)


def _cut(text: str) -> bytes:
    return text.encode("utf-8", "replace")[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore").encode()
