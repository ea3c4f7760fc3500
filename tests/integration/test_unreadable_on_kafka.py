"""What real Kafka holds and its client can't unpack: a few kB that would be a hundred MB."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import confluent_kafka
import pytest
from sqlalchemy import select

from segue.cli.arguments import system_user
from segue.clock import fresh_id
from segue.coordinator import schema
from segue.coordinator.store import Changes, OffsetNote, StoredOffset
from segue.topics.admin import TopicSpec
from segue.topics.broker import Partition, Unreadable
from segue.topics.kafka import KafkaAdmin, KafkaConsumer
from segue.topics.settings import KafkaSettings
from tests.unit.cli.kit import Database, segue

#: Seconds after which a test gives up.
PATIENCE = 60.0


@pytest.fixture
def reader(kafka_bootstrap: str) -> Iterator[tuple[KafkaConsumer, Partition]]:
    settings = KafkaSettings(bootstrap=kafka_bootstrap)
    topic = f"bombs-{fresh_id()}"
    admin = KafkaAdmin(settings)
    admin.create([TopicSpec(name=topic, partitions=1, replication=1)])
    consumer = KafkaConsumer(settings, group=fresh_id())
    consumer.subscribe([topic], starts=_at_the_beginning, revoked=_ignore)
    yield consumer, Partition(topic, 0)
    consumer.close()
    admin.close()


def write(bootstrap: str, topic: str, *values: bytes, **more: object) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, **more})
    failed: list[object] = []
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _message: failed.append(error) if error else None)
    assert producer.flush(PATIENCE) == 0
    assert not failed
    producer.close()


def bomb(bootstrap: str, topic: str, records: int) -> None:
    """One batch of so many records, of 120 MB together and a few kB on the wire."""
    large = {"message.max.bytes": 1_000_000_000, "batch.size": 900_000_000, "queue.buffering.max.kbytes": 900_000}
    values = [bytes(120_000_000 // records)] * records
    write(bootstrap, topic, *values, **large, **{"compression.type": "zstd", "linger.ms": 2000})


@pytest.mark.parametrize("records", [1, 3])
def test_a_batch_that_the_client_cannot_unpack_is_noticed_and_reading_goes_on_behind_it(
    kafka_bootstrap: str, reader: tuple[KafkaConsumer, Partition], records: int
) -> None:
    consumer, partition = reader
    write(kafka_bootstrap, partition.topic, b"before")
    bomb(kafka_bootstrap, partition.topic, records)

    first = _until_unreadable(consumer, partition)
    assert first.offset == 1
    assert consumer.readable_from(partition, 1) is None, "nothing behind it can be read"
    write(kafka_bootstrap, partition.topic, b"after")
    behind = consumer.readable_from(partition, 1)
    assert behind == 1 + records
    assert consumer.readable_from(partition, 0) == 0, "what can be read is no obstacle"
    consumer.seek({partition: behind})
    assert _next_value(consumer) == b"after"


def test_a_partition_that_stands_is_told_of_and_skipped_by_hand(kafka_bootstrap: str, sqlite_url: str) -> None:
    database = Database(sqlite_url)
    topic = f"bombs-{fresh_id()}"
    admin = KafkaAdmin(KafkaSettings(bootstrap=kafka_bootstrap))
    admin.create([TopicSpec(name=topic, partitions=1, replication=1)])
    admin.close()
    bomb(kafka_bootstrap, topic, 3)
    write(kafka_bootstrap, topic, b"after")
    partition, name = Partition(topic, 0), "shop"
    database.store.seed_offsets(name, {partition: StoredOffset(next=0, topic_id="t-1")})
    with database.store.batch() as batch:
        note = OffsetNote(coordinator=name, partition=partition, stands_at=0, problem="Invalid compressed data")
        batch.write(Changes(notes=[note]))
    settings = (f"coordinator.database={sqlite_url}", f"coordinator.name={name}", f"kafka.bootstrap={kafka_bootstrap}")
    options = [word for one in settings for word in ("--set", one)]

    told = segue("verify", *options)
    assert told.code == 1
    assert f"segue topics skip {topic} 0 0" in " ".join(told.out.split())
    assert segue("topics", "skip", topic, "0", "0", *options).code == 2, "a reason is needed"
    assert segue("topics", "skip", topic, "0", "1", "--reason", "bomb", *options).code != 0, "it does not stand there"
    assert segue("topics", "skip", topic, "0", "0", "--reason", "bomb", "--actor", "ann", *options).code == 0
    stored = database.store.offsets(name)[partition]
    assert stored.next == 3
    assert stored.skipped_at is not None
    [line] = database.rows(select(schema.audit))
    assert (line.action, line.actor, line.before, line.after) == ("offset.skip", "ann", "0", "3")
    assert line.system_user == system_user()
    [letter] = database.rows(select(schema.dead_letter))
    assert (letter.reason, letter.topic, letter.offset, letter.state) == ("unreadable_batch", topic, 0, "dead")
    assert "offsets 0 to 2, skipped by ann: bomb" in letter.error_message
    assert segue("verify", *options).code == 0
    readable = segue("topics", "skip", topic, "0", "3", "--reason", "more", *options)
    assert (readable.code, "can be read at offset 3" in " ".join(readable.err.split())) == (2, True)
    database.store.seed_offsets("other", {partition: StoredOffset(next=4, topic_id="t-1")})
    other = [*options, "--set", "coordinator.name=other"]
    at_the_end = segue("topics", "skip", topic, "0", "4", "--reason", "more", *other)
    assert (at_the_end.code, "holds nothing at offset 4" in " ".join(at_the_end.err.split())) == (2, True)
    assert database.store.offsets(name)[partition] == stored
    database.close()


def test_workers_that_stand_are_stopped_skipped_by_hand_and_go_on_behind_it(
    kafka_bootstrap: str, sqlite_url: str
) -> None:
    database, service = Database(sqlite_url), f"bank-{fresh_id()}"
    settings, topic = KafkaSettings(bootstrap=kafka_bootstrap), f"{service}.commands"
    admin = KafkaAdmin(settings)
    admin.create([TopicSpec(name=topic, partitions=1, replication=1)])
    write(kafka_bootstrap, topic, b"before")
    bomb(kafka_bootstrap, topic, 3)
    write(kafka_bootstrap, topic, b"after")
    words = ("--reason", "bomb", "--service", service, "--set", f"coordinator.database={sqlite_url}")
    options = (*words, "--set", f"kafka.bootstrap={kafka_bootstrap}")

    nobody = segue("topics", "skip", topic, "0", "1", *options)
    assert (nobody.code, "have read nothing of" in " ".join(nobody.err.split())) == (4, True)
    worker = KafkaConsumer(settings, group=service)
    worker.subscribe([topic], starts=_at_the_beginning, revoked=_ignore)
    assert _next_value(worker) == b"before"
    worker.commit({Partition(topic, 0): 1})
    busy = segue("topics", "skip", topic, "0", "1", *options)
    assert (busy.code, "stop them first" in " ".join(busy.err.split())) == (2, True)
    worker.close()
    assert segue("topics", "skip", topic, "0", "0", *options).code == 2, "they do not stand there"
    assert segue("topics", "skip", topic, "0", "1", *options).code == 0
    assert admin.group_offset(service, Partition(topic, 0)) == 4
    [letter] = database.rows(select(schema.dead_letter))
    assert (letter.reason, letter.topic, letter.offset) == ("unreadable_batch", topic, 1)
    [line] = database.rows(select(schema.audit))
    assert (line.before, line.after) == ("1", "4")
    admin.close()
    database.close()


def _until_unreadable(consumer: KafkaConsumer, partition: Partition) -> Unreadable:
    give_up = time.monotonic() + PATIENCE
    while True:
        assert time.monotonic() < give_up
        found = consumer.poll(100, 0.1).unreadable.get(partition)
        if found is not None:
            assert "Invalid compressed data" in found.problem
            return found


def _next_value(consumer: KafkaConsumer) -> bytes | None:
    give_up = time.monotonic() + PATIENCE
    while True:
        assert time.monotonic() < give_up
        for record in consumer.poll(100, 0.1).records:
            return record.value


def _at_the_beginning(_partitions: Sequence[Partition]) -> Mapping[Partition, int]:
    return {}


def _ignore(_partitions: Sequence[Partition]) -> None:
    pass
