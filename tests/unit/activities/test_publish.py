"""A reply has no row of its own: it is on its way, or can be asked for again, until Kafka has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from segue.activities.outcome import Answered, reply_to
from segue.errors import BrokerUnavailable, RejectedRecord
from segue.topics.broker import Acked, Outgoing
from tests.unit.activities.kit import REPLIES, Service, command, memory_engine, refund


@pytest.fixture
def service() -> Iterator[Service]:
    engine = memory_engine()
    yield Service(engine)
    engine.dispose()


def intercept(service: Service, refuses: Callable[[Outgoing], Exception | None]) -> list[Outgoing]:
    """Let the producer refuse what the function has an error for; what it refused."""
    refused: list[Outgoing] = []
    producer: Any = service.producer
    real = producer.send

    def send(record: Outgoing, acked: Acked) -> None:
        error = refuses(record)
        if error is None:
            real(record, acked)
        else:
            refused.append(record)
            acked(error)

    producer.send = send
    return refused


def hold(service: Service) -> list[tuple[Outgoing, Acked]]:
    """Let the producer keep what it is given, unacknowledged."""
    held: list[tuple[Outgoing, Acked]] = []
    producer: Any = service.producer
    producer.send = lambda record, acked: held.append((record, acked))
    return held


def test_a_command_counts_as_done_once_its_reply_is_acknowledged(service: Service) -> None:
    held = hold(service)
    service.send(command())
    service.settle()
    assert (service.balance(), service.committed(), service.outbox_rows()) == (1, 0, 0)
    for _, acked in held:
        acked(None)
    service.settle(1)
    assert service.committed() == 1


def test_the_next_command_of_a_key_does_not_wait_for_the_acknowledgement(service: Service) -> None:
    held = hold(service)
    service.send(command(), command(activity=refund))
    service.settle()
    assert (service.balance(), service.bookings()) == (0, 2)
    held[1][1](None)
    service.settle(1)
    assert service.committed() == 0, "the first one's reply is still on its way"
    held[0][1](None)
    service.settle(1)
    assert service.committed() == 2


def test_a_reply_that_died_with_the_worker_is_sent_by_the_next_one_and_nothing_is_done_twice(service: Service) -> None:
    hold(service)
    service.send(command())
    service.settle()
    assert (service.balance(), service.outcomes()) == (1, [])
    service.die()
    service.settle()
    assert (service.bookings(), service.outcomes(), service.committed()) == (1, ["success"], 1)


def test_a_reply_whose_partition_has_moved_on_is_sent_by_whoever_has_it_now(service: Service) -> None:
    held = hold(service)
    service.send(*[command(f"o-{n}") for n in range(8)])
    service.settle()
    assert len(held) == 8
    first = service.loop
    service.connect()
    for _ in range(6):
        first.step()
        service.settle(1)
    moved = len(service.outcomes())
    assert 0 < moved < 8, "half of the partitions"
    assert service.committed() == moved
    assert service.bookings() == 8


def test_a_reply_that_the_broker_cannot_take_now_is_sent_again(service: Service) -> None:
    trouble = [BrokerUnavailable("away"), BrokerUnavailable("still away")]
    refused = intercept(service, lambda record: trouble.pop() if trouble else None)
    service.send(command())
    service.settle(2)
    assert (service.outcomes(), service.committed(), service.loop.busy) == ([], 0, True)
    service.settle(8)
    assert (len(refused), service.outcomes(), service.committed()) == (2, ["success"], 1)
    assert not service.loop.busy


def test_a_full_queue_is_no_loss(service: Service) -> None:
    producer: Any = service.producer
    real = producer.send

    def full(record: Outgoing, acked: Acked) -> None:
        producer.send = real
        raise BrokerUnavailable("queue full")

    producer.send = full
    service.send(command())
    service.settle(8)
    assert (service.outcomes(), service.committed()) == (["success"], 1)


def test_a_reply_that_kafka_refuses_for_good_becomes_a_failure_that_proves_nothing(service: Service) -> None:
    def too_large(record: Outgoing) -> Exception | None:
        return RejectedRecord("too large") if b"charge_id" in (record.value or b"") else None

    intercept(service, too_large)
    service.send(command(), command())
    service.settle()
    assert service.outcomes() == ["failure:reply_refused"] * 2
    assert [reply.effect for reply in service.replies()] == ["unknown"] * 2
    assert len({(record.value, record.headers) for record in service.wire()}) == 1
    assert (service.balance(), service.committed()) == (1, 2)
    service.send(command(activity=refund))
    service.settle()
    assert (service.balance(), service.outcomes()[-1]) == (0, "success")


def test_a_reply_that_can_be_sent_in_no_form_is_left_to_the_outbox(service: Service) -> None:
    refused = intercept(service, lambda record: RejectedRecord("no") if record.topic == REPLIES else None)
    service.send(command())
    service.settle(2)
    assert len({record.headers for record in refused}) == 2, "the relay tries on with the second"
    assert (service.outbox_rows(), service.committed()) == (1, 1)


def test_a_reply_topic_that_is_missing_holds_nobody_up_and_gets_its_replies_when_it_is_there(service: Service) -> None:
    service.send(command())
    service.broker._auto_create = False
    service.settle()
    assert (service.outbox_rows(), service.committed()) == (1, 1)
    service.broker.create_topic(REPLIES)
    service.settle(8, pace=2.0)
    assert (service.outbox_rows(), service.outcomes()) == (0, ["success"])


def test_an_outbox_that_cannot_take_a_reply_is_tried_again(service: Service) -> None:
    service.send(command())
    service.broker._auto_create = False
    dialect: Any = service.engine.dialect
    real, failures = dialect.do_execute, 2

    def execute(cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        nonlocal failures
        if "INTO outbox " in statement and failures:
            failures -= 1
            raise RuntimeError("disk full")
        real(cursor, statement, parameters, context)

    dialect.do_execute = execute
    service.settle(2)
    assert (service.outbox_rows(), service.committed()) == (0, 0)
    service.settle(12)
    dialect.do_execute = real
    assert (failures, service.outbox_rows(), service.committed()) == (0, 1, 1)


def test_a_reply_that_is_left_to_the_outbox_is_published_by_the_next_look_of_its_relay(service: Service) -> None:
    reply = reply_to(command(), Answered(outcome="success"), source="/payments", now=datetime.now(UTC))
    stored: list[BaseException | None] = []
    service.loop._shelve(reply, stored.append)
    service.settle(3)
    assert stored == [None]
    assert [record.headers for record in service.wire()] == [reply.outgoing().headers]
    assert service.outbox_rows() == 0
