"""What the client does beside the port: errors, preflight, forks. No broker but the embedded one."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
from confluent_kafka import Consumer, KafkaError

from segue.errors import BrokerUnavailable, ConfigError, RejectedRecord, UsageError
from segue.topics.admin import TopicSpec
from segue.topics.broker import Outgoing, Partition
from segue.topics.embedded import EMBEDDED_PARTITIONS, EmbeddedBroker
from segue.topics.kafka import KafkaAdmin, KafkaConsumer, KafkaProducer, translated
from segue.topics.kafka import consumer as consumer_module
from segue.topics.kafka.log import Repeats
from segue.topics.settings import KafkaSettings


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
def nowhere() -> KafkaSettings:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    return KafkaSettings(bootstrap=f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("code", "kind", "advice"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, ConfigError, "grant the ACL"),
        (KafkaError._AUTHENTICATION, ConfigError, "refuses the credentials"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, ConfigError, "segue topics create"),
        (KafkaError._INVALID_ARG, ConfigError, "CONFIGURATION.md"),
        (KafkaError.MSG_SIZE_TOO_LARGE, RejectedRecord, "message.max.bytes"),
        (KafkaError._TRANSPORT, BrokerUnavailable, "kafka:9092"),
        (KafkaError._MSG_TIMED_OUT, BrokerUnavailable, "kafka:9092"),
        (KafkaError._PURGE_QUEUE, BrokerUnavailable, "kafka:9092"),
        (KafkaError.NOT_LEADER_FOR_PARTITION, BrokerUnavailable, "kafka:9092"),
    ],
)
def test_every_error_of_the_client_says_whose_turn_it_is(code: int, kind: type[Exception], advice: str) -> None:
    error = translated(KafkaError(code), "sending to t", "kafka:9092")
    assert type(error) is kind
    assert str(error).startswith("sending to t: ")
    assert advice in str(error)


def test_an_unreachable_broker_is_named_within_the_timeout(nowhere: KafkaSettings) -> None:
    admin = KafkaAdmin(nowhere)
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=rf"{nowhere.bootstrap} did not answer within 0.5 s.*kafka.bootstrap"):
        admin.check(timeout=0.5)
    assert time.monotonic() - began < 5
    admin.close()


def test_a_consumer_whose_brokers_are_all_down_says_so(nowhere: KafkaSettings) -> None:
    consumer = KafkaConsumer(nowhere, group="g")
    consumer.subscribe(["t"], starts=lambda _assigned: {}, revoked=lambda _revoked: None)

    def read_on() -> None:
        for _ in range(100):
            consumer.poll(1, 0.1)

    with pytest.raises(BrokerUnavailable, match=nowhere.bootstrap):
        read_on()
    consumer.close()


def test_a_record_that_is_not_delivered_in_time_is_given_up_as_transient(nowhere: KafkaSettings) -> None:
    settings = KafkaSettings(bootstrap=nowhere.bootstrap, properties={"delivery.timeout.ms": 200})
    producer = KafkaProducer(settings)
    acks: list[Exception | None] = []
    producer.send(Outgoing(topic="t", value=b"v"), acks.append)
    assert producer.flush(10) == 0
    assert [type(ack) for ack in acks] == [BrokerUnavailable]
    producer.close()


def test_a_full_queue_is_transient(nowhere: KafkaSettings) -> None:
    settings = KafkaSettings(bootstrap=nowhere.bootstrap, properties={"queue.buffering.max.messages": 2})
    producer = KafkaProducer(settings)
    acks: list[Exception | None] = []
    for _ in range(2):
        producer.send(Outgoing(topic="t", value=b"v"), acks.append)
    with pytest.raises(BrokerUnavailable, match="queue is full, 2 records wait"):
        producer.send(Outgoing(topic="t", value=b"v"), acks.append)
    assert producer.flush(0) == 2
    producer.close()
    assert [type(ack) for ack in acks] == [BrokerUnavailable] * 2


def test_who_waits_for_acknowledgements_lets_no_record_linger(broker: EmbeddedBroker) -> None:
    broker.create_topics(["lingering"])
    producer = KafkaProducer(broker.settings({"linger.ms": 50_000, "delivery.timeout.ms": 60_000}))
    acks: list[Exception | None] = []
    for _ in range(3):
        producer.send(Outgoing(topic="lingering", value=b"v"), acks.append)
    assert producer.poll() == 0
    assert producer.poll(10) == 3
    assert acks == [None, None, None]
    producer.close()


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"no.such.property": 1}, "No such configuration property"),
        ({"group.protocol": "consumer", "session.timeout.ms": 6000}, "session.timeout.ms"),
        ({"security.protocol": "carrier-pigeon"}, "security.protocol"),
    ],
)
def test_a_property_that_librdkafka_refuses_is_a_config_error(properties: dict[str, str | int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KafkaConsumer(KafkaSettings(bootstrap="k:1", properties=properties), group="g")


def test_after_a_fatal_error_the_producer_goes_on_with_a_new_client(broker: EmbeddedBroker) -> None:
    broker.create_topics(["fatal"])
    producer = KafkaProducer(broker.settings())
    acks: list[Exception | None] = []
    before = producer._client
    producer._on_error(KafkaError(KafkaError._FATAL, "out of order", True))
    producer.poll()
    assert producer._client is not before

    producer.send(Outgoing(topic="fatal", value=b"v"), acks.append)
    assert producer.flush(10) == 0
    assert acks == [None]
    producer.close()


def test_a_client_refuses_to_work_in_a_forked_process(broker: EmbeddedBroker) -> None:
    producer = KafkaProducer(broker.settings())
    consumer = KafkaConsumer(broker.settings(), group=None)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        # Nothing of the parent's may be cleaned up, reported or waited for here.
        refused = [_refusal(producer.poll), _refusal(lambda: consumer.poll(1, 0))]
        said = [f"belongs to process {parent}" in text and "make it after the fork" in text for text in refused]
        os._exit(0 if all(said) else 1)
    assert os.waitpid(child, 0) == (child, 0)
    assert producer.poll() == 0
    producer.close()
    consumer.close()


def _refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except UsageError as error:
        return str(error)
    return ""


def test_preflight_names_the_topics_that_are_missing_and_creates_none(broker: EmbeddedBroker) -> None:
    broker.create_topics(["there"])
    admin = KafkaAdmin(broker.settings())
    admin.check(topics=["there"])
    for _ in range(2):
        with pytest.raises(ConfigError, match="no topic away, gone; create it with `segue topics create`"):
            admin.check(topics=["there", "gone", "away"])
    assert not admin.topic_exists("gone")
    assert admin.create([TopicSpec(name="made", partitions=4, replication=1)]) == ["made"]
    assert admin.create([TopicSpec(name="made", partitions=4, replication=1)]) == []
    assert admin.topics(["made", "gone"])["made"].partitions == EMBEDDED_PARTITIONS
    admin.close()


def test_a_question_does_not_wait_behind_a_fetch(broker: EmbeddedBroker) -> None:
    broker.create_topics(["idle"])
    consumer = KafkaConsumer(broker.settings({"fetch.wait.max.ms": 8000}), group=None)
    consumer.subscribe(["idle"], starts=lambda _assigned: {}, revoked=lambda _revoked: None)
    for _ in range(5):
        consumer.poll(1, 0.1)  # a fetch is under way now, and is held back for 8 s

    began = time.monotonic()
    assert set(consumer.end_offsets(["idle"]).values()) == {0}
    assert time.monotonic() - began < 2
    consumer.close()


def test_the_embedded_broker_says_when_it_is_not_running() -> None:
    broker = EmbeddedBroker()
    with pytest.raises(UsageError, match="not running"):
        _ = broker.bootstrap
    with broker:
        assert broker.bootstrap.startswith("127.0.0.1:")
    broker.stop()


def test_a_log_line_that_only_differs_in_numbers_is_not_repeated() -> None:
    repeats = Repeats()

    def line(text: str, created: float) -> bool:
        record = logging.LogRecord("segue.kafka", logging.ERROR, "", 0, text, (), None)
        record.created = created
        return repeats.filter(record)

    assert [
        line("failed after 1ms", 0),
        line("failed after 20ms", 1),
        line("other", 2),
        line("failed after 3ms", 31),
    ] == [
        True,
        False,
        True,
        True,
    ]


def test_a_consumer_whose_client_gave_up_for_good_goes_on_with_a_new_one_that_is_no_static_member(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = broker.settings()
    settings = KafkaSettings(bootstrap=plain.bootstrap, properties={**plain.properties, "group.instance.id": "me"})
    broker.create_topics(["renewed"])
    producer, consumer = KafkaProducer(settings), KafkaConsumer(settings, group="renewed")
    begun: list[Partition] = []
    revoked: list[Partition] = []

    def starts(assigned: Sequence[Partition]) -> Mapping[Partition, int]:
        begun.extend(assigned)
        return {}

    def read(value: bytes) -> None:
        producer.send(Outgoing(topic="renewed", key=b"k", value=value), lambda error: None)
        producer.flush(10)
        until = time.monotonic() + 60
        while not any(record.value == value for record in consumer.poll(10, 0.2).records):
            assert time.monotonic() < until

    try:
        consumer.subscribe(["renewed"], starts=starts, revoked=revoked.extend)
        read(b"before")
        assigned = consumer.assignment()
        made: list[dict[str, object]] = []

        def connect(config: dict[str, object], logger: logging.Logger) -> Consumer:
            made.append(config)
            return Consumer(config, logger=logger)

        monkeypatch.setattr(consumer_module, "_Consumer", connect)
        consumer._on_error(KafkaError(KafkaError._FATAL, "fenced", True))
        with pytest.raises(BrokerUnavailable, match="fenced"):
            consumer.poll(10, 0)
        read(b"after")
        assert "group.instance.id" not in made[0]
        assert consumer.assignment() == assigned == frozenset(revoked)
        assert sorted(begun) == sorted([*assigned, *assigned])
    finally:
        consumer.close()
        producer.close()
