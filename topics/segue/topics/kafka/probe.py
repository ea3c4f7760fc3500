"""A fresh reader's look at a batch that can't be read: is it so, where does it end, and what can be read behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from segue.clock import SYSTEM_CLOCK
from segue.topics.broker import Partition
from segue.topics.kafka.errors import END, UNREADABLE, error_of, translated
from segue.topics.kafka.log import LOGGER

#: Seconds in which one place must be read, or fail.
PATIENCE = 3.0
#: Of the last records, so many are tried where the one right behind the batch can't be read, either.
LAST_RECORDS = 3

#: Where the batch begins that can't be read; None: there is a record; -1: there is nothing (yet).
Sight = int | None
_NOTHING = -1


def readable_from(
    properties: dict[str, Any], bootstrap: str, partition: Partition, offset: int, end: int
) -> int | None:
    """See `Consumer.readable_from`; `end` is the offset after the last record."""
    try:
        client = Consumer({**properties, "error_cb": lambda _error: None}, logger=LOGGER)
    except KafkaException as error:
        raise translated(error_of(error), "kafka.properties", bootstrap) from error
    try:
        return find(lambda at: _look(client, partition, at), offset, end)
    except KafkaException as error:
        raise translated(error_of(error), f"reading {partition.topic}", bootstrap) from error
    finally:
        client.close()


def find(look: Callable[[int], Sight], offset: int, end: int) -> int | None:
    """The offset behind the batch at `offset`: wherever it is fetched, a batch comes whole, and tells its begin."""
    begin = look(offset)
    if begin is None:
        return offset
    if begin == _NOTHING:
        return None
    inside, step = offset, 1
    while inside + step < end and look(inside + step) == begin:
        inside, step = inside + step, step * 2
    beyond = min(inside + step, end)
    while beyond - inside > 1:
        middle = (inside + beyond) // 2
        if look(middle) == begin:
            inside = middle
        else:
            beyond = middle
    tried = (beyond, *range(end - 1, max(beyond, end - 1 - LAST_RECORDS), -1))
    return beyond if any(at < end and look(at) is None for at in tried) else None


def _look(client: Consumer, partition: Partition, at: int) -> Sight:
    client.assign([TopicPartition(*partition, at)])
    give_up = SYSTEM_CLOCK.monotonic() + PATIENCE
    while SYSTEM_CLOCK.monotonic() < give_up:
        message = client.poll(0.2)
        if message is None:
            continue
        error = message.error()
        if error is None:
            return None
        if error.code() in UNREADABLE:
            return message.offset()
        if error.code() == END:
            return _NOTHING
    return _NOTHING
