from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest

from segue.activities import Rejected, RetryLater
from segue.contract import Undo, days, hours, minutes
from segue.saga import ActivityRejected, ActivityTimeout, Retry, Saga, saga
from segue.testing import SILENCE, NeverEnds, NondeterministicSaga, NotMocked, SagaBlocked, SagaTest, SagaTestError
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


def order_test() -> SagaTest[Order, Shipped]:
    t = SagaTest(order_saga)
    t.mock(charge, lambda order: Charged(f"ch-{order.id}"))
    t.mock(reserve, returns=None)
    t.mock(ship, returns=Shipped("p-1"))
    t.mock(confirm, returns=None)
    return t


# --- the examples of the documentation


def test_an_order_nobody_decides_on_within_a_day_is_refunded() -> None:
    t = SagaTest(reviewed_order)
    t.mock(fraud_score, returns=60)
    t.mock(credit_score, returns=40)
    t.mock(charge, lambda order: Charged(f"ch-{order.id}"))
    outcome = t.run(ORDER)
    assert outcome.status == "compensated"
    assert outcome.elapsed >= hours(24)
    assert outcome.error is not None
    assert outcome.error.code == "no_decision"
    assert t.compensated == [refund]


def test_an_approved_order_is_shipped_when_the_decision_comes() -> None:
    t = SagaTest(reviewed_order)
    t.mock(fraud_score, returns=60)
    t.mock(credit_score, returns=40)
    t.mock(charge, returns=Charged("ch-1"))
    t.mock(ship, returns=Shipped("p-1"), delay=minutes(2))
    t.signal(decision, Decision(True, "ann"), after=hours(3))
    outcome = t.run(ORDER)
    assert outcome.result == Shipped("p-1")
    assert outcome.elapsed == hours(3) + minutes(2)
    assert t.compensated == []


def test_orders_that_can_be_shipped_are_shipped_and_the_share_is_told() -> None:
    def carrier(order: Order) -> Shipped:
        if order.id == "o-2":
            raise Rejected("no_courier", "nobody goes there")
        return Shipped(f"p-{order.id}")

    t = SagaTest(bulk_ship)
    t.mock(ship, carrier)
    outcome = t.run([Order(f"o-{n}", "ann", Decimal(1)) for n in range(4)])
    assert outcome.result == 3
    assert outcome.query(shipped_share) == 0.75
    assert [order.id for order in t.inputs(ship)] == ["o-0", "o-1", "o-2", "o-3"]


def test_an_order_runs_through_and_tells_what_was_called() -> None:
    t = order_test()
    outcome = t.run(ORDER)
    assert outcome.status == "completed"
    assert outcome.result == Shipped("p-1")
    assert t.called == [charge, reserve, ship, confirm]
    assert [event.type for event in outcome.history][:2] == ["Started", "StepScheduled"]
    assert outcome.history[-1].payload == {"status": "completed"}


# --- how mocks answer


def test_a_refusal_undoes_in_reverse_and_the_undo_gets_input_and_output() -> None:
    t = order_test()
    t.mock(ship, raises=ActivityRejected("no_courier", "nobody is free"))
    outcome = t.run(ORDER)
    assert outcome.status == "compensated"
    assert t.compensated == [release, refund]
    assert t.inputs(refund) == [Undo(ORDER, Charged("ch-o-1"))]
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.class_name) == ("no_courier", "ActivityRejected")


def test_side_effects_answer_one_attempt_after_the_other() -> None:
    t = order_test()
    t.mock(ship, side_effects=[ConnectionError("down"), RetryLater(minutes(1)), Shipped("p-3")])
    outcome = t.run(ORDER)
    assert outcome.result == Shipped("p-3")
    assert outcome.elapsed > minutes(1)
    assert len(t.inputs(ship)) == 3
    assert t.called.count(ship) == 1


def test_side_effects_that_are_used_up_fail_the_test_by_name() -> None:
    t = order_test()
    t.mock(ship, side_effects=[TimeoutError])
    with pytest.raises(NotMocked, match=r"shipping\.ship is called 2 times"):
        t.run(ORDER)


def test_a_retry_without_end_spends_the_attempts() -> None:
    t = order_test()
    t.mock(ship, retry="busy")
    outcome = t.run(ORDER)
    assert len(t.inputs(ship)) == 3
    assert outcome.error is not None
    assert outcome.error.code == "busy"


@pytest.mark.parametrize(
    "silence", [lambda t: t.mock(ship, silent=True), lambda t: t.mock(ship, raises=ActivityTimeout("silent"))]
)
def test_a_silent_activity_is_undone_too(silence: Callable[[SagaTest[Order, Shipped]], None]) -> None:
    t = order_test()
    silence(t)
    outcome = t.run(ORDER)
    assert outcome.status == "compensated"
    assert outcome.elapsed == minutes(5)
    assert t.compensated == [recall, release, refund]
    assert t.inputs(recall) == [Undo(ORDER, None)]
    assert len(t.inputs(ship)) == 1


def test_an_answer_after_the_timeout_comes_before_its_undo_and_changes_nothing_else() -> None:
    t = order_test()
    t.mock(ship, returns=Shipped("p-late"), delay=minutes(6))
    t.mock(refund, lambda undo: None, delay=minutes(3))
    outcome = t.run(ORDER)
    assert outcome.status == "compensated"
    assert outcome.elapsed == minutes(6 + 3), "the undo has the key of what it undoes, and waits till that is done"
    assert t.compensated == [recall, release, refund]


def test_an_answer_exactly_at_the_timeout_counts() -> None:
    t = order_test()
    t.mock(charge, returns=Charged("ch-1"), delay=minutes(5))
    assert t.run(ORDER).status == "completed"


def test_compensations_can_be_mocked_and_a_refused_one_is_deferred_until_a_person_retries() -> None:
    t = order_test()
    t.mock(ship, raises=ActivityRejected("no_courier"))
    t.mock(release, side_effects=[ActivityRejected("locked"), None])
    stuck = t.run(ORDER)
    assert (stuck.status, stuck.attention) == ("compensating", "deferred")
    assert stuck.waiting_for == ("undo of stock.reserve (deferred)",)
    assert t.compensated == [refund]
    t.retry_step(after=hours(1))
    outcome = t.run(ORDER)
    assert outcome.status == "compensated"
    assert t.compensated == [refund, release]


def test_an_async_function_answers_also_inside_a_running_loop() -> None:
    async def book(order: Order) -> Charged:
        await asyncio.sleep(0)
        return Charged(order.account)

    t = order_test()
    t.mock(charge, book)
    assert t.run(ORDER).status == "completed"

    async def inside() -> str:
        return t.run(ORDER).status

    assert asyncio.run(inside()) == "completed"


def test_an_activity_that_is_not_mocked_fails_the_test_by_name_and_shows_the_conversation() -> None:
    t = SagaTest(order_saga)
    t.mock(charge, returns=Charged("ch-1"))
    with pytest.raises(NotMocked) as failed:
        t.run(ORDER)
    assert str(failed.value).startswith("stock.reserve is not mocked")
    assert "← payments.charge answers success" in str(failed.value)


def test_an_assertion_in_a_mock_fails_the_test() -> None:
    def never(order: Order) -> Charged:
        raise AssertionError(f"{order.id} must not be charged")

    t = order_test()
    t.mock(charge, never)
    with pytest.raises(AssertionError, match="o-1 must not be charged"):
        t.run(ORDER)


def test_an_output_of_another_type_fails_the_test() -> None:
    t = order_test()
    with pytest.raises(SagaTestError, match=r"payments\.charge can't answer"):
        t.mock(charge, returns="ch-1")  # type: ignore[misc] # as type checkers say
    t.mock(charge, lambda order: Shipped("p"))  # type: ignore[arg-type] # as type checkers say
    with pytest.raises(SagaTestError, match=r"expected Charged, found Shipped"):
        t.run(ORDER)


def test_a_mock_needs_exactly_one_way_to_answer() -> None:
    t = order_test()
    with pytest.raises(TypeError, match=r"mock payments\.charge: give a function or one of"):
        t.mock(charge)  # type: ignore[call-overload] # as type checkers say
    with pytest.raises(TypeError, match="give a function or one of"):
        t.mock(charge, returns=Charged("a"), retry="busy")  # type: ignore[call-overload] # as type checkers say


# --- people, time, and what goes wrong


def test_a_cancelled_order_is_undone() -> None:
    t = order_test()
    t.mock(ship, silent=True)
    t.cancel(after=minutes(1))
    outcome = t.run(ORDER)
    assert outcome.status == "cancelled"
    assert outcome.elapsed == minutes(1)
    assert t.compensated == [recall, release, refund]


def test_a_run_can_stop_in_the_middle_to_look() -> None:
    t = order_test()
    t.mock(ship, side_effects=[SILENCE])
    outcome = t.run(ORDER, until=minutes(2))
    assert outcome.status == "running"
    assert outcome.waiting_for == ("shipping.ship (issued)",)
    with pytest.raises(SagaTestError, match="the saga has no result, it is running"):
        _ = outcome.result


def test_a_saga_that_waits_for_a_signal_that_never_comes_is_shown_as_waiting() -> None:
    @saga("patient")
    async def patient(s: Saga, order: Order) -> Decision:
        return await s.receive(decision)

    outcome = SagaTest(patient).run(ORDER)
    assert (outcome.status, outcome.waiting_for) == ("running", ("signal decision",))


def test_people_decide_what_becomes_of_a_parked_step() -> None:
    @saga("careful")
    async def careful(s: Saga, order: Order) -> Charged:
        return await s.call(charge, order, compensate=refund, on_failure="park")

    t = SagaTest(careful)
    t.mock(charge, raises=ActivityRejected("no_funds"))
    assert t.run(ORDER).attention == "parked"
    t.resolve_step(charge, "success", output=Charged("by-hand"), after=days(1))
    assert t.run(ORDER).result == Charged("by-hand")

    t = SagaTest(careful)
    t.mock(charge, raises=ActivityRejected("no_funds"))
    t.skip_step("payments.charge", after=days(1))
    assert t.run(ORDER, may_block=True).error is not None  # no Charged to return


def test_a_bug_in_the_saga_fails_the_test_unless_it_may_block() -> None:
    @saga("buggy")
    async def buggy(s: Saga, order: Order) -> None:
        await s.call(reserve, order, compensate=release)
        raise KeyError("missing")

    t = SagaTest(buggy)
    t.mock(reserve, returns=None)
    with pytest.raises(SagaBlocked, match="KeyError: 'missing'"):
        t.run(ORDER)
    outcome = t.run(ORDER, may_block=True)
    assert (outcome.status, outcome.attention) == ("running", "blocked")
    assert repr(outcome).startswith("Outcome(status='running', attention='blocked', error=\"KeyError: 'missing'")


def test_code_that_draws_other_ids_at_each_replay_fails_the_test_with_the_difference() -> None:
    @saga("random-id")
    async def random_id(s: Saga, order: Order) -> None:
        await s.call(reserve, Order(str(uuid.uuid4()), order.account, order.total))

    t = SagaTest(random_id)
    t.mock(reserve, returns=None)
    with pytest.raises(NondeterministicSaga, match=r"stock\.reserve: the history has input=.*asks for input="):
        t.run(ORDER)


def test_code_that_takes_another_way_at_a_replay_fails_the_test_with_the_difference() -> None:
    ways = random.Random(1)

    @saga("random-way")
    async def random_way(s: Saga, order: Order) -> None:
        for _ in range(20):
            await s.call(charge if ways.random() < 0.5 else ship, order)

    t = SagaTest(random_way)
    t.mock(charge, returns=Charged("c"))
    t.mock(ship, returns=Shipped("s"))
    with pytest.raises(NondeterministicSaga, match=r"history has StepScheduled .*the code asks for StepScheduled"):
        t.run(ORDER)


def test_sagas_that_never_end_are_stopped() -> None:
    @saga("for-ever")
    async def for_ever(s: Saga, order: Order) -> None:
        for _ in range(1000):
            await asyncio.sleep(days(400).total_seconds())

    with pytest.raises(NeverEnds, match="3660 days of virtual time"):
        SagaTest(for_ever).run(ORDER)


def test_time_ids_and_random_numbers_of_the_saga_are_the_same_in_every_run() -> None:
    @saga("drawing")
    async def drawing(s: Saga, order: Order) -> tuple[str, str, float]:
        await asyncio.sleep(60)
        return str(s.now()), str(s.uuid()), s.random.random()

    first, again = SagaTest(drawing).run(ORDER).result, SagaTest(drawing).run(ORDER).result
    assert first == again
    assert first[0] == "2023-11-14 22:14:20+00:00"
    assert SagaTest(drawing, id="saga-2").run(ORDER).result[1:] != first[1:]


def test_each_run_begins_anew() -> None:
    t = order_test()
    t.mock(ship, side_effects=[ConnectionError, Shipped("p-2")])
    assert t.run(ORDER).result == t.run(ORDER).result == Shipped("p-2")
    assert t.called == [charge, reserve, ship, confirm]


def test_a_large_map_is_no_problem() -> None:
    t = SagaTest(bulk_ship)
    t.mock(ship, lambda order: Shipped(order.id))
    assert t.run([Order(str(n), "ann", Decimal(1)) for n in range(400)]).result == 400


def test_a_test_that_was_not_run_has_nothing_to_tell() -> None:
    with pytest.raises(SagaTestError, match="was not run yet"):
        _ = SagaTest(order_saga).called


def test_retries_wait_as_the_policy_says() -> None:
    @saga("slow-retry")
    async def slow_retry(s: Saga, order: Order) -> None:
        policy = Retry(attempts=3, initial=hours(1), maximum=hours(2), jitter=0)
        await s.call(reserve, order, retry=policy, timeout=days(1))

    t = SagaTest(slow_retry)
    t.mock(reserve, side_effects=[ConnectionError, ConnectionError, None])
    assert t.run(ORDER).elapsed == timedelta(hours=3)
