"""librdkafka's in-process broker."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Producer as _Producer

from segue.topics.kafka.log import LOGGER
from segue.topics.kafka.questions import QUESTION_TIMEOUT, partitions_of


class MockCluster:
    """librdkafka's in-process broker; lives as long as this object is open."""

    def __init__(self, brokers: int = 1) -> None:
        # The address is not used; log level 2: the other clients' disconnecting at the end is no news.
        config: dict[str, Any] = {"bootstrap.servers": "embedded:1", "test.mock.num.brokers": brokers, "log_level": 2}
        self._client = _Producer(config, logger=LOGGER)
        found = self._client.list_topics(timeout=QUESTION_TIMEOUT).brokers.values()
        self.bootstrap = ",".join(sorted(f"{broker.host}:{broker.port}" for broker in found))

    def create_topic(self, topic: str) -> None:
        """Make the topic with its four partitions, unless it is there."""
        partitions_of(self._client, topic, self.bootstrap)

    def close(self) -> None:
        self._client.close()
