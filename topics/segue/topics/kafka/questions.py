"""Questions that consumers and admin clients ask the broker alike."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaException

from segue.topics.kafka.errors import error_of, translated

#: Seconds that a question to the broker (offsets, metadata) may take.
QUESTION_TIMEOUT = 10.0


def partitions_of(client: Any, topic: str, bootstrap: str, timeout: float = QUESTION_TIMEOUT) -> list[int]:
    """The numbers of the partitions of `topic`, asked of the broker now. Raises ConfigError where it does not exist."""
    try:
        found = client.list_topics(topic, timeout=timeout).topics[topic]
    except KafkaException as error:
        raise translated(error_of(error), f"asking for {topic}", bootstrap) from error
    if found.error is not None:
        raise translated(found.error, f"topic {topic!r}", bootstrap)
    return sorted(found.partitions)
