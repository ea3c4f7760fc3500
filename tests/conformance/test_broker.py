"""One suite for every adapter of the broker port: in memory, the embedded broker, real Kafka (both protocols)."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from segue.errors import BrokerUnavailable, ConfigError, RejectedRecord, StoreUnavailable
from segue.observe import Logging
from segue.topics.admin import TopicSpec
from segue.topics.broker import Consumer, Outgoing, Partition, Polled, Producer, Record
from segue.topics.embedded import EMBEDDED_PARTITIONS, EmbeddedBroker
from segue.topics.kafka import KafkaAdmin, KafkaConsumer, KafkaProducer
from segue.topics.memory import MemoryBroker
from segue.topics.partitioner import partition_of
from segue.topics.settings import KafkaSettings

#: Seconds after which a test gives up; nothing here takes a tenth of it.
PATIENCE = 30.0
#: A classic group of real Kafka notices a member that joins at its heartbeat.
_QUICK = {"heartbeat.interval.ms": 100, "session.timeout.ms": 6000}
_numbers = itertools.count()


@dataclass
class Bench:
    """One adapter, and what a test needs around it."""

    new_consumer: Callable[[str | None, Logging], Consumer]
    new_producer: Callable[[], Producer]
    create: Callable[[str], None]
    #: Whether topics have ids.
    ids: bool
    closing: list[Callable[[], None]] = field(default_factory=list)

    def name(self, what: str) -> str:
        return f"{what}-{os.getpid()}-{time.time_ns()}-{next(_numbers)}"

    def topic(self) -> str:
        topic = self.name("topic")
        self.create(topic)
        return topic

    def consumer(self, group: str | None, observer: Logging | None = None) -> Consumer:
        consumer = self.new_consumer(group, observer or Logging())
        self.closing.append(consumer.close)
        return consumer

    def producer(self) -> Producer:
        producer = self.new_producer()
        self.closing.append(producer.close)
        return producer


@pytest.fixture(scope="module")
def embedded() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(params=["memory", "embedded", "kafka", "kafka-848"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = _bench(request)
    yield made
    for close in reversed(made.closing):
        close()


def _bench(request: pytest.FixtureRequest) -> Bench:
    if request.param == "memory":
        memory = MemoryBroker(auto_create=False)
        return Bench(
            new_consumer=lambda group, observer: memory.consumer(group, observer=observer),
            new_producer=memory.producer,
            create=memory.create_topic,
            ids=True,
        )
    if request.param == "embedded":
        broker: EmbeddedBroker = request.getfixturevalue("embedded")
        return _over_kafka(broker.settings(), lambda topic: broker.create_topics([topic]), ids=False)
    properties = {"group.protocol": "consumer"} if request.param == "kafka-848" else _QUICK
    settings = KafkaSettings(bootstrap=request.getfixturevalue("kafka_bootstrap"), properties=properties)
    admin = KafkaAdmin(settings)
    made = _over_kafka(settings, lambda topic: _create(admin, topic), ids=True)
    made.closing.append(admin.close)
    return made


def _over_kafka(settings: KafkaSettings, create: Callable[[str], None], *, ids: bool) -> Bench:
    return Bench(
        new_consumer=lambda group, observer: KafkaConsumer(settings, group=group, observer=observer),
        new_producer=lambda: KafkaProducer(settings),
        create=create,
        ids=ids,
    )


def _create(admin: KafkaAdmin, topic: str) -> None:
    admin.create([TopicSpec(name=topic, partitions=EMBEDDED_PARTITIONS, replication=1)])


def _nowhere(_partitions: Sequence[Partition]) -> Mapping[Partition, int]:
    return {}


def _ignore(_partitions: Sequence[Partition]) -> None:
    pass


def send(producer: Producer, topic: str, count: int, first: int = 0) -> list[Exception | None]:
    acks: list[Exception | None] = []
    for i in range(first, first + count):
        producer.send(Outgoing(topic=topic, key=b"key-%d" % i, value=b"%d" % i), acks.append)
    assert producer.flush(PATIENCE) == 0
    return acks


def read(
    consumers: Sequence[Consumer], enough: Callable[[list[Record]], bool], patience: float = PATIENCE
) -> list[Record]:
    """Poll all in turn until the records are `enough`."""
    records: list[Record] = []
    deadline = time.monotonic() + patience
    while not enough(records):
        assert time.monotonic() < deadline, f"{len(records)} records after {patience} s"
        for consumer in consumers:
            records += consumer.poll(1000, 0.02).records
    return records


def until(consumers: Sequence[Consumer], condition: Callable[[], bool]) -> None:
    """Poll until the condition holds; records are dropped."""
    read(consumers, lambda _records: condition())


def at_end(consumer: Consumer, topic: str) -> list[Record]:
    """All records up to the end of every partition of the topic that is assigned."""
    records: list[Record] = []
    ended: dict[Partition, int] = {}

    def enough(_records: list[Record]) -> bool:
        polled: Polled = consumer.poll(1000, 0.02)
        records.extend(polled.records)
        ended.update(polled.ended)
        return len(ended) == EMBEDDED_PARTITIONS

    records += read([], enough)
    return records


def values(records: Sequence[Record]) -> list[int]:
    return sorted(int(record.value or b"") for record in records)


def test_what_is_sent_is_read_with_key_value_and_headers(bench: Bench) -> None:
    topic, producer = bench.topic(), bench.producer()
    headers = (("ce_id", b"1"), ("empty", b""), ("none", None), ("ce_id", b"again"))
    acks: list[Exception | None] = []
    producer.send(Outgoing(topic=topic, key=b"k", value=None, headers=headers), acks.append)
    assert producer.flush(PATIENCE) == 0
    consumer = bench.consumer(bench.name("group"))
    consumer.subscribe([topic], starts=_nowhere, revoked=_ignore)

    [record] = read([consumer], lambda records: len(records) >= 1)

    assert acks == [None]
    assert (record.topic, record.offset, record.key, record.value, record.headers) == (topic, 0, b"k", None, headers)


def test_a_key_goes_to_the_partition_that_java_would_choose(bench: Bench) -> None:
    topic = bench.topic()
    send(bench.producer(), topic, 200)
    consumer = bench.consumer(None)
    consumer.subscribe([topic], starts=_nowhere, revoked=_ignore)

    records = read([consumer], lambda records: len(records) >= 200)

    assert all(r.partition == partition_of(r.key or b"", EMBEDDED_PARTITIONS) for r in records)


def test_reading_begins_where_starts_says_and_at_the_earliest_otherwise(bench: Bench) -> None:
    topic = bench.topic()
    send(bench.producer(), topic, 100)
    asked: list[Partition] = []

    def starts(assigned: Sequence[Partition]) -> Mapping[Partition, int]:
        asked.extend(assigned)
        return {Partition(topic, 1): 5}

    consumer = bench.consumer(bench.name("group"))
    consumer.subscribe([topic], starts=starts, revoked=_ignore)
    records = at_end(consumer, topic)

    first = {n: min(r.offset for r in records if r.partition == n) for n in range(EMBEDDED_PARTITIONS)}
    assert first == {0: 0, 1: 5, 2: 0, 3: 0}
    assert set(asked) == {Partition(topic, n) for n in range(EMBEDDED_PARTITIONS)} == consumer.assignment()


def test_the_end_of_a_partition_is_told_and_equals_the_end_offset(bench: Bench) -> None:
    topic = bench.topic()
    send(bench.producer(), topic, 50)
    consumer = bench.consumer(bench.name("group"))
    consumer.subscribe([topic], starts=_nowhere, revoked=_ignore)
    ended: dict[Partition, int] = {}

    def enough(_records: list[Record]) -> bool:
        ended.update(consumer.poll(7, 0.02).ended)
        return len(ended) == EMBEDDED_PARTITIONS

    read([], enough)

    assert ended == consumer.end_offsets([topic])
    assert sum(ended.values()) == 50
    assert set(consumer.begin_offsets(list(ended)).values()) == {0}


def test_a_poll_never_gives_more_records_than_asked_for(bench: Bench) -> None:
    topic = bench.topic()
    send(bench.producer(), topic, 40)
    consumer = bench.consumer(None)
    consumer.subscribe([topic], starts=_nowhere, revoked=_ignore)
    sizes: list[int] = []

    def enough(_records: list[Record]) -> bool:
        sizes.append(len(consumer.poll(3, 0.02).records))
        return sum(sizes) == 40

    read([], enough)

    assert max(sizes) == 3


def test_after_a_seek_records_come_again_from_there(bench: Bench) -> None:
    topic = bench.topic()
    send(bench.producer(), topic, 60)
    consumer = bench.consumer(bench.name("group"))
    consumer.subscribe([topic], starts=_nowhere, revoked=_ignore)
    total = len(at_end(consumer, topic))
    partition = Partition(topic, 2)
    end = consumer.end_offsets([topic])[partition]

    consumer.seek({partition: end - 3, Partition(topic, 99): 0, Partition("not-mine", 0): 0})
    again = read([consumer], lambda records: len(records) >= 3)

    assert total == 60
    assert [(r.source, r.offset) for r in again] == [(partition, end - 3), (partition, end - 2), (partition, end - 1)]


def test_a_paused_partition_gives_nothing_until_it_is_resumed(bench: Bench) -> None:
    topic, producer = bench.topic(), bench.producer()
    consumer = bench.consumer(bench.name("group"))
    consumer.subscribe([topic], starts=_nowhere, revoked=_ignore)
    until([consumer], lambda: len(consumer.assignment()) == EMBEDDED_PARTITIONS)
    halted = Partition(topic, 0)

    consumer.pause([halted, Partition("not-mine", 7)])
    send(producer, topic, 80)
    ends = consumer.end_offsets([topic])
    others = read([consumer], lambda records: len(records) >= 80 - ends[halted])
    consumer.seek({halted: 0})
    extra = consumer.poll(100, 0.1).records
    consumer.resume([halted])
    rest = read([consumer], lambda records: len(records) >= ends[halted])

    assert halted not in {r.source for r in [*others, *extra]}
    assert {r.source for r in rest} == {halted}
    assert values([*others, *rest]) == list(range(80))


def test_members_of_a_group_share_the_partitions_and_inherit_them(bench: Bench) -> None:
    topic, producer, group = bench.topic(), bench.producer(), bench.name("group")
    revoked: list[Partition] = []
    first, second = bench.consumer(group), bench.consumer(group)
    first.subscribe([topic], starts=_nowhere, revoked=revoked.extend)
    until([first], lambda: len(first.assignment()) == EMBEDDED_PARTITIONS)

    second.subscribe([topic], starts=_nowhere, revoked=_ignore)
    until([first, second], lambda: len(first.assignment()) == len(second.assignment()) == EMBEDDED_PARTITIONS / 2)
    shared = first.assignment() | second.assignment()
    moved = second.assignment()
    second.close()
    until([first], lambda: len(first.assignment()) == EMBEDDED_PARTITIONS)
    send(producer, topic, 20)

    assert len(shared) == EMBEDDED_PARTITIONS
    assert moved == set(revoked)
    assert values(read([first], lambda records: len(records) >= 20)) == list(range(20))


def test_what_is_committed_while_partitions_are_taken_is_where_the_next_owner_begins(bench: Bench) -> None:
    topic, group = bench.topic(), bench.name("group")
    first, second = bench.consumer(group), bench.consumer(group)
    taken: dict[Partition, int] = {}

    def revoked(partitions: Sequence[Partition]) -> None:
        taken.update((partition, 7 + partition.number) for partition in partitions)
        first.commit(taken)

    first.subscribe([topic], starts=_nowhere, revoked=revoked)
    until([first], lambda: len(first.assignment()) == EMBEDDED_PARTITIONS)
    second.subscribe([topic], starts=_nowhere, revoked=_ignore)
    until([first, second], lambda: len(first.assignment()) == len(second.assignment()) == EMBEDDED_PARTITIONS / 2)

    assert taken
    assert second.committed(sorted(taken)) == taken


def test_a_partition_that_was_paused_when_it_was_taken_away_flows_when_it_comes_back(bench: Bench) -> None:
    topic, producer, group = bench.topic(), bench.producer(), bench.name("group")
    first, second = bench.consumer(group), bench.consumer(group)
    first.subscribe([topic], starts=_nowhere, revoked=_ignore)
    until([first], lambda: len(first.assignment()) == EMBEDDED_PARTITIONS)
    first.pause(first.assignment())

    second.subscribe([topic], starts=_nowhere, revoked=_ignore)
    until([first, second], lambda: len(second.assignment()) == EMBEDDED_PARTITIONS / 2)
    moved = second.assignment()
    second.close()
    until([first], lambda: len(first.assignment()) == EMBEDDED_PARTITIONS)
    send(producer, topic, 40)
    expected = sum(first.end_offsets([topic])[partition] for partition in moved)

    assert {r.source for r in read([first], lambda records: len(records) >= expected)} <= moved


def test_an_offset_beyond_the_end_restarts_through_starts(bench: Bench) -> None:
    topic = bench.topic()
    send(bench.producer(), topic, 40)
    answers = [{Partition(topic, 0): 1_000_000}, {Partition(topic, 0): 2}]
    observer = Logging()

    def starts(_assigned: Sequence[Partition]) -> Mapping[Partition, int]:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    consumer = bench.consumer(bench.name("group"), observer)
    consumer.subscribe([topic], starts=starts, revoked=_ignore)
    records = read([consumer], lambda records: len(records) >= 38)

    assert min(r.offset for r in records if r.partition == 0) == 2
    assert observer.counts["offset.reset"] == 1


def test_an_offset_that_stays_out_of_range_restarts_at_the_earliest_and_is_reported(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="segue")
    topic = bench.topic()
    send(bench.producer(), topic, 40)
    consumer = bench.consumer(bench.name("group"))
    consumer.subscribe([topic], starts=lambda _assigned: {Partition(topic, 3): 1_000_000}, revoked=_ignore)

    assert values(read([consumer], lambda records: len(records) >= 40)) == list(range(40))
    assert "offset.out_of_range" in caplog.text


def test_a_failure_of_starts_is_raised_by_poll_and_nothing_is_read_before_it_succeeds(bench: Bench) -> None:
    topic = bench.topic()
    send(bench.producer(), topic, 30)
    failures = [StoreUnavailable("down"), StoreUnavailable("still down")]

    def starts(assigned: Sequence[Partition]) -> Mapping[Partition, int]:
        if failures:
            raise failures.pop()
        return dict.fromkeys(assigned, 1)

    consumer = bench.consumer(bench.name("group"))
    consumer.subscribe([topic], starts=starts, revoked=_ignore)
    raised = 0

    def step(_records: list[Record]) -> bool:
        nonlocal raised
        try:
            early.extend(consumer.poll(100, 0.02).records)
        except StoreUnavailable:
            raised += 1
        return raised == 2

    early: list[Record] = []
    read([], step)
    records = read([consumer], lambda records: len(records) >= 30 - EMBEDDED_PARTITIONS)

    assert early == []
    assert {min(r.offset for r in records if r.partition == n) for n in range(EMBEDDED_PARTITIONS)} == {1}


def test_committed_offsets_are_kept_for_owned_partitions_only(bench: Bench) -> None:
    topic, group = bench.topic(), bench.name("group")
    send(bench.producer(), topic, 30)
    consumer = bench.consumer(group)
    mine, foreign = Partition(topic, 1), Partition(bench.topic(), 0)
    assert consumer.committed([mine]) == {}
    consumer.subscribe([topic], starts=_nowhere, revoked=_ignore)
    until([consumer], lambda: len(consumer.assignment()) == EMBEDDED_PARTITIONS)

    consumer.commit({mine: 3, foreign: 1})

    until([consumer], lambda: mine in consumer.committed([mine]))
    assert consumer.committed([mine, foreign]) == {mine: 3}


def test_a_consumer_without_a_group_reads_everything_and_commits_nothing(bench: Bench) -> None:
    topic = bench.topic()
    send(bench.producer(), topic, 30)
    for _ in range(2):
        consumer = bench.consumer(None)
        consumer.subscribe([topic], starts=_nowhere, revoked=_ignore)
        consumer.commit({Partition(topic, 0): 1})
        assert len(consumer.assignment()) == EMBEDDED_PARTITIONS or bench.ids
        assert values(read([consumer], lambda records: len(records) >= 30)) == list(range(30))
        assert consumer.committed([Partition(topic, 0)]) == {}


def test_a_topic_that_does_not_exist_is_a_config_error_that_names_it(bench: Bench) -> None:
    missing = bench.name("missing")
    consumer = bench.consumer(None)

    def ask() -> None:
        consumer.subscribe([missing], starts=_nowhere, revoked=_ignore)
        consumer.poll(1, 0)

    with pytest.raises(ConfigError, match=missing):
        ask()
    with pytest.raises(ConfigError, match=missing):
        bench.consumer(None).end_offsets([missing])


def test_a_record_that_is_too_large_is_refused_through_its_acknowledgement(bench: Bench) -> None:
    topic, producer = bench.topic(), bench.producer()
    acks: list[Exception | None] = []

    producer.send(Outgoing(topic=topic, value=b"x" * 1_100_000), acks.append)
    producer.send(Outgoing(topic=topic, value=b"small"), acks.append)
    assert acks == []
    assert producer.flush(PATIENCE) == 0

    assert {type(error) for error in acks} == {RejectedRecord, type(None)}


@pytest.mark.parametrize("name", ["no topic", "payments/replies", "..", "x" * 250, ""])
def test_a_record_for_a_topic_that_cannot_exist_is_refused_for_good_and_holds_up_no_other(
    bench: Bench, name: str
) -> None:
    topic, producer = bench.topic(), bench.producer()
    acks: list[Exception | None] = []

    producer.send(Outgoing(topic=name, value=b"x"), acks.append)
    producer.send(Outgoing(topic=topic, value=b"y"), acks.append)
    assert producer.flush(PATIENCE) == 0

    assert {type(error) for error in acks} == {RejectedRecord, type(None)}


def test_topic_ids_tell_topics_apart_where_the_broker_has_them(bench: Bench) -> None:
    one, two = bench.topic(), bench.topic()
    consumer = bench.consumer(None)
    began = time.monotonic()

    ids = consumer.topic_ids([one, two, "no-such-topic"])

    assert ids["no-such-topic"] == ""
    assert (len({ids[one], ids[two]}) == 2) == bench.ids
    assert time.monotonic() - began < 5


def test_what_is_not_acknowledged_when_a_producer_is_closed_is_reported(bench: Bench) -> None:
    topic, producer = bench.topic(), bench.producer()
    acks: list[Exception | None] = []

    for _ in range(10):
        producer.send(Outgoing(topic=topic, value=b"v"), acks.append)
    producer.close()
    producer.close()  # once more does nothing

    # Each is either durable or given up; none is left without an answer.
    assert len(acks) == 10
    assert all(ack is None or isinstance(ack, BrokerUnavailable) for ack in acks)
