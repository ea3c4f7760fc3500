"""While a person is waited for, the saga's own deadline stands still, and the first cause stays."""

from __future__ import annotations

import asyncio
from typing import Any

from segue.contract import hours, minutes
from segue.coordinator.projection import row_of
from segue.saga import Saga, saga
from segue.saga import events as e
from segue.saga.inputs import RetryStep
from segue.saga.replay import rebuild
from tests.unit.saga.kit import START, Order, Run, charge, payout, refund, ship

HOUR = 3_600_000_000


@saga("bound", deadline=hours(1))
async def bound(s: Saga, order: Order) -> str:
    await s.call(charge, order, compensate=refund, on_failure="park", timeout=minutes(5))
    await s.call(ship, order, timeout=hours(9))
    return "shipped"


def parked(definition: Any = bound) -> Run:
    run = Run(definition, evict=True)
    run.now += HOUR // 6
    run.reply("payments.charge", "failure", error="no_money")
    assert run.state.attention == "parked"
    return run


def row(run: Run) -> Any:
    return row_of(run.state, run.wake_at)


def test_a_parked_saga_is_not_undone_by_its_deadline_which_it_gets_back() -> None:
    run = parked()
    assert run.wake_at is None
    run.now += 5 * HOUR
    run.happen(RetryStep())
    assert run.state.deadline == START + 6 * HOUR
    run.reply("payments.charge")
    run.wake_until(lambda: run.state.stop)
    assert (run.now, run.state.error.code) == (START + 6 * HOUR, "deadline")


def test_the_row_keeps_the_promised_deadline_so_that_it_shows_as_overdue() -> None:
    run = parked()
    run.now += 5 * HOUR
    run.happen(RetryStep())
    assert row(run).deadline_at.timestamp() * 1_000_000 == START + HOUR


def test_a_saga_that_says_so_is_undone_at_its_deadline_and_keeps_its_first_cause() -> None:
    @saga("bound", deadline=hours(1), deadline_waits=False)
    async def strict(s: Saga, order: Order) -> str:
        await s.call(ship, order)
        await s.call(charge, order, compensate=refund, on_failure="park")
        return "paid"

    run = Run(strict, evict=True)
    run.reply("shipping.ship")
    run.reply("payments.charge", "failure", error="no_money")
    run.wake()
    assert (run.now, run.state.stop.cause, run.status) == (START + HOUR, "deadline", "failed")
    assert row(run).error_code == "no_money"


def test_a_cancel_acts_at_once_and_the_first_cause_stays() -> None:
    run = parked()
    run.cancel()
    assert (run.status, row(run).error_code) == ("cancelled", "no_money")


def test_the_errors_of_an_undo_have_a_place_of_their_own() -> None:
    @saga("o")
    async def o(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        await s.call(payout, order)

    run = Run(o)
    run.reply("payments.charge")
    run.reply("bank.payout", "failure", error="no_account")
    run.reply("payments.charge", "failure", undo=True, error="frozen", message="ask the bank")
    shown = row(run)
    assert (shown.attention, shown.error_code) == ("deferred", "no_account")
    assert (shown.undo_error_code, shown.undo_error_message) == ("frozen", "ask the bank")
    run.happen(RetryStep())
    run.undone("payments.charge")
    assert (row(run).status, row(run).error_code, row(run).undo_error_code) == ("compensated", "no_account", None)


def test_two_waits_at_a_time_count_once_and_with_the_time_in_which_the_code_was_blocked() -> None:
    @saga("two", deadline=hours(1))
    async def two(s: Saga, order: Order) -> None:
        await asyncio.gather(
            s.call(charge, order, compensate=refund, on_failure="park", timeout=hours(9)),
            s.call(payout, order, on_failure="park", timeout=hours(9)),
            s.call(ship, order, timeout=hours(9)),
        )

    run = Run(two)
    run.reply("payments.charge", "failure", error="no_money")
    run.now += HOUR
    run.reply("bank.payout", "failure", error="no_account")
    run.now += HOUR
    run.happen(RetryStep(step="payments.charge"))
    run.reply("shipping.ship", output={"wrong": 1})
    assert run.state.attention == "blocked"
    run.now += HOUR
    run.happen(RetryStep(step="bank.payout"))
    assert run.state.deadline == START + HOUR + 2 * HOUR
    run.now += HOUR
    run.instance = rebuild("s-1", run.rows, two, run.converter)
    run.happen(RetryStep())
    assert run.state.attention == "blocked"
    assert run.state.deadline == START + HOUR + 4 * HOUR


def test_what_was_written_before_deadlines_stood_still_gets_no_time_back() -> None:
    run = parked()
    run.rows.append((run.now + 5 * HOUR, e.encode_events([e.CommandSent(step="payments.charge", attempt=2, by="ann")])))
    run.instance = rebuild("s-1", run.rows, bound, run.converter)
    assert (run.state.deadline, run.state.waiting_since) == (START + HOUR, None)
