from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from segue.contract import Undo, hours, minutes
from segue.errors import InvalidPayload
from segue.saga import Saga, saga
from segue.testing import Given, SagaBlocked, SagaTestError, given
from tests.unit.testing.shop import (
    ORDER,
    Charged,
    Decision,
    Order,
    Shipped,
    bulk_ship,
    charge,
    confirm,
    credit_score,
    decision,
    fraud_score,
    order_saga,
    recall,
    refund,
    release,
    reserve,
    reviewed_order,
    ship,
    shipped_share,
)


def paid_and_reserved() -> Given[Order, Shipped]:
    return given(order_saga, ORDER).expect(charge, ORDER).reply(Charged("ch-1")).expect(reserve).reply(None)


# --- the examples of the documentation


def test_an_order_runs_through() -> None:
    (
        paid_and_reserved()
        .expect(ship, ORDER)
        .reply(Shipped("p-1"))
        .expect(confirm, Shipped("p-1"))
        .reply(None)
        .expect_completed(Shipped("p-1"))
    )


def test_a_silent_carrier_recalls_releases_and_refunds() -> None:
    (
        paid_and_reserved()
        .expect(ship)
        .silence()
        .expect_compensation(recall, release, refund)
        .expect_compensated(code="timeout")
    )


def test_a_refusing_carrier_releases_and_refunds_what_was_paid() -> None:
    (
        paid_and_reserved()
        .expect(ship)
        .reject("no_courier", "nobody is free")
        .expect(release)
        .reply(None)
        .expect(refund, Undo(ORDER, Charged("ch-1")))
        .reply(None)
        .expect_compensated(code="no_courier")
    )


def test_a_refused_payment_fails_without_any_undo() -> None:
    given(order_saga, ORDER).expect(charge).reject("no_funds").expect_failed(code="no_funds")


def test_a_busy_carrier_is_asked_three_times() -> None:
    conversation = paid_and_reserved()
    for attempt in (1, 2, 3):
        asked = conversation.expect(ship)
        assert asked.attempt == attempt
        conversation = asked.retry("busy")
    conversation.expect_compensation(release, refund).expect_compensated(code="busy")


def test_scores_may_come_in_any_order_and_a_decision_is_waited_for() -> None:
    (
        given(reviewed_order, ORDER)
        .expect_all(credit_score, fraud_score)
        .expect(credit_score)
        .reply(50)
        .expect(fraud_score)
        .reply(50)
        .expect(charge)
        .reply(Charged("ch-1"))
        .expect_receiving(decision)
        .signal(decision, Decision(False, "ann"))
        .expect_compensation(refund)
        .expect_compensated(code="declined")
    )


def test_nobody_decides_within_a_day() -> None:
    outcome = (
        given(reviewed_order, ORDER)
        .expect(fraud_score)
        .reply(50)
        .expect(credit_score)
        .reply(50)
        .expect(charge)
        .reply(Charged("ch-1"))
        .expect_compensation(refund)
        .expect_compensated(code="no_decision")
        .outcome
    )
    assert outcome.elapsed == hours(24)


def test_a_bulk_tells_its_share() -> None:
    (
        given(bulk_ship, [ORDER, ORDER])
        .expect_all(ship, ship)
        .expect(ship)
        .reply(Shipped("p-1"))
        .expect(ship)
        .reject("no_courier")
        .expect_attribute(shipped_share, 0.5)
        .expect_completed(1)
    )


# --- other answers


def test_pending_moves_the_deadline_and_the_answer_may_come_later() -> None:
    (
        paid_and_reserved()
        .expect(ship)
        .after(minutes(4))
        .pending({"done": 0.5})
        .wait(minutes(4))
        .expect(ship)
        .reply(Shipped("p-1"))
        .expect(confirm)
        .silence()
        .expect_completed()
    )


def test_an_effect_that_is_unknown_is_undone() -> None:
    given(order_saga, ORDER).expect(charge).retry("crashed", effect_unknown=True).expect(charge).reject(
        "no_funds"
    ).expect_compensation(refund).expect_compensated()


def test_a_late_answer_and_a_duplicate_change_nothing() -> None:
    conversation = paid_and_reserved().expect(ship).silence().expect(recall).reply(None)
    conversation.late(ship).reply(Shipped("p-late")).late(charge).reply(Charged("ch-1"))
    outcome = conversation.expect_compensation(release, refund).expect_compensated().outcome
    assert [ignored.reason for ignored in outcome.ignored] == ["duplicate", "duplicate"]


def test_a_compensation_that_is_refused_waits_for_a_person() -> None:
    (
        paid_and_reserved()
        .expect(ship)
        .reject("no_courier")
        .expect(release)
        .reject("locked")
        .expect(refund)
        .reply(None)
        .expect_deferred(release)
        .expect_deferred(reserve)
        .retry_step()
        .expect_compensation(release)
        .expect_compensated()
    )


def test_a_person_can_leave_a_compensation_undone() -> None:
    (
        given(order_saga, ORDER)
        .expect(charge)
        .reply(Charged("ch-1"))
        .expect(reserve)
        .silence()
        .cancel()
        .expect_compensation(release)  # whether anything was reserved is not known
        .expect(refund)
        .reject("bank_is_closed")
        .skip_step(charge)
        .expect_cancelled()
    )


def test_steps_after_the_pivot_are_parked_and_people_go_on() -> None:
    @saga("pivotal")
    async def pivotal(s: Saga, order: Order) -> str:
        await s.call(reserve, order, compensate=release)
        s.pivot()
        return (await s.call(ship, order)).parcel

    def parked() -> Given[Order, str]:
        return given(pivotal, ORDER).expect(reserve).reply(None).expect(ship).reject("no_courier").expect_parked(ship)

    parked().retry_step().expect(ship).reply(Shipped("p-2")).expect_completed("p-2")
    parked().resolve_step(ship, "success", Shipped("by hand")).expect_completed("by hand")
    silent = given(pivotal, ORDER).expect(reserve).reply(None).expect(ship).silence().expect_in_doubt(ship)
    silent.late(ship).reply(Shipped("p-late")).expect_completed("p-late")


def test_a_bug_blocks_the_saga() -> None:
    @saga("broken")
    async def broken(s: Saga, order: Order) -> None:
        await s.call(reserve, order, compensate=release)
        raise KeyError("missing")

    blocked = given(broken, ORDER).expect(reserve).reply(None).expect_blocked("KeyError")
    with pytest.raises(SagaBlocked, match=r"expected shipping\.ship, but the saga's code failed"):
        blocked.expect(ship)


# --- what is not as expected


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda c: c.expect(confirm), r"expected mail\.confirm, but unanswered are: shipping\.ship"),
        (lambda c: c.expect(ship, Order("o-2", "ann", ORDER.total)), r'expected .*"o-2".*, it got .*"o-1"'),
        (lambda c: c.expect(ship, "o-2"), r"shipping\.ship never gets 'o-2'"),
        (lambda c: c.expect_all(ship, confirm), r"expected all of mail\.confirm, shipping\.ship at the same time"),
        (lambda c: c.expect_completed(), r"has ended as completed, but unanswered are: shipping\.ship"),
        (lambda c: c.expect_parked(), r"expected that it is parked, but unanswered are: shipping\.ship"),
        (lambda c: c.expect_blocked(), r"expected a saga that is blocked"),
        (lambda c: c.expect_receiving(decision), r"expected that it waits for signal decision"),
        (lambda c: c.expect_attribute(shipped_share, 1.0), r"expected shipped_share=1.0, it is None"),
        (lambda c: c.late(confirm), r"mail\.confirm was never commanded"),
        (lambda c: c.expect(ship).reply("p-1"), r"shipping\.ship can't answer 'p-1'"),
        (lambda c: c.expect(ship).reject("x").expect_compensation(refund), r"unanswered are: stock\.release of"),
        (
            lambda c: c.expect(ship).reject("x").expect_compensation(release, refund).expect_completed(),
            r"expected completed, it is compensated",
        ),
        (
            lambda c: c.expect(ship).reject("x").expect_compensation(release, refund).expect_compensated("y"),
            r"expected the error y, it is x: shipping\.ship",
        ),
        (
            lambda c: c.expect(ship).reject("x").expect_compensation(release, refund, recall),
            r"expected shipping\.recall, but no command is out, the saga is compensated",
        ),
        (
            lambda c: c.expect(ship).reply(Shipped("a")).expect(confirm).reply(None).expect_completed(Shipped("b")),
            r"expected the result Shipped\(parcel='b'\), it is Shipped\(parcel='a'\)",
        ),
        (
            lambda c: c.expect(ship).reply(Shipped("a")).expect(confirm).reply(None).expect_failed(),
            r"expected failed, it is completed",
        ),
    ],
)
def test_what_is_not_as_expected_fails_and_shows_the_conversation(wrong: Callable[[Any], object], message: str) -> None:
    with pytest.raises(SagaTestError, match=message):
        wrong(paid_and_reserved())


def test_the_conversation_is_part_of_the_message() -> None:
    with pytest.raises(SagaTestError) as failed:
        paid_and_reserved().expect(ship).reject("no_courier").expect(recall)
    lines = str(failed.value).splitlines()
    assert lines[1] == "the conversation so far:"
    assert lines[2].split("  ")[-1].startswith("order v1 starts with")
    assert any("← shipping.ship answers failure no_courier" in line for line in lines)
    assert lines[-1].startswith("  now: compensating; no_courier: shipping.ship; waits for undo of stock.reserve")


def test_an_input_of_another_type_is_refused() -> None:
    with pytest.raises(InvalidPayload):
        given(order_saga, "o-1")  # type: ignore[misc] # as type checkers say
