"""What bounds a saga: the length of its history, and what one step more costs however many there are."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from segue.limits import Limits
from segue.saga import Saga, saga
from segue.saga.inputs import RetryStep
from segue.saga.replay import rebuild
from tests.unit.saga.kit import Order, Run, charge, refund, reserve


@saga("charging-for-ever")
async def charging(s: Saga, order: Order) -> None:
    while True:
        await s.call(charge, order, compensate=refund)


def at_its_limit(begin: Any) -> Run:
    run: Run = begin(charging, limits=Limits(history_events=4))
    for step in ("payments.charge", "payments.charge#2", "payments.charge#3", "payments.charge#4"):
        run.reply(step)
    return run


def test_a_saga_whose_history_is_too_long_is_blocked_and_loses_nothing(begin: Any) -> None:
    run = at_its_limit(begin)
    assert run.commands[-1] == "payments.charge#4"
    assert (run.status, run.state.attention, run.state.blocked.code) == ("running", "blocked", "history_limit")
    assert "4 transitions" in run.state.blocked.message
    assert run.state.steps["payments.charge#4"].status == "succeeded"


def test_a_person_can_stop_a_saga_whose_history_is_too_long_and_all_is_undone(begin: Any) -> None:
    run = at_its_limit(begin)
    run.cancel()
    while run.status == "compensating":
        run.undone(run.undos[-1])
    assert run.undos == ["payments.charge#4", "payments.charge#3", "payments.charge#2", "payments.charge"]
    assert run.status == "cancelled"


def test_a_saga_goes_on_where_longer_histories_are_allowed(begin: Any) -> None:
    run = at_its_limit(begin)
    run.limits = Limits(history_events=100)
    run.instance = rebuild("s-1", run.rows, charging, run.converter)
    run.happen(RetryStep())
    assert run.state.attention == "none"
    assert run.commands[-1] == "payments.charge#5"


@saga("wide-open")
async def wide_open(s: Saga, order: Order) -> None:
    await s.call(reserve, order)
    await asyncio.gather(*(s.call(charge, order, compensate=refund) for _ in range(3)))


def test_a_saga_that_asks_for_too_many_commands_at_a_time_is_blocked_before_any_of_them_is_sent(begin: Any) -> None:
    run: Run = begin(wide_open, limits=Limits(pending_commands=2))
    run.reply("stock.reserve")
    assert run.commands == ["stock.reserve"]
    assert (run.state.attention, run.state.blocked.code) == ("blocked", "command_limit")
    assert "limits.pending_commands" in run.state.blocked.message
    run.limits = Limits(pending_commands=3)
    run.instance = rebuild("s-1", run.rows, wide_open, run.converter)
    run.happen(RetryStep())
    assert run.commands[1:] == ["payments.charge", "payments.charge#2", "payments.charge#3"]


def test_commands_that_were_answered_make_room_for_others(begin: Any) -> None:
    run: Run = begin(charging, limits=Limits(pending_commands=1))
    for step in ("payments.charge", "payments.charge#2", "payments.charge#3"):
        run.reply(step)
    assert run.commands[-1] == "payments.charge#4"
    assert run.state.attention == "none"


@pytest.mark.parametrize("wide", [3, 40])
def test_a_wide_undo_sends_each_compensation_once_and_ends(wide: int) -> None:
    @saga("wide")
    async def many(s: Saga, order: Order) -> None:
        await asyncio.gather(*(s.call(charge, order, compensate=refund) for _ in range(wide)))
        await s.call(reserve, order)

    run = Run(many)
    steps = run.commands
    for step in steps:
        run.reply(step)
    run.reply("stock.reserve", "failure", error="none_left")
    assert run.undos == steps
    for step in steps:
        run.undone(step)
    assert (run.status, len(run.undos)) == ("compensated", wide)


def test_random_numbers_are_the_same_whenever_they_are_first_asked_for(begin: Any) -> None:
    @saga("lucky")
    async def lucky(s: Saga, order: Order) -> float:
        await s.call(reserve, order)
        return s.random.random()

    run = begin(lucky)
    run.reply("stock.reserve")
    again = Run(lucky)
    again.reply("stock.reserve")
    assert bytes(run.state.result) == bytes(again.state.result)


@pytest.mark.parametrize("outcome", ["failure", "cancelled"])
def test_the_code_of_a_saga_that_is_over_is_not_left_to_the_garbage_collector(outcome: str) -> None:
    run = Run(charging)
    program = run.instance.program
    assert program is not None
    loop = weakref.ref(program.loop)
    del program
    gc.disable()
    try:
        if outcome == "failure":
            run.reply("payments.charge", "failure")
        else:
            run.cancel()
        assert loop() is None
    finally:
        gc.enable()


def test_a_block_names_the_line_of_the_sagas_code_and_not_one_of_segue(begin: Any) -> None:
    @saga("mistaken")
    async def mistaken(s: Saga, order: Order) -> None:
        wrong: Any = order.id
        await s.call(charge, wrong)

    run = begin(mistaken)
    line = mistaken.function.__code__.co_firstlineno + 3
    assert run.state.blocked.message.endswith(f"(test_bounds.py:{line})")
