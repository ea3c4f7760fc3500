"""Small requests to a fresh broker, until its compiler has seen them: else the first scenario pays for it."""

from __future__ import annotations

import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from benchmarks.place import BenchError

#: Records, and how many of them a request carries at most: it is requests that the compiler counts.
_RECORDS, _TOGETHER = 16_000, 4
_UNDER_WAY = 400
#: As many as a command has.
_HEADERS: list[tuple[str, str | bytes | None]] = [(f"ce_header{n}", b"some text of a header") for n in range(16)]
_PATIENCE = 60.0


def warm_up(bootstrap: str, topic: str) -> None:
    """Write records to an existing topic and read them. Raises BenchError where that takes a minute."""
    common = {"bootstrap.servers": bootstrap}
    quick = {"linger.ms": 0, "batch.num.messages": _TOGETHER, "compression.type": "lz4", "enable.idempotence": True}
    producer = Producer(common | quick)
    consumer = Consumer(common | {"group.id": topic, "isolation.level": "read_committed"})
    partitions = consumer.list_topics(topic, timeout=_PATIENCE).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
    until = time.monotonic() + _PATIENCE
    sent = seen = 0
    while seen < _RECORDS:
        while sent < _RECORDS and sent - seen < _UNDER_WAY:
            producer.produce(topic, b"x" * 300, str(sent).encode(), headers=_HEADERS)
            sent += 1
        producer.poll(0)
        seen += sum(message.error() is None for message in consumer.consume(_UNDER_WAY, 0.005))
        if time.monotonic() > until:
            raise BenchError("Kafka does not carry the records that are to warm it up")
    producer.flush(_PATIENCE)
    consumer.close()
