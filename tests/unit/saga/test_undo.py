"""The undo: its order, what it covers, what it never does after the pivot."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from segue.contract import hours
from segue.saga import Saga, SagaFailed, saga
from segue.saga import events as e
from segue.saga.inputs import ResolveStep, RetryStep
from tests.unit.saga.kit import (
    Order,
    charge,
    recall,
    refund,
    release,
    reserve,
    ship,
)
from tests.unit.saga.sagas import order_saga, to_shipping

# --- undo


def test_parallel_branches_are_undone_in_reverse_topological_order(begin: Any) -> None:
    @saga("parallel")
    async def parallel(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund, step="first")
        await asyncio.gather(
            s.call(reserve, order, compensate=release, step="left"),
            s.call(reserve, order, compensate=release, step="right"),
        )
        raise SagaFailed("no")

    run = begin(parallel)
    run.reply("first")
    run.reply("left")
    run.reply("right")
    assert sorted(run.undos) == ["left", "right"]
    run.undone("right")
    assert sorted(run.undos) == ["left", "right"]
    run.undone("left")
    assert run.undos[-1] == "first"
    run.undone("first")
    assert run.status == "compensated"


def test_a_command_in_flight_at_the_undo_is_compensated_at_once(begin: Any) -> None:
    @saga("parallel")
    async def parallel(s: Saga, order: Order) -> None:
        await asyncio.gather(s.call(charge, order, compensate=refund), s.call(reserve, order, compensate=release))

    run = begin(parallel)
    run.reply("payments.charge", "failure", error="no_funds")
    assert run.undos == ["stock.reserve"]
    run.undone("stock.reserve")
    assert run.status == "compensated"


def test_a_late_success_of_a_step_being_undone_is_recorded_and_changes_nothing_else(begin: Any) -> None:
    @saga("parallel")
    async def parallel(s: Saga, order: Order) -> None:
        await asyncio.gather(s.call(charge, order, compensate=refund), s.call(reserve, order, compensate=release))

    run = begin(parallel)
    run.reply("payments.charge", "failure", error="no_funds")
    run.reply("stock.reserve")
    assert run.state.steps["stock.reserve"].status == "succeeded"
    assert run.undos == ["stock.reserve"]
    run.undone("stock.reserve")
    assert run.status == "compensated"


def test_a_compensation_receives_the_input_and_the_output_of_its_step(begin: Any) -> None:
    run = begin(order_saga)
    run.reply("payments.charge")
    run.reply("stock.reserve", "failure", error="sold_out")
    body = run.sent[-1].body
    assert body == b'{"input":{"id":"o-1","account":"ann","total":"9.50"},"output":{"charge_id":"ch-1"}}'


def test_a_proof_of_no_effect_before_the_undo_is_sent_takes_the_step_out_of_the_undo(begin: Any) -> None:
    @saga("sequence")
    async def sequence(s: Saga, order: Order) -> None:
        first = asyncio.ensure_future(s.call(charge, order, compensate=refund, step="slow"))
        await asyncio.sleep(1)
        await s.call(reserve, order, compensate=release, step="later")
        await first

    run = begin(sequence)
    run.wake()
    run.reply("later")
    run.cancel()
    assert sorted(run.undos) == ["later", "slow"]


def test_a_spent_compensation_is_deferred_and_earlier_steps_are_still_undone(begin: Any) -> None:
    run = to_shipping(begin(order_saga))
    run.reply("shipping.ship", "failure", error="no_courier")
    run.reply("stock.reserve", "failure", undo=True, error="cant")
    assert run.state.attention == "deferred"
    assert run.undos == ["stock.reserve", "payments.charge"]
    run.undone("payments.charge")
    assert run.status == "compensating"
    run.happen(RetryStep(step="stock.reserve", actor="ann"))
    run.undone("stock.reserve")
    assert run.status == "compensated"


def test_a_deferred_compensation_can_be_edited_and_retried(begin: Any) -> None:
    run = to_shipping(begin(order_saga))
    run.reply("shipping.ship", "failure", error="no_courier")
    run.reply("stock.reserve", "failure", undo=True, error="cant")
    edited = msgspec.Raw(b'{"input":{"id":"o-2"},"output":null}')
    run.happen(RetryStep(step="stock.reserve", edited=edited, actor="ann"))
    assert run.sent[-1].body == bytes(edited)


def test_a_deferred_compensation_that_a_person_gives_up_ends_the_saga_as_failed(begin: Any) -> None:
    run = to_shipping(begin(order_saga))
    run.reply("shipping.ship", "failure", error="no_courier")
    run.reply("stock.reserve", "failure", undo=True, error="cant")
    run.undone("payments.charge")
    run.happen(ResolveStep(step="stock.reserve", outcome="failure", reason="written off", actor="ann"))
    assert run.status == "failed"


def test_a_compensation_is_retried_and_resent_like_a_step(begin: Any) -> None:
    run = begin(order_saga)
    run.reply("payments.charge")
    run.reply("stock.reserve", "failure", error="sold_out")
    run.reply("payments.charge", "retry", undo=True, error="busy")
    run.wake()
    run.wake()
    attempts = [(c.attempt, c.id) for c in run.sent if c.action == "compensate"]
    assert [a for a, _ in attempts] == [1, 2, 2]
    assert attempts[1] == attempts[2]


def test_cancel_with_compensate_none_leaves_everything_as_it_is(begin: Any) -> None:
    run = begin(order_saga)
    run.reply("payments.charge")
    run.cancel("none")
    assert run.undos == []
    assert run.status == "cancelled"


def test_cancel_to_a_step_undoes_only_what_came_after_it(begin: Any) -> None:
    run = to_shipping(begin(order_saga))
    run.reply("shipping.ship")
    run.cancel("to:payments.charge")
    assert run.undos == ["shipping.ship"]
    run.undone("shipping.ship")
    run.undone("stock.reserve")
    assert run.status == "cancelled"
    assert "payments.charge" not in run.undos


def test_cancel_undoes_everything_in_reverse(begin: Any) -> None:
    run = to_shipping(begin(order_saga))
    run.cancel()
    assert run.undos == ["shipping.ship"]
    run.undone("shipping.ship")
    run.undone("stock.reserve")
    run.undone("payments.charge")
    assert run.status == "cancelled"


def test_an_ended_saga_is_absorbing(begin: Any) -> None:
    run = begin(order_saga)
    run.reply("payments.charge", "failure", error="no_funds")
    assert run.status == "failed"
    assert run.reply("payments.charge").reason == "ended"
    assert run.cancel().reason == "ended"


# --- pivot


@saga("pivoting", deadline=hours(1))
async def pivoting(s: Saga, order: Order) -> None:
    await s.call(charge, order, compensate=refund)
    s.pivot()
    await s.call(ship, order, compensate=recall)


def test_after_the_pivot_a_rejected_step_parks_instead_of_compensating(begin: Any) -> None:
    run = begin(pivoting)
    run.reply("payments.charge")
    run.reply("shipping.ship", "failure", error="no_courier")
    assert run.state.attention == "parked"
    assert run.undos == []


def test_after_the_pivot_silence_goes_in_doubt(begin: Any) -> None:
    run = begin(pivoting)
    run.reply("payments.charge")
    run.wake_until(lambda: run.state.attention != "none")
    assert run.state.attention == "in_doubt"
    assert run.undos == []


def test_the_deadline_after_the_pivot_is_noted_and_nothing_is_undone(begin: Any) -> None:
    run = begin(pivoting)
    run.reply("payments.charge")
    run.wake(hours(2))
    assert run.events(e.DeadlineMissed)
    assert run.undos == []
    run.reply("shipping.ship")
    assert run.status == "completed"


def test_after_the_pivot_only_a_cancel_without_compensation_is_allowed(begin: Any) -> None:
    run = begin(pivoting)
    run.reply("payments.charge")
    assert run.cancel().reason == "not_allowed"
    run.cancel("none")
    assert run.status == "cancelled"


def test_a_failure_that_leaves_the_code_after_the_pivot_parks_the_saga(begin: Any) -> None:
    @saga("late")
    async def late(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        s.pivot()
        raise SagaFailed("too_late")

    run = begin(late)
    run.reply("payments.charge")
    assert run.state.attention == "parked"
    assert run.undos == []
    run.cancel("none")
    assert run.status == "cancelled"


def test_a_compensation_that_is_sent_again_has_the_same_bytes_even_if_the_output_is_known_by_then(begin: Any) -> None:
    run = begin(order_saga)
    run.cancel()
    run.reply("payments.charge")
    run.wake()
    first, again = [command for command in run.sent if command.action == "compensate"]
    assert (first.id, first.body) == (again.id, again.body)


def test_a_call_abandoned_before_the_pivot_is_undone_although_the_saga_is_past_it(begin: Any) -> None:
    @saga("late")
    async def late(s: Saga, order: Order) -> None:
        try:
            async with asyncio.timeout(5):
                await s.call(charge, order, compensate=refund)
        except TimeoutError:
            pass
        s.pivot()
        await s.call(reserve, order)

    run = begin(late)
    run.wake_until(lambda: run.state.pivot)
    assert run.undos == ["payments.charge"]
    run.reply("stock.reserve")
    run.undone("payments.charge")
    assert run.status == "completed"
