"""kill -9 between every pair of boundaries: another process starts, and the effect is there once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from segue.activities import Rejected
from tests.unit.activities.kit import Charged, Service, book, command, memory_engine, refund, survives_every_crash


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


def test_a_command_has_one_effect_and_one_reply_wherever_the_worker_is_killed(make: Callable[[], Service]) -> None:
    def play(service: Service) -> None:
        service.send(command())
        service.settle(4, pace=0.05)

    services = survives_every_crash(make, play)
    assert len(services) > 20
    for service in services:
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
        assert service.bookings() == 0
        assert set(service.outcomes()) == {"failure:insufficient_funds"}
        assert len({record.headers for record in service.wire()}) == 1
        assert service.committed() == 1


def test_do_and_undo_cancel_out_wherever_the_worker_is_killed(make: Callable[[], Service]) -> None:
    def play(service: Service) -> None:
        service.send(command(), command(activity=refund), command(), command(activity=refund))
        service.settle(4, pace=0.05)

    for service in survives_every_crash(make, play):
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
        assert set(service.outcomes()) == {"retry:invalid_input"}
        assert len(service.broker.records("payments.dlq")) >= 1
        assert service.committed() == 1


def test_a_group_has_one_effect_and_one_reply_for_each_command_wherever_the_worker_is_killed(
    make: Callable[[], Service],
) -> None:
    orders = ["o-1", "o-2", "o-3"]

    def play(service: Service) -> None:
        service.send(command(), command("o-2"), command("o-3"), command())
        service.settle(4, pace=0.05)

    for service in survives_every_crash(make, play):
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
        assert [service.balance(order) for order in ("o-1", "o-2", "o-3")] == [0, 0, 1]
        assert service.bookings() == 3
        assert {record.key for record in service.wire()} == {b"o-1", b"o-2", b"o-3"}
        assert service.outcomes().count("failure:insufficient_funds") >= 1
        assert service.committed() == 4
