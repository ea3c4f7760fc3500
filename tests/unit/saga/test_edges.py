"""Rare meetings of a person, time and answers, each at the edge of a rule."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from segue.contract import hours, minutes
from segue.saga import ActivityError, Retry, Saga, saga
from segue.saga import events as e
from segue.saga.effects import Ignored
from segue.saga.inputs import RetryStep
from segue.saga.replay import rebuild
from tests.unit.saga.kit import Order, Run, charge, payout, raw, recall, refund, release, reserve, ship

# --- a person's retry with another input


@saga("pays")
async def pays(s: Saga, order: Order) -> None:
    await s.call(payout, order, timeout=minutes(1))


def in_doubt() -> Run:
    run = Run(pays)
    run.wake_until(lambda: run.state.troubled)
    return run


def test_an_edited_input_is_a_new_attempt_under_a_new_command_id(begin: Any) -> None:
    run = in_doubt()
    run.happen(RetryStep(step="bank.payout", edited=raw({"id": "o-2", "account": "bob", "total": "1"})))
    first, edited = run.sent[0], run.sent[-1]
    assert (edited.attempt, first.attempt) == (2, 1)
    assert edited.id != first.id
    assert b'"bob"' in edited.body
    run.reply("bank.payout", attempt=1)
    assert run.status == "completed"


def test_the_same_input_asks_for_the_same_command_again() -> None:
    run = in_doubt()
    run.happen(RetryStep(step="bank.payout"))
    assert run.sent[-1].id == run.sent[0].id


def test_no_edited_input_is_tried_for_a_saga_that_is_being_undone() -> None:
    @saga("o")
    async def o(s: Saga, order: Order) -> None:
        paying = asyncio.create_task(s.call(payout, order, timeout=minutes(1)))
        await s.call(charge, order, compensate=refund, timeout=hours(1))
        await paying

    run = Run(o)
    run.wake_until(lambda: run.state.troubled)
    run.cancel()
    ignored = run.happen(RetryStep(step="bank.payout", edited=raw({"id": "o-2"})))
    message = "nothing new is tried for a saga that is being undone: bank.payout"
    assert ignored == Ignored("not_allowed", message)


# --- cancel back to a step


@saga("parallel")
async def parallel(s: Saga, order: Order) -> None:
    slow = asyncio.create_task(s.call(charge, order, compensate=refund, timeout=hours(1)))
    await asyncio.sleep(0)
    await s.call(reserve, order, compensate=release)
    await s.call(ship, order, compensate=recall, timeout=hours(1))
    await slow


def test_back_to_a_step_undoes_what_was_still_under_way_when_that_step_was_done() -> None:
    run = Run(parallel)
    run.reply("stock.reserve")
    run.cancel("to:stock.reserve")
    assert sorted(run.undos) == ["payments.charge", "shipping.ship"]
    run.undone("shipping.ship")
    assert run.status == "compensating"
    run.undone("payments.charge")
    assert (run.status, run.state.steps["stock.reserve"].status) == ("cancelled", "succeeded")


def test_back_to_a_step_keeps_what_was_done_before_it() -> None:
    run = Run(parallel)
    run.reply("payments.charge")
    run.reply("stock.reserve")
    run.cancel("to:stock.reserve")
    assert run.undos == ["shipping.ship"]


def test_nobody_goes_back_to_a_step_that_is_not_done() -> None:
    run = Run(parallel)
    ignored = run.cancel("to:stock.reserve")
    message = "stock.reserve is issued: nothing can go back to what is not done"
    assert ignored == Ignored("not_allowed", message)


# --- what the code has given up is undone, whatever else is asked for


@pytest.mark.parametrize("compensate", ["none", "to:stock.reserve"])
def test_a_step_given_up_by_the_code_that_succeeds_late_is_undone_also_by_a_cancel_that_undoes_nothing_else(
    compensate: str,
) -> None:
    @saga("o")
    async def o(s: Saga, order: Order) -> None:
        charging = s.call(charge, order, compensate=refund, retry=Retry(initial=minutes(1)))
        try:
            async with asyncio.timeout(5):
                await asyncio.gather(charging, s.call(ship, order, compensate=recall))
        except TimeoutError:
            await s.call(reserve, order, compensate=release)
        await s.call(payout, order)

    run = Run(o)
    run.reply("payments.charge", "retry", error="busy")
    run.wake_until(lambda: run.undos)
    run.reply("stock.reserve")
    run.reply("bank.payout", "retry", error="busy")
    run.cancel(compensate)
    assert (run.status, run.undos) == ("compensating", ["shipping.ship"])
    run.reply("payments.charge")
    assert run.undos == ["shipping.ship", "payments.charge"]
    run.undone("shipping.ship")
    run.undone("payments.charge")
    assert run.status == "cancelled"


# --- old answers, old clocks


def test_a_refusal_of_an_older_attempt_of_an_undo_does_not_count() -> None:
    run = Run(parallel)
    run.reply("payments.charge")
    run.cancel()
    run.reply("payments.charge", "retry", undo=True, error="busy")
    run.wake_until(lambda: len(run.undos) > 4 or run.state.steps["payments.charge"].undo.attempt == 2)
    ignored = run.reply("payments.charge", "failure", undo=True, attempt=1, error="no")
    assert isinstance(ignored, Ignored)
    assert ignored.reason == "late"
    assert run.state.steps["payments.charge"].undo.status == "issued"


def test_a_clock_that_has_stepped_back_writes_no_transition_before_the_last_one() -> None:
    run = Run(parallel)
    run.now += 5_000_000
    run.reply("payments.charge")
    run.now -= 3_000_000
    run.reply("stock.reserve")
    times = [at for at, _ in run.rows]
    assert times == sorted(times)
    assert times[-1] == run.now + 3_000_000


# --- a map that fails


@saga("mapped")
async def mapped(s: Saga, order: Order) -> str:
    try:
        await s.map(reserve, [order] * 9, compensate=release, concurrency=2)
    except ActivityError:
        await s.call(charge, order, compensate=refund)
        return "fell back"
    return "all"


def test_a_map_that_fails_asks_for_no_further_item_and_gives_up_those_under_way() -> None:
    run = Run(mapped, evict=True)
    run.reply("stock.reserve[0]", "failure", error="none_left")
    assert run.commands == [
        "stock.reserve[0]",
        "stock.reserve[1]",
        "payments.charge",
        "undo stock.reserve[1]",
    ]
    run.reply("payments.charge")
    run.undone("stock.reserve[1]")
    assert run.status == "completed"


def test_a_run_from_before_goes_on_with_its_other_items_as_it_did() -> None:
    run = Run(mapped)
    at, payload = run.rows[0]
    started, *others = e.decode_events(payload)
    run.rows[0] = at, e.encode_events([msgspec.structs.replace(started, rules=0), *others])
    run.instance = rebuild("s-1", run.rows, mapped, run.converter)
    run.reply("stock.reserve[0]", "failure", error="none_left")
    assert run.commands[2:] == ["stock.reserve[2]", "payments.charge"]
    rebuild("s-1", run.rows, mapped, run.converter)
