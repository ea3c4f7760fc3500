"""Nobody was there to send what was due: the step has as much time left as if somebody had been."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from segue.contract import minutes
from segue.saga import Retry, Saga, saga
from segue.saga import events as e
from segue.saga.inputs import RetryStep
from segue.saga.transition import block
from tests.unit.saga.kit import Order, charge, refund, reserve
from tests.unit.saga.sagas import order_saga

CHARGE = "payments.charge"
ABSENCE = minutes(30)
MICROS = 1_000_000


@saga("charging")
async def charging(s: Saga, order: Order) -> None:
    await s.call(charge, order, compensate=refund)


def left(run: Any) -> int:
    """Microseconds till the step's deadline."""
    return int(run.state.steps[CHARGE].due - run.now)


def test_a_retry_that_goes_out_late_has_its_whole_remaining_time(begin: Any) -> None:
    run = begin(order_saga)
    run.reply(CHARGE, "retry", retry_after=60.0)
    run.wake(ABSENCE)
    assert run.commands == [CHARGE, CHARGE]
    assert (run.sent[-1].attempt, left(run)) == (2, 4 * 60 * MICROS)
    assert run.sent[-1].deadline == run.state.steps[CHARGE].due


def test_a_retry_that_is_asked_for_before_an_outage_and_read_after_it_is_made(begin: Any) -> None:
    run = begin(order_saga)
    run.now += int(ABSENCE.total_seconds()) * MICROS
    run.reply(CHARGE, "retry", retry_after=60.0)
    assert run.state.steps[CHARGE].status == "waiting"
    run.wake()
    assert (run.sent[-1].attempt, left(run)) == (2, (290 - 60) * MICROS)


def test_a_retry_in_time_gets_nothing_more(begin: Any) -> None:
    run = begin(order_saga)
    run.reply(CHARGE, "retry", retry_after=60.0)
    run.wake()
    assert left(run) == 4 * 60 * MICROS
    assert run.events(e.CommandSent)[-1].shift == 0


def test_a_resend_that_goes_out_late_leaves_the_participant_time_to_answer(begin: Any) -> None:
    run = begin(order_saga)
    run.wake(ABSENCE)
    assert run.commands == [CHARGE, CHARGE]
    assert left(run) == 290 * MICROS
    run.wake_until(lambda: run.state.undoing)
    assert run.undos == [CHARGE]


def test_silence_to_the_end_is_silence_however_late_somebody_looks(begin: Any) -> None:
    run = begin(order_saga)
    while run.wake_at < run.state.steps[CHARGE].due:
        run.wake()
    run.wake(ABSENCE)
    assert run.undos == [CHARGE]


def test_the_budget_of_retries_does_not_run_while_nobody_is_there(begin: Any) -> None:
    @saga("bounded")
    async def bounded(s: Saga, order: Order) -> None:
        await s.call(charge, order, retry=Retry(budget=timedelta(seconds=30)))

    run = begin(bounded)
    run.reply(CHARGE, "retry", error="busy")
    run.wake(ABSENCE)
    run.reply(CHARGE, "retry", error="busy")
    assert run.state.steps[CHARGE].status == "waiting"


def test_a_command_that_expired_by_a_deadline_that_has_moved_is_tried_again(begin: Any) -> None:
    run = begin(order_saga)
    run.wake(ABSENCE)
    run.reply(CHARGE, "failure", error="expired")
    run.wake()
    assert run.sent[-1].attempt == 2
    assert run.sent[-1].deadline == run.state.steps[CHARGE].due
    run.reply(CHARGE, "failure", error="expired")
    assert run.state.steps[CHARGE].error.code == "expired"


def test_a_command_that_expired_by_the_deadline_that_it_has_is_refused(begin: Any) -> None:
    run = begin(order_saga)
    run.reply(CHARGE, "failure", error="expired")
    assert run.state.steps[CHARGE].status == "failed"


def test_a_retry_keeps_what_a_sign_of_life_gave(begin: Any) -> None:
    run = begin(order_saga)
    for _ in range(3):
        run.wake(minutes(4))
        run.reply(CHARGE, "pending")
    run.reply(CHARGE, "retry", retry_after=60.0)
    run.wake()
    assert (run.sent[-1].attempt, left(run)) == (2, 4 * 60 * MICROS)


@pytest.mark.parametrize("answered", [False, True])
def test_a_compensation_that_goes_out_late_has_its_whole_remaining_time(begin: Any, answered: bool) -> None:
    run = begin(charging)
    run.cancel()
    if answered:
        run.reply(CHARGE, "retry", undo=True, retry_after=10.0)
    run.wake(ABSENCE)
    assert run.undos == [CHARGE, CHARGE]
    undo = run.state.steps[CHARGE].undo
    assert (undo.status, undo.due - run.now) == ("issued", (1800 - 10) * MICROS)


def test_the_sagas_own_deadline_gets_nothing_back(begin: Any) -> None:
    run = begin(order_saga)
    deadline = run.state.deadline
    run.reply(CHARGE, "retry", retry_after=60.0)
    run.wake(minutes(30))
    assert run.state.deadline == deadline


def test_what_was_due_while_a_saga_was_blocked_is_sent_at_once_with_all_its_time(begin: Any) -> None:
    @saga("two")
    async def two(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund, timeout=minutes(5))
        await s.call(reserve, order)

    run = begin(two)
    run.reply(CHARGE, "retry", retry_after=60.0)
    run._stored(block(run.instance, e.Failure(code="undecodable", message="?", kind="saga"), run.now))
    run.wake_at = None
    run.now += 2 * 3600 * MICROS
    from segue.saga.replay import rebuild

    run.instance = rebuild("s-1", run.rows, two, run.converter)
    run.happen(RetryStep())
    assert run.wake_at == run.now
    run.wake()
    assert (run.sent[-1].attempt, left(run)) == (2, 5 * 60 * MICROS)


def test_a_handlers_own_code_expired_ends_the_step_whatever_its_deadline_became(begin: Any) -> None:
    run = begin(order_saga)
    run.wake(minutes(4))
    run.reply(CHARGE, "pending")
    run.reply(CHARGE, "failure", error="expired", rejected=True)
    assert run.state.steps[CHARGE].status == "failed"
