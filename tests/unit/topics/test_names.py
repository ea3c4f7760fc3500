import dataclasses

import pytest

from segue.errors import ConfigError
from segue.topics.names import TopicNames


def test_the_defaults_are_those_of_the_wire_protocol() -> None:
    names = TopicNames(coordinator="orders")
    assert (names.replies, names.requests, names.dlq, names.events) == (
        "orders.replies",
        "orders.requests",
        "orders.dlq",
        "orders.events",
    )
    assert names.commands_of("payments") == "payments.commands"


def test_a_service_may_have_a_topic_that_follows_no_template() -> None:
    names = TopicNames(coordinator="orders", services={"mail": "legacy_mail-in"}, commands="{coordinator}.{service}.in")
    assert names.commands_of("mail") == "legacy_mail-in"
    assert names.commands_of("stock") == "orders.stock.in"


def test_a_copy_with_a_change_keeps_the_names_that_were_made() -> None:
    names = dataclasses.replace(TopicNames(coordinator="orders"), dlq="all.dead")
    assert (names.replies, names.dlq) == ("orders.replies", "all.dead")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"replies": "{service}.replies"},
            r"topics.replies is '\{service\}.replies'; the only placeholders .*\{coordinator\}",
        ),
        ({"dlq": "{coordinator"}, "topics.dlq is"),
        ({"dlq": "{}"}, "only placeholders"),
        ({"dlq": "{coordinator!r}"}, "only placeholders"),
        ({"events": "{coordinator:>300}"}, "only placeholders"),
        ({"requests": "a b"}, "topics.requests is 'a b'; a topic's name is"),
        ({"requests": ".."}, "topics.requests is '..'"),
        ({"requests": ""}, "topics.requests is ''"),
        ({"requests": "x" * 250}, "1 to 249"),
        ({"commands": "commands"}, r"must contain \{service\}"),
        ({"replies": "one", "requests": "one"}, "topics.requests and topics.replies are both 'one'"),
        ({"replies": "o.ne", "requests": "o_ne"}, "every role needs a topic of its own"),
        ({"services": {"mail": "orders.dlq"}}, "topics.services.mail and topics.dlq are both 'orders.dlq'"),
        ({"services": {"mail": "no/slash"}}, "topics.services.mail is 'no/slash'"),
        ({"coordinator": "a/b"}, "coordinator.name is 'a/b'"),
    ],
)
def test_names_that_can_not_be_are_refused_at_once(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TopicNames(**{"coordinator": "orders", **settings})  # type: ignore[arg-type]


def test_a_service_whose_topic_would_be_illegal_or_taken_is_refused() -> None:
    names = TopicNames(coordinator="orders", commands="{service}.replies")
    with pytest.raises(ConfigError, match="topic of coordinator 'orders'"):
        names.commands_of("orders")
    with pytest.raises(ConfigError, match="command topic of service 'a b'"):
        names.commands_of("a b")
