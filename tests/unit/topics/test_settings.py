import pytest

from segue.errors import ConfigError
from segue.topics.settings import KafkaSettings


def test_the_defaults_are_those_of_the_wire_protocol() -> None:
    settings = KafkaSettings(bootstrap="k:9092")
    consumer, producer = settings.consumer("g"), settings.producer()
    assert {
        name: consumer[name] for name in ("enable.auto.commit", "enable.auto.offset.store", "auto.offset.reset")
    } == {
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
    }
    assert consumer["isolation.level"] == "read_committed"
    assert consumer["partition.assignment.strategy"] == "cooperative-sticky"
    assert (consumer["group.id"], consumer["enable.partition.eof"]) == ("g", True)
    assert (producer["partitioner"], producer["acks"], producer["enable.idempotence"]) == (
        "murmur2_random",
        "all",
        True,
    )
    assert {config["bootstrap.servers"] for config in (consumer, producer, settings.admin())} == {"k:9092"}
    assert settings.delivery_timeout == 5.0


def test_a_reader_fetches_ahead_little_more_than_a_batch_and_soon_looks_again() -> None:
    consumer = KafkaSettings(bootstrap="k:9092").consumer("g")
    assert (consumer["queued.min.messages"], consumer["fetch.queue.backoff.ms"]) == (1000, 10)
    more = KafkaSettings(bootstrap="k:9092", properties={"queued.min.messages": 100_000, "fetch.queue.backoff.ms": 1})
    assert more.consumer("g")["queued.min.messages"] == 100_000
    assert {"queued.min.messages", "fetch.queue.backoff.ms"}.isdisjoint(more.producer() | more.admin())


def test_given_properties_win_and_reach_only_the_clients_that_know_them() -> None:
    settings = KafkaSettings(
        bootstrap="k:9092",
        properties={
            "security.protocol": "SASL_SSL",
            "fetch.wait.max.ms": 7,
            "enable.idempotence": False,
            "message.timeout.ms": 9000,
        },
    )
    assert settings.consumer(None)["fetch.wait.max.ms"] == 7
    assert "enable.idempotence" not in settings.consumer(None)
    assert settings.producer()["enable.idempotence"] is False
    assert settings.producer()["delivery.timeout.ms"] == 9000
    assert settings.delivery_timeout == 9.0
    assert settings.admin()["security.protocol"] == "SASL_SSL"
    assert "fetch.wait.max.ms" not in settings.admin()


def test_the_new_group_protocol_gets_no_property_that_it_refuses() -> None:
    settings = KafkaSettings(bootstrap="k:9092", properties={"group.protocol": "consumer"})
    assert "partition.assignment.strategy" not in settings.consumer("g")


@pytest.mark.parametrize(
    ("bootstrap", "properties", "message"),
    [
        ("", {}, "kafka.bootstrap is ''"),
        ("k:1", {"auto.offset.reset": "latest"}, "auto.offset.reset = 'latest' can't be set: Segue starts at"),
        ("k:1", {"group.id": "x"}, "group.id"),
        ("k:1", {"linger.ms": [1]}, "linger.ms is .1.; allowed are text, numbers"),
        ("k:1", {"partition.assignment.strategy": "range"}, "'range'; allowed is 'cooperative-sticky'"),
    ],
)
def test_a_property_that_would_break_a_promise_is_refused(
    bootstrap: str, properties: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        KafkaSettings(bootstrap=bootstrap, properties=properties)
