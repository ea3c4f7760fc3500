"""A Kafka in this process, for the tutorial, the demo and tests: librdkafka's own mock cluster, over real TCP.

Other processes may connect to it, too. Its limits: every topic has four partitions, a partition keeps its last 5 MiB or
100,000 records in memory, there is no admin API, and it tells no topic ids. All is gone when it stops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Final

from segue.errors import UsageError
from segue.topics.kafka import MockCluster
from segue.topics.settings import EMBEDDED_PROPERTIES, KafkaSettings, Property

#: Partitions of every topic of the embedded broker.
EMBEDDED_PARTITIONS: Final = 4


class EmbeddedBroker:
    """`with EmbeddedBroker() as broker:` runs a Kafka; `broker.settings()` reaches it."""

    def __init__(self, *, brokers: int = 1) -> None:
        self._brokers = brokers
        self._cluster: MockCluster | None = None

    def __enter__(self) -> EmbeddedBroker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to listen, on a free port of the loopback interface."""
        if self._cluster is None:
            self._cluster = MockCluster(self._brokers)

    def stop(self) -> None:
        """Stop, and forget all records; clients that are still open see a broker that went away."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close()

    @property
    def bootstrap(self) -> str:
        """Where it listens, `host:port`."""
        return self._running().bootstrap

    def settings(self, properties: Mapping[str, Property] | None = None) -> KafkaSettings:
        """How clients reach it quickly; `properties` win over EMBEDDED_PROPERTIES."""
        return KafkaSettings(bootstrap=self.bootstrap, properties={**EMBEDDED_PROPERTIES, **(properties or {})})

    def create_topics(self, topics: Iterable[str]) -> None:
        """Make these topics, with four partitions each."""
        for topic in topics:
            self._running().create_topic(topic)

    def _running(self) -> MockCluster:
        if self._cluster is None:
            raise UsageError("the embedded broker is not running: use it inside `with EmbeddedBroker() as broker:`")
        return self._cluster
