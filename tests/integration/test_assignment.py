"""What the deployment guide advises for several coordinators does what it says, on real Kafka."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import pytest

from segue.clock import fresh_id
from segue.topics.admin import TopicSpec
from segue.topics.broker import Partition
from segue.topics.kafka import KafkaAdmin, KafkaConsumer
from segue.topics.settings import KafkaSettings

PARTITIONS = 4
PATIENCE = 30.0
ADVISED = {"group.protocol": "consumer", "group.remote.assignor": "range"}


@pytest.fixture
def coordinators(kafka_bootstrap: str) -> Iterator[list[KafkaConsumer]]:
    """Two members that read the same two topics; the second one joins when the first has everything."""
    settings = KafkaSettings(bootstrap=kafka_bootstrap, properties=ADVISED)
    topics = [f"{name}-{fresh_id()}" for name in ("requests", "replies")]
    group = fresh_id()
    with ExitStack() as stack:
        admin = KafkaAdmin(settings)
        stack.callback(admin.close)
        admin.create([TopicSpec(name=topic, partitions=PARTITIONS, replication=1) for topic in topics])
        members: list[KafkaConsumer] = []
        for _ in range(2):
            member = KafkaConsumer(settings, group=group)
            stack.callback(member.close)
            member.subscribe(topics, starts=_at_the_beginning, revoked=_ignore)
            members.append(member)
            _until_shared_out(members)
        yield members


def test_partitions_of_one_number_go_to_the_same_coordinator(coordinators: list[KafkaConsumer]) -> None:
    first, second = (member.assignment() for member in coordinators)

    numbers = [{partition.number for partition in mine} for mine in (first, second)]
    assert len(first) == len(second) == PARTITIONS
    assert numbers[0] | numbers[1] == set(range(PARTITIONS))
    assert not numbers[0] & numbers[1], (first, second)


def _until_shared_out(members: Sequence[KafkaConsumer]) -> None:
    until = time.monotonic() + PATIENCE
    share = 2 * PARTITIONS // len(members)
    while any(len(member.assignment()) != share for member in members):
        assert time.monotonic() < until, [member.assignment() for member in members]
        for member in members:
            member.poll(1, 0.05)


def _at_the_beginning(_partitions: Sequence[Partition]) -> Mapping[Partition, int]:
    return {}


def _ignore(_partitions: Sequence[Partition]) -> None:
    pass
