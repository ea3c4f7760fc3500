from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta

import pytest

from segue.topics.admin import TopicSpec, TopicState, as_shell, as_terraform, create, plan, verify
from segue.topics.deadletter import HEADER_BYTES
from segue.topics.memory import MemoryBroker
from segue.topics.names import TopicNames

NAMES = TopicNames(coordinator="orders")
DAY = timedelta(days=1)


def test_a_plan_has_every_topic_once_and_outlives_the_longest_deadline() -> None:
    specs = plan(NAMES, ["payments", "stock", "payments"], longest_deadline=20 * DAY, events=True)
    assert [spec.name for spec in specs] == [
        "payments.commands",
        "stock.commands",
        "orders.replies",
        "orders.requests",
        "orders.events",
        "payments.dlq",
        "stock.dlq",
        "orders.dlq",
    ]
    assert {spec.configs["cleanup.policy"] for spec in specs} == {"delete"}
    assert {int(spec.configs["retention.ms"]) for spec in specs} == {40 * 86_400_000}
    assert {spec.configs["min.insync.replicas"] for spec in plan(NAMES, [], replication=1)} == {"1"}


def test_what_was_planned_and_created_has_no_problems() -> None:
    broker = MemoryBroker(auto_create=False)
    specs = plan(NAMES, ["payments"], replication=1, longest_deadline=DAY)
    assert [problem.severity for problem in verify(broker, specs)] == ["error"] * 5
    assert create(broker, specs) == [spec.name for spec in specs]
    assert create(broker, specs) == []
    assert verify(broker, specs) == []


SPEC = TopicSpec(
    name="t",
    partitions=6,
    replication=2,
    configs={"retention.ms": str(10 * 86_400_000), "max.message.bytes": "300000"},
    keep=5 * DAY,
)
GOOD = TopicState(
    name="t",
    partitions=6,
    replication=2,
    configs={"retention.ms": str(10 * 86_400_000), "max.message.bytes": "300000", "cleanup.policy": "delete"},
)


class Fixed:
    """An admin port that tells of one topic."""

    def __init__(self, state: TopicState) -> None:
        self.state = state

    def topics(self, names: object) -> dict[str, TopicState]:
        return {self.state.name: self.state}

    def create(self, specs: object) -> list[str]:
        raise AssertionError("nothing is created while verifying")


@pytest.mark.parametrize(
    ("change", "severity", "text"),
    [
        ({"partitions": 3}, "warning", "topic t has 3 partitions where 6 are planned"),
        ({"replication": 1}, "warning", "topic t has 1 replicas where 2 are planned"),
        ({"cleanup.policy": "compact,delete"}, "error", "cleanup.policy=compact,delete.*set it to delete"),
        ({"retention.ms": "86400000"}, "error", "a saga may wait 5 days.*set retention.ms to 864000000 or more"),
        ({"retention.ms": str(6 * 86_400_000)}, "warning", "6 days.*where 10 days.*set retention.ms to 864000000"),
        ({"max.message.bytes": "1000"}, "error", "takes messages of 1000 bytes.*set max.message.bytes to 300000"),
    ],
)
def test_each_difference_is_a_sentence_that_says_what_to_do(
    change: dict[str, object], severity: str, text: str
) -> None:
    fields = {name: value for name, value in change.items() if "." not in name}
    configs = {**GOOD.configs, **{name: str(value) for name, value in change.items() if "." in name}}
    state = dataclasses.replace(GOOD, configs=configs, **fields)  # type: ignore[arg-type]
    [problem] = verify(Fixed(state), [SPEC])
    assert (problem.topic, problem.severity) == ("t", severity)
    assert re.search(text, problem.text)


def test_unlimited_retention_and_a_broker_that_tells_no_settings_are_fine() -> None:
    for configs in ({}, {"retention.ms": "-1"}):
        assert verify(Fixed(dataclasses.replace(GOOD, configs=configs)), [SPEC]) == []


def test_the_plan_can_be_given_to_other_tools() -> None:
    shell = as_shell([SPEC], "k:9092")
    assert shell == (
        "kafka-topics --bootstrap-server k:9092 --create --if-not-exists --topic t --partitions 6 "
        "--replication-factor 2 --config retention.ms=864000000 --config max.message.bytes=300000\n"
    )
    terraform = as_terraform([dataclasses.replace(SPEC, name="1.replies")])
    assert 'resource "kafka_topic" "_1_replies" {' in terraform
    assert '"retention.ms" = "864000000"' in terraform


def test_a_dead_letter_topic_is_planned_larger_than_what_it_must_hold() -> None:
    specs = {spec.name: spec for spec in plan(TopicNames(coordinator="shop"), ["payments"])}
    for dead, held in (("payments.dlq", ["payments.commands"]), ("shop.dlq", ["shop.replies", "shop.requests"])):
        assert list(specs[dead].holds) == held
        for name in held:
            largest = int(specs[name].configs["max.message.bytes"])
            assert int(specs[dead].configs["max.message.bytes"]) >= largest + HEADER_BYTES


def test_a_dead_letter_topic_that_is_too_small_for_the_largest_record_is_named() -> None:
    specs = [spec for spec in plan(TopicNames(coordinator="shop"), ["payments"]) if spec.name.startswith("payments")]
    states = {
        spec.name: TopicState(
            name=spec.name, partitions=12, replication=3, configs={**spec.configs, "max.message.bytes": "900000"}
        )
        for spec in specs
    }

    class Broker:
        def topics(self, names: Sequence[str]) -> Mapping[str, TopicState]:
            return states

        def create(self, specs: Sequence[TopicSpec]) -> Sequence[str]:
            return []

    [problem] = verify(Broker(), specs)
    assert problem.topic == "payments.dlq"
    assert "too few for the largest of payments.commands" in problem.text
