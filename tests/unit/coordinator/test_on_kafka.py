"""The coordinator over the client of the real Kafka, which has ideas of its own about partitions (embedded broker)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from segue.coordinator.service import Coordinator
from segue.coordinator.store import Store
from segue.errors import ConfigError, StoreUnavailable
from segue.saga.definition import Registry
from segue.topics.broker import Polled
from segue.topics.embedded import EmbeddedBroker
from segue.topics.kafka import KafkaConsumer, KafkaProducer
from tests.unit.coordinator.kit import NAMES
from tests.unit.saga.sagas import order_saga


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        broker.create_topics([NAMES.requests, NAMES.replies, NAMES.dlq])
        yield broker


class Away:
    """A store that does not tell its offsets the first time."""

    def __init__(self, store: Any) -> None:
        self._store, self.asked = store, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def offsets(self, coordinator: str) -> Any:
        self.asked += 1
        if self.asked == 1:
            raise StoreUnavailable("away")
        return self._store.offsets(coordinator)


def test_a_database_that_is_away_when_partitions_are_assigned_is_asked_again_before_anything_is_read(
    store: Store, broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads(coordinator: Coordinator, consumer: KafkaConsumer, when: Callable[[], bool]) -> None:
        until = time.monotonic() + 60
        while not (consumer.assignment() and when()):
            coordinator.step(0.1)
            assert time.monotonic() < until

    def refuse(self: KafkaConsumer, most: int, timeout: float) -> Polled:
        raise ConfigError("no such topic or partition")

    def opened(given: Any) -> tuple[Coordinator, KafkaConsumer]:
        consumer = KafkaConsumer(broker.settings(), group=NAMES.coordinator)
        producer = KafkaProducer(broker.settings())
        return Coordinator(NAMES, Registry([order_saga]), given, consumer, producer, broker_id="b-1"), consumer

    first, consumer = opened(store)
    reads(first, consumer, lambda: len(store.offsets(NAMES.coordinator)) == 8)
    first.close()
    away = Away(store)
    second, consumer = opened(away)
    # Once where it failed, once to find back, and once where the consumer asked again.
    reads(second, consumer, lambda: away.asked >= 3)
    monkeypatch.setattr(KafkaConsumer, "poll", refuse)
    assert not second.step()
    second.close()
