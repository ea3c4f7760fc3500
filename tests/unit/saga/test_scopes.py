"""Undoing a part of a saga inside its code: now, once, and the saga goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from segue.contract import hours, minutes
from segue.coordinator.projection import row_of
from segue.saga import Retry, Saga, SagaFailed, Undo, saga
from segue.saga import events as e
from segue.saga.inputs import RetryStep, SkipStep
from segue.saga.replay import rebuild
from tests.unit.saga.kit import Charged, Order, Run, charge, payout, recall, refund, release, reserve, ship


def result(run: Run) -> Any:
    return bytes(run.state.result or b"").decode()


def steps(run: Run) -> dict[str, tuple[str, str]]:
    return {name: (step.status, step.undo.status) for name, step in run.state.steps.items()}


# --- an undo is not called


@saga("calls")
async def calls(s: Saga, order: Order) -> None:
    charged = await s.call(charge, order, compensate=refund)
    await s.call(refund, Undo(order, charged))


def test_an_undo_that_is_called_is_refused_with_a_sentence_that_says_what_to_do() -> None:
    run = Run(calls)
    run.reply("payments.charge")
    assert run.state.attention == "blocked"
    assert "payments.refund undoes payments.charge" in run.state.blocked.message
    assert "await s.undo(…)" in run.state.blocked.message
    assert run.commands == ["payments.charge"]


def test_a_saga_from_before_goes_on_calling_it() -> None:
    run = Run(calls)
    at, payload = run.rows[0]
    started, *others = e.decode_events(payload)
    run.rows[0] = at, e.encode_events([msgspec.structs.replace(started, rules=0), *others])
    run.instance = rebuild("s-1", run.rows, calls, run.converter)
    run.reply("payments.charge")
    assert run.commands == ["payments.charge", "payments.refund"]


# --- one step


@saga("takes-back")
async def takes_back(s: Saga, order: Order) -> str:
    await s.call(charge, order, compensate=refund)
    await s.call(reserve, order, compensate=release)
    await s.undo(charge)
    await s.call(payout, order)
    return "paid out"


def test_a_step_is_undone_now_and_the_code_goes_on_when_it_is_undone(begin: Any) -> None:
    run = begin(takes_back)
    run.reply("payments.charge")
    run.reply("stock.reserve")
    assert run.commands == ["payments.charge", "stock.reserve", "undo payments.charge"]
    run.undone("payments.charge")
    run.reply("bank.payout")
    assert (run.status, result(run)) == ("completed", '"paid out"')


def test_what_was_undone_is_not_undone_again_when_the_saga_fails(begin: Any) -> None:
    run = begin(takes_back)
    run.reply("payments.charge")
    run.reply("stock.reserve")
    run.undone("payments.charge")
    run.reply("bank.payout", "failure", error="no_account")
    assert run.undos == ["payments.charge", "stock.reserve"]
    run.undone("stock.reserve")
    assert run.status == "compensated"


def test_a_saga_that_is_stopped_while_its_code_undoes_a_step_undoes_that_once(begin: Any) -> None:
    run = begin(takes_back)
    run.reply("payments.charge")
    run.reply("stock.reserve")
    run.cancel()
    assert run.undos == ["payments.charge", "stock.reserve"]
    run.undone("payments.charge")
    run.undone("stock.reserve")
    assert run.status == "cancelled"


def test_an_undo_that_is_spent_waits_for_a_person_and_so_does_the_code(begin: Any) -> None:
    run = begin(takes_back)
    run.reply("payments.charge")
    run.reply("stock.reserve")
    run.reply("payments.charge", "failure", undo=True, error="frozen")
    assert (run.state.attention, "bank.payout" in run.commands) == ("deferred", False)
    run.happen(RetryStep())
    assert run.undos == ["payments.charge", "payments.charge"]
    run.reply("payments.charge", "failure", undo=True, error="frozen")
    run.happen(SkipStep(step="payments.charge", reason="it stays"))
    assert run.commands[-1] == "bank.payout"


@pytest.mark.parametrize("name", ["payments.charge", "nothing"])
def test_a_step_that_can_not_be_undone_is_named(name: str) -> None:
    @saga("o")
    async def o(s: Saga, order: Order) -> None:
        await s.call(charge, order)
        await s.undo(name)

    run = Run(o)
    run.reply("payments.charge")
    assert f"no step {name!r} that has a compensation" in run.state.blocked.message


def test_of_several_calls_of_an_activity_the_step_has_to_be_named() -> None:
    @saga("o")
    async def o(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        await s.call(charge, order, compensate=refund)
        await s.undo("payments.charge#2")
        await s.call(charge, order, compensate=refund)
        await s.undo(charge)

    run = Run(o)
    run.reply("payments.charge")
    run.reply("payments.charge#2")
    assert run.undos == ["payments.charge#2"]
    run.undone("payments.charge#2")
    run.reply("payments.charge#3")
    assert "was called 2 times; name the step, as in s.undo('payments.charge#3')" in run.state.blocked.message


def test_nothing_is_undone_after_the_pivot() -> None:
    @saga("o")
    async def o(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        s.pivot()
        await s.undo(charge)

    run = Run(o)
    run.reply("payments.charge")
    assert "past its pivot" in run.state.blocked.message


# --- a scope


@saga("booking")
async def booking(s: Saga, order: Order) -> str:
    await s.call(payout, order)
    async with s.scope("booking") as part:
        await s.call(charge, order, compensate=refund)
        await asyncio.gather(
            s.call(reserve, order, compensate=release, timeout=hours(1)),
            s.call(ship, order, compensate=recall, retry=Retry(attempts=1)),
        )
    if part.undone:
        return f"without: {part.failure}"
    return "with"


def in_booking(begin: Any) -> Run:
    run: Run = begin(booking)
    run.reply("bank.payout")
    run.reply("payments.charge")
    return run


def test_a_failure_that_leaves_a_scope_undoes_what_was_done_in_it_in_reverse_and_the_saga_goes_on(begin: Any) -> None:
    run = in_booking(begin)
    run.reply("shipping.ship", "failure", error="no_courier")
    assert run.undos == ["stock.reserve"]
    run.undone("stock.reserve")
    assert run.undos == ["stock.reserve", "payments.charge"]
    run.undone("payments.charge")
    assert (run.status, result(run)) == ("completed", '"without: shipping.ship: no_courier"')


def test_a_scope_that_is_left_well_undoes_nothing(begin: Any) -> None:
    run = in_booking(begin)
    run.reply("shipping.ship")
    run.reply("stock.reserve")
    assert (run.status, result(run), run.undos) == ("completed", '"with"', [])


def test_what_succeeds_after_its_scope_was_undone_is_undone_too(begin: Any) -> None:
    run = in_booking(begin)
    run.reply("shipping.ship", "failure", error="no_courier")
    run.reply("shipping.ship")
    assert run.undos == ["stock.reserve", "shipping.ship"]


def test_a_bug_in_a_scope_undoes_nothing() -> None:
    @saga("o")
    async def o(s: Saga, order: Order) -> None:
        async with s.scope():
            await s.call(charge, order, compensate=refund)
            raise KeyError("a bug")

    run = Run(o)
    run.reply("payments.charge")
    assert (run.state.attention, run.undos) == ("blocked", [])


def test_an_outer_timeout_has_a_scope_undone_and_does_not_wait_for_it(begin: Any) -> None:
    @saga("o")
    async def o(s: Saga, order: Order) -> str:
        try:
            async with asyncio.timeout(60), s.scope():
                await s.call(charge, order, compensate=refund)
                await s.call(reserve, order, compensate=release, timeout=hours(1))
        except TimeoutError:
            await s.call(payout, order)
        return "late"

    run = begin(o)
    run.reply("payments.charge")
    run.wake_until(lambda: "bank.payout" in run.commands)
    assert run.undos == ["stock.reserve"]
    run.undone("stock.reserve")
    run.undone("payments.charge")
    run.reply("bank.payout")
    assert run.status == "completed"


def test_nothing_more_is_done_in_a_scope_that_is_undone(begin: Any) -> None:
    @saga("o")
    async def o(s: Saga, order: Order) -> str:
        async def later() -> None:
            await asyncio.sleep(30)
            await s.call(ship, order, compensate=recall)

        async with s.scope():
            task = asyncio.create_task(later())
            await s.call(charge, order, compensate=refund)
            raise SagaFailed("enough")
        try:
            await task
        except SagaFailed as failed:
            return failed.failure_code
        return "done"

    run = begin(o)
    run.reply("payments.charge")
    run.undone("payments.charge")
    run.wake_until(lambda: run.state.ended)
    assert (result(run), run.commands) == ('"scope_undone"', ["payments.charge", "undo payments.charge"])


def test_an_inner_scope_is_part_of_the_outer_one(begin: Any) -> None:
    @saga("o")
    async def o(s: Saga, order: Order) -> str:
        async with s.scope("outer"):
            async with s.scope("inner"):
                await s.call(charge, order, compensate=refund)
                raise SagaFailed("inner")
            await s.call(reserve, order, compensate=release)
            raise SagaFailed("outer")
        return "went on"

    run = begin(o)
    run.reply("payments.charge")
    run.undone("payments.charge")
    run.reply("stock.reserve")
    assert run.undos == ["payments.charge", "stock.reserve"]
    run.undone("stock.reserve")
    assert run.status == "completed"


# --- compensated, with a result


@saga("gives-back")
async def gives_back(s: Saga, order: Order) -> Charged:
    charged = await s.call(charge, order, compensate=refund, timeout=minutes(1))
    await s.call(reserve, order, compensate=release)
    return s.compensated(charged)


def test_a_saga_ends_compensated_with_a_result(begin: Any) -> None:
    run = begin(gives_back)
    run.reply("payments.charge")
    run.reply("stock.reserve")
    assert (run.status, run.undos) == ("compensating", ["stock.reserve"])
    run.undone("stock.reserve")
    run.undone("payments.charge")
    assert (run.status, result(run)) == ("compensated", '{"charge_id":"ch-1"}')
    row = row_of(run.state, None)
    assert (row.error_code, row.result) == (None, b'{"charge_id":"ch-1"}')
