"""The order saga, tested as its author would: no Kafka, no database, a clock that skips by itself."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from examples.orders.contracts import (
    Charged,
    Order,
    Shipped,
    charge,
    confirm,
    recall,
    refund,
    release,
    reserve,
    ship,
)
from examples.orders.sagas import SHIP_ATTEMPTS, order_saga
from segue.testing import SagaTest, given

ORDER = Order(id="o-1", account="ann", sku="flute-case", quantity=2, total=Decimal("19.80"), address="Elgar Road 1")
SHIPPED = Shipped(order_id="o-1", account="ann", tracking="T-1")


def test_an_order_is_paid_reserved_shipped_and_confirmed() -> None:
    t = SagaTest(order_saga)
    t.mock(charge, returns=Charged("ch-1"))
    t.mock(reserve, returns=None)
    t.mock(ship, returns=SHIPPED)
    t.mock(confirm, returns=None)
    outcome = t.run(ORDER)
    assert outcome.status == "completed"
    assert outcome.result == SHIPPED
    assert t.compensated == []


def test_an_order_that_cant_be_paid_leaves_nothing_to_compensate() -> None:
    given(order_saga, ORDER).expect(charge, ORDER).reject("insufficient_funds").expect_failed()


def test_an_order_that_cant_be_reserved_is_refunded() -> None:
    (
        given(order_saga, ORDER)
        .expect(charge, ORDER)
        .reply(Charged("ch-1"))
        .expect(reserve, ORDER)
        .reject("sold_out")
        .expect_compensation(refund)
        .expect_compensated()
    )


def test_an_order_that_nobody_ships_is_released_and_refunded_in_this_order() -> None:
    (
        given(order_saga, ORDER)
        .expect(charge, ORDER)
        .reply(Charged("ch-1"))
        .expect(reserve, ORDER)
        .reply(None)
        .expect(ship, ORDER)
        .reject("no_courier")
        .expect_compensation(release, refund)
        .expect_compensated()
    )


def test_a_silent_carrier_recalls_releases_and_refunds() -> None:
    (
        given(order_saga, ORDER)
        .expect(charge, ORDER)
        .reply(Charged("ch-1"))
        .expect(reserve, ORDER)
        .reply(None)
        .expect(ship, ORDER)
        .silence()
        .expect_compensation(recall, release, refund)
        .expect_compensated()
    )


def test_shipping_is_tried_three_times_one_and_two_seconds_apart() -> None:
    t = SagaTest(order_saga)
    t.mock(charge, returns=Charged("ch-1"))
    t.mock(reserve, returns=None)
    tries: list[str] = []

    def nobody_there(order: Order) -> Shipped:
        tries.append(order.id)
        raise ConnectionError("the carrier does not answer")

    t.mock(ship, nobody_there)
    outcome = t.run(ORDER)
    assert len(tries) == SHIP_ATTEMPTS == 3
    assert outcome.status == "compensated"
    assert t.compensated == [release, refund]
    pause = timedelta(seconds=1 + 2)
    assert pause * 0.9 <= outcome.elapsed <= pause * 1.1 + timedelta(seconds=1)


def test_a_mail_that_bounces_does_not_stop_an_order() -> None:
    (
        given(order_saga, ORDER)
        .expect(charge, ORDER)
        .reply(Charged("ch-1"))
        .expect(reserve, ORDER)
        .reply(None)
        .expect(ship, ORDER)
        .reply(SHIPPED)
        .expect(confirm, SHIPPED)
        .reject("mailbox_full")
        .expect_completed(SHIPPED)
    )
