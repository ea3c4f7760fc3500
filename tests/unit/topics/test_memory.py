"""What the broker in memory has beside the ports: steps that a simulator drives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import pytest

from segue.errors import BrokerUnavailable
from segue.topics.broker import Outgoing, Partition
from segue.topics.memory import MemoryBroker, MemoryConsumer


def _nowhere(_assigned: Sequence[Partition]) -> Mapping[Partition, int]:
    return {}


def member(broker: MemoryBroker, revoked: list[Partition] | None = None) -> MemoryConsumer:
    consumer = broker.consumer("g")
    consumer.subscribe(["t"], starts=_nowhere, revoked=(revoked if revoked is not None else []).extend)
    return consumer


def test_a_record_may_be_written_without_its_producer_learning_of_it() -> None:
    broker = MemoryBroker(partitions=1)
    producer = broker.producer()
    acks: list[Exception | None] = []
    producer.send(Outgoing(topic="t", value=b"v"), acks.append)
    assert "t" not in broker.topics(["t"])
    producer.transmit()
    assert [record.value for record in broker.records("t")] == [b"v"]
    assert acks == []
    producer.poll()
    assert acks == [None]


def test_an_expelled_member_believes_in_its_partitions_until_it_polls() -> None:
    broker = MemoryBroker(partitions=2)
    lost: list[Partition] = []
    zombie = member(broker, lost)
    zombie.poll(1, 0)
    broker.expel(zombie)
    heir = member(broker)
    heir.poll(1, 0)
    assert len(zombie.assignment()) == len(heir.assignment()) == 2
    zombie.poll(1, 0)
    assert len(lost) == 2
    heir.poll(1, 0)
    zombie.poll(1, 0)
    assert len(zombie.assignment()) == len(heir.assignment()) == 1


def test_a_partition_is_not_given_away_before_its_owner_has_let_it_go() -> None:
    broker = MemoryBroker(partitions=2)
    first, second = member(broker), member(broker)
    first.poll(1, 0)
    second.poll(1, 0)
    assert not first.assignment() & second.assignment()
    assert len(first.assignment() | second.assignment()) == 2


@pytest.mark.parametrize("error", [None, BrokerUnavailable("not committed")])
def test_who_polls_while_another_gives_back_a_partition_gets_it_at_the_next_poll(error: Exception | None) -> None:
    broker = MemoryBroker(partitions=2)
    first = broker.consumer("g")
    seen: list[frozenset[Partition]] = []

    def revoked(_lost: Sequence[Partition]) -> None:
        second.poll(1, 0)
        seen.append(second.assignment())
        if error is not None:
            raise error

    first.subscribe(["t"], starts=_nowhere, revoked=revoked)
    first.poll(1, 0)
    second = member(broker)
    with pytest.raises(BrokerUnavailable) if error is not None else nullcontext():
        first.poll(1, 0)
    assert seen == [frozenset()]
    second.poll(1, 0)
    assert second.assignment() == {Partition("t", 1)}


def test_while_the_broker_is_down_requests_fail_and_records_wait() -> None:
    broker = MemoryBroker()
    consumer, producer = member(broker), broker.producer()
    acks: list[Exception | None] = []
    broker.down = True
    producer.send(Outgoing(topic="t", value=b"v"), acks.append)
    assert producer.flush(1) == 1
    with pytest.raises(BrokerUnavailable):
        consumer.poll(1, 0)
    broker.down = False
    assert producer.flush(1) == 0
    assert acks == [None]
    assert len(consumer.poll(1, 0).records) == 1


def test_a_topic_that_is_made_again_is_empty_and_has_another_id() -> None:
    broker = MemoryBroker(partitions=1)
    broker.append(Outgoing(topic="t", value=b"1"))
    consumer = member(broker)
    consumer.poll(10, 0)
    before = consumer.topic_ids(["t"])
    broker.delete_topic("t")
    broker.create_topic("t")
    broker.append(Outgoing(topic="t", value=b"2"))
    assert consumer.topic_ids(["t"]) != before
    assert consumer.poll(10, 0).records == []  # offset 1 is the end of the new one, too
    consumer.seek({Partition("t", 0): 0})
    assert [record.value for record in consumer.poll(10, 0).records] == [b"2"]


def test_what_retention_took_is_skipped_through_starts() -> None:
    broker = MemoryBroker(partitions=1, now=lambda: 5)
    for i in range(10):
        broker.append(Outgoing(topic="t", value=b"%d" % i))
    broker.truncate(Partition("t", 0), 4)
    consumer = broker.consumer("g")
    consumer.subscribe(["t"], starts=lambda _assigned: {Partition("t", 0): 2}, revoked=lambda _lost: None)
    records = consumer.poll(100, 0).records
    assert [record.offset for record in records] == [4, 5, 6, 7, 8, 9]
    assert {record.timestamp_ms for record in records} == {5}
    assert consumer.begin_offsets([Partition("t", 0)]) == {Partition("t", 0): 4}


def test_the_same_calls_give_the_same_records() -> None:
    def run() -> list[tuple[int, int, bytes | None]]:
        broker = MemoryBroker()
        for i in range(50):
            broker.append(Outgoing(topic="t", key=None if i % 3 else b"%d" % i, value=b"%d" % i))
        consumer = member(broker)
        return [(r.partition, r.offset, r.value) for _ in range(20) for r in consumer.poll(3, 0).records]

    assert run() == run()
    assert len(run()) == 50
