"""kill -9 between every pair of boundaries: another process starts, and the effect is there once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update

from segue.activities import Rejected
from segue.outbox.schema import outbox_lane_table, outbox_relay_table
from tests.unit.activities.kit import Charged, Service, book, command, memory_engine, past, refund, survives_every_crash


@pytest.fixture
def make() -> Iterator[Callable[[], Service]]:
    engines = []

    def build() -> Service:
        engine = memory_engine()
        engines.append(engine)
        return Service(engine)

    yield build
    for engine in engines:
        engine.dispose()


def _relay_everything(service: Service) -> None:
    """What was not published from memory is old by now: the relay takes it."""
    with service.engine.begin() as connection:
        connection.execute(delete(outbox_relay_table))  # of the relays that were killed
        connection.execute(update(outbox_lane_table).values(leased_until=past(seconds=1)))
    service.die(relay_after=timedelta(0))
    service.settle(6)


def test_a_command_has_one_effect_and_one_reply_wherever_the_worker_is_killed(make: Callable[[], Service]) -> None:
    def play(service: Service) -> None:
        service.send(command())
        service.settle(4, pace=0.05)

    services = survives_every_crash(make, play)
    assert len(services) > 20
    for service in services:
        _relay_everything(service)
        assert service.balance() == 1
        assert service.bookings() == 1
        assert set(service.outcomes()) == {"success"}
        assert len({(record.value, record.headers) for record in service.wire()}) == 1
        assert service.outbox_rows() == 0
        assert service.committed() == 1


def test_a_rejection_is_answered_once_wherever_the_worker_is_killed(make: Callable[[], Service]) -> None:
    def broke(ctx: object, order: object) -> None:
        raise Rejected("insufficient_funds", "balance is 0")

    def play(service: Service) -> None:
        service.behaviour = broke  # type: ignore[assignment]
        service.send(command())
        service.settle(4, pace=0.05)

    for service in survives_every_crash(make, play):
        _relay_everything(service)
        assert service.bookings() == 0
        assert set(service.outcomes()) == {"failure:insufficient_funds"}
        assert len({record.headers for record in service.wire()}) == 1
        assert service.committed() == 1


def test_do_and_undo_cancel_out_wherever_the_worker_is_killed(make: Callable[[], Service]) -> None:
    def play(service: Service) -> None:
        service.send(command(), command(activity=refund), command(), command(activity=refund))
        service.settle(4, pace=0.05)

    for service in survives_every_crash(make, play):
        _relay_everything(service)
        assert service.balance() == 0
        assert service.bookings() == 2
        assert set(service.outcomes()) == {"success"}
        assert service.committed() == 4


def test_an_exception_of_the_handler_is_answered_wherever_the_worker_is_killed(make: Callable[[], Service]) -> None:
    def explode(ctx: object, order: object) -> None:
        raise KeyError("account")

    def play(service: Service) -> None:
        service.behaviour = explode  # type: ignore[assignment]
        service.send(command())
        service.settle(4, pace=0.05)

    for service in survives_every_crash(make, play):
        _relay_everything(service)
        assert service.bookings() == 0
        assert set(service.outcomes()) == {"retry:KeyError"}
        assert len({(record.value, record.headers) for record in service.wire()}) == 1


def test_an_undecodable_command_is_dead_lettered_and_answered_wherever_the_worker_is_killed(
    make: Callable[[], Service],
) -> None:
    def play(service: Service) -> None:
        service.send(command(), body=b"{no json")
        service.settle(4, pace=0.05)

    for service in survives_every_crash(make, play):
        _relay_everything(service)
        assert set(service.outcomes()) == {"failure:invalid_input"}
        assert len(service.broker.records("payments.dlq")) >= 1
        assert service.committed() == 1


def test_a_killed_worker_leaves_at_most_what_the_relay_finishes(make: Callable[[], Service]) -> None:
    service = make()
    service.producer.send = lambda record, acked: None  # type: ignore[method-assign]
    service.send(command())
    service.settle()
    assert (service.balance(), service.outbox_rows(), service.outcomes()) == (1, 1, [])
    service.die()
    service.settle()
    assert service.outcomes() == [], "the reply is young: whoever wrote it is publishing it"
    _relay_everything(service)
    assert service.outcomes() == ["success"]
    assert service.outbox_rows() == 0


def test_a_group_has_one_effect_and_one_reply_for_each_command_wherever_the_worker_is_killed(
    make: Callable[[], Service],
) -> None:
    orders = ["o-1", "o-2", "o-3"]

    def play(service: Service) -> None:
        service.send(command(), command("o-2"), command("o-3"), command())
        service.settle(4, pace=0.05)

    for service in survives_every_crash(make, play):
        _relay_everything(service)
        assert [service.balance(order) for order in orders] == [1, 1, 1]
        assert service.bookings() == 3
        assert set(service.outcomes()) == {"success"}
        assert len({(record.value, record.headers) for record in service.wire()}) == 3
        assert service.outbox_rows() == 0
        assert service.committed() == 4


def test_a_group_with_a_rejection_and_an_undo_ends_the_same_wherever_the_worker_is_killed(
    make: Callable[[], Service],
) -> None:
    def behave(ctx: Any, order: Any) -> Charged:
        charged = book(ctx, order)
        ctx.session.flush()
        if order.id == "o-2":
            raise Rejected("insufficient_funds")
        return charged

    def play(service: Service) -> None:
        service.behaviour = behave
        service.send(command(), command("o-2"), command(activity=refund), command("o-3"))
        service.settle(4, pace=0.05)

    for service in survives_every_crash(make, play):
        service.behaviour = behave
        _relay_everything(service)
        assert [service.balance(order) for order in ("o-1", "o-2", "o-3")] == [0, 0, 1]
        assert service.bookings() == 3
        assert {record.key for record in service.wire()} == {b"o-1", b"o-2", b"o-3"}
        assert service.outcomes().count("failure:insufficient_funds") >= 1
        assert service.committed() == 4
