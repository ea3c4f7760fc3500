"""Other producers' transactions on the coordinators' topics: the broker in memory and real Kafka behave alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from logging import WARNING
from typing import Protocol, cast

import confluent_kafka
import pytest

from segue.clock import Clock, fresh_id
from segue.coordinator.gate import DrainGate
from segue.coordinator.store import Store, StoredOffset
from segue.observe import Logging
from segue.topics.admin import TopicSpec
from segue.topics.broker import Consumer, Outgoing, Partition
from segue.topics.kafka import KafkaAdmin, KafkaConsumer
from segue.topics.memory import MemoryBroker, MemoryTransaction
from segue.topics.settings import KafkaSettings

#: Seconds after which a test gives up.
PATIENCE = 30.0
T0 = datetime(2026, 1, 1, tzinfo=UTC)


class Transaction(Protocol):
    def write(self, value: bytes) -> None: ...

    def commit(self) -> None: ...

    def abort(self) -> None: ...


@dataclass
class InMemory:
    topic: str
    inner: MemoryTransaction

    def write(self, value: bytes) -> None:
        self.inner.append(Outgoing(topic=self.topic, value=value))

    def commit(self) -> None:
        self.inner.commit()

    def abort(self) -> None:
        self.inner.abort()


class OnKafka:
    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, "transactional.id": fresh_id()})
        self._producer.init_transactions(PATIENCE)
        self._producer.begin_transaction()

    def write(self, value: bytes) -> None:
        self._producer.produce(self._topic, value)
        assert self._producer.flush(PATIENCE) == 0

    def commit(self) -> None:
        self._producer.commit_transaction(PATIENCE)

    def abort(self) -> None:
        self._producer.abort_transaction(PATIENCE)


@dataclass
class Bench:
    """A topic of one partition, a reader of it, and a gate that knows how far it has read."""

    partition: Partition
    consumer: Consumer
    write: Callable[[bytes], None]
    transaction: Callable[[], Transaction]
    at: int = 0
    values: list[bytes | None] = field(default_factory=list)
    time: datetime = T0

    def __post_init__(self) -> None:
        self.consumer.subscribe([self.partition.topic], starts=_at_the_beginning, revoked=_ignore)
        topics = [self.partition.topic]
        self.gate = DrainGate(cast("Store", self), self.consumer, "t", topics, Logging(), cast("Clock", self))

    def read_to(self, offset: int) -> None:
        """Poll until the reader says that it stands at `offset`."""
        give_up = time.monotonic() + PATIENCE
        while self.at < offset:
            assert time.monotonic() < give_up, (self.at, self.values)
            polled = self.consumer.poll(100, 0.05)
            self.values += [record.value for record in polled.records]
            self.at = max([self.at, *(r.offset + 1 for r in polled.records), *polled.ended.values()])

    # what the gate asks store and clock

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return (self.time - T0).total_seconds()

    def offsets(self, coordinator: str) -> Mapping[Partition, StoredOffset]:
        return {self.partition: StoredOffset(next=self.at, topic_id="t-1")}


def _at_the_beginning(_partitions: Sequence[Partition]) -> Mapping[Partition, int]:
    return {}


def _ignore(_partitions: Sequence[Partition]) -> None:
    pass


@pytest.fixture(params=["memory", "kafka"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    topic = f"strangers-{fresh_id()}"
    if request.param == "memory":
        broker = MemoryBroker(partitions=1)
        yield Bench(
            partition=Partition(topic, 0),
            consumer=broker.consumer(None),
            write=lambda value: [broker.append(Outgoing(topic=topic, value=value))].clear(),
            transaction=lambda: InMemory(topic, broker.transaction()),
        )
        return
    bootstrap = request.getfixturevalue("kafka_bootstrap")
    settings = KafkaSettings(bootstrap=bootstrap)
    admin = KafkaAdmin(settings)
    admin.create([TopicSpec(name=topic, partitions=1, replication=1)])
    consumer = KafkaConsumer(settings, group=None)
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap})

    def write(value: bytes) -> None:
        producer.produce(topic, value)
        assert producer.flush(PATIENCE) == 0

    yield Bench(
        partition=Partition(topic, 0),
        consumer=consumer,
        write=write,
        transaction=lambda: OnKafka(bootstrap, topic),
    )
    consumer.close()
    admin.close()


def test_the_end_counts_what_an_open_transaction_holds_back(bench: Bench) -> None:
    bench.write(b"before")
    stranger = bench.transaction()
    stranger.write(b"open")
    bench.write(b"behind")
    topics = [bench.partition.topic]

    assert bench.consumer.end_offsets(topics) == {bench.partition: 3}
    assert bench.consumer.stable_offsets(topics) == {bench.partition: 1}
    bench.read_to(1)
    assert bench.values == [b"before"]
    stranger.commit()
    bench.read_to(4)  # the mark of the commit takes an offset, too
    assert bench.values == [b"before", b"open", b"behind"]
    assert bench.consumer.stable_offsets(topics) == bench.consumer.end_offsets(topics) == {bench.partition: 4}


def test_what_was_aborted_is_never_read_and_the_reader_stands_behind_it(bench: Bench) -> None:
    stranger = bench.transaction()
    stranger.write(b"aborted")
    stranger.write(b"aborted, too")
    stranger.abort()

    bench.read_to(3)
    assert bench.values == []
    bench.write(b"after")
    bench.read_to(4)
    assert bench.values == [b"after"]


@pytest.mark.parametrize("how", ["commit", "abort"])
def test_no_deadline_fires_while_a_transaction_hides_answers_and_the_alert_says_so(
    bench: Bench, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench.write(b"before")
    stranger = bench.transaction()
    stranger.write(b"open")
    bench.write(b"an answer in time, which nobody can read yet")
    bench.read_to(1)
    due = bench.time

    for _ in range(40):
        assert not bench.gate.open_to(due)
        bench.time += timedelta(seconds=1)
    [alert] = [record.getMessage() for record in caplog.records if record.levelno == WARNING]
    assert f"{bench.partition.topic}[0] (open transaction of another producer at offset 1)" in alert

    getattr(stranger, how)()
    bench.read_to(4)
    assert bench.gate.open_to(due)
