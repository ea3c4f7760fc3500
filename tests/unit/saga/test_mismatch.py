"""Commands that come to workers that lack the activity, or can't read it: nothing is ever undone for a deploy."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from segue.contract import minutes
from segue.saga import Retry, Saga, saga
from segue.saga.inputs import RetryStep
from tests.unit.saga.kit import Order, Run, charge, payout, refund, reserve, score

ONCE = Retry(attempts=1, budget=timedelta(seconds=1))


def unfit(run: Run, step: str, **more: Any) -> None:
    run.reply(step, "retry", error="unknown_activity", mismatch=True, **more)


def until_it_is_over(run: Run, step: str, **more: Any) -> None:
    for _ in range(60):
        unfit(run, step, **more)
        if run.state.steps[step].status != "waiting" and not run.state.undoing:
            return
        if run.wake_at is None:
            return
        run.wake()


def one(**how: Any) -> Any:
    @saga("one")
    async def one(s: Saga, order: Order) -> None:
        await s.call(charge, order, **{"timeout": minutes(2), "retry": ONCE, **how})

    return one


def test_a_mismatch_spends_neither_attempts_nor_the_budget_of_the_policy() -> None:
    run = Run(one(), evict=True)
    for _ in range(3):
        unfit(run, "payments.charge")
        run.wake()
    assert [command.attempt for command in run.sent] == [1, 2, 3, 4]

    run.reply("payments.charge", "retry", error="busy")

    assert run.status == "failed"
    assert run.state.error is not None
    assert run.state.error.code == "busy"


@pytest.mark.parametrize(
    "how", [{}, {"compensate": refund}, {"optional": True}, {"on_failure": "park"}], ids=lambda how: str(list(how))
)
def test_once_its_time_is_over_a_step_parks_whatever_its_kind(how: dict[str, Any]) -> None:
    run = Run(one(**how), evict=True)

    until_it_is_over(run, "payments.charge")

    assert run.state.attention == "parked"
    assert run.state.steps["payments.charge"].error is not None
    assert run.state.steps["payments.charge"].error.code == "unknown_activity"
    assert run.undos == []


def test_a_readonly_step_and_one_after_the_pivot_park_as_well() -> None:
    @saga("reads")
    async def reads(s: Saga, order: Order) -> None:
        await s.call(score, order, timeout=minutes(2))
        s.pivot()
        await s.call(payout, order, timeout=minutes(2))

    run = Run(reads, evict=True)
    until_it_is_over(run, "risk.score")
    assert run.state.troubled == {"risk.score": "parked"}
    run = Run(reads, evict=True)
    run.reply("risk.score")
    until_it_is_over(run, "bank.payout")
    assert run.state.troubled == {"bank.payout": "parked"}


def test_one_that_may_have_had_an_effect_before_is_in_doubt() -> None:
    run = Run(one(compensate=refund, retry=Retry(attempts=3)), evict=True)
    run.reply("payments.charge", "retry", error="broken", effect_unknown=True)
    run.wake()

    until_it_is_over(run, "payments.charge")

    assert run.state.troubled == {"payments.charge": "in_doubt"}
    assert run.undos == []


def test_one_whose_last_attempt_had_no_time_to_be_answered_is_in_doubt_and_not_undone() -> None:
    run = Run(one(compensate=refund), evict=True)
    unfit(run, "payments.charge", retry_after=119.0)
    run.wake()
    assert [command.attempt for command in run.sent] == [1, 2]

    run.wake()

    assert run.state.troubled == {"payments.charge": "in_doubt"}
    assert (run.status, run.undos) == ("running", [])


def test_one_that_was_silent_when_it_was_asked_again_is_unknown_and_undone() -> None:
    run = Run(one(compensate=refund), evict=True)
    unfit(run, "payments.charge", retry_after=60.0)
    run.wake_until(lambda: run.undos)
    assert run.status == "compensating"


def test_a_person_tries_again_what_has_parked() -> None:
    run = Run(one(), evict=True)
    until_it_is_over(run, "payments.charge")
    run.happen(RetryStep(actor="ann"))
    run.reply("payments.charge")

    assert run.status == "completed"


def test_a_saga_that_is_being_undone_does_not_wait_for_one_that_was_never_handled() -> None:
    @saga("two")
    async def two(s: Saga, order: Order) -> None:
        await asyncio.gather(s.call(charge, order, compensate=refund), s.call(reserve, order))

    run = Run(two, evict=True)
    unfit(run, "payments.charge")
    run.reply("stock.reserve", "failure", error="none")

    assert run.undos == []
    assert run.status == "failed"


def test_an_undo_that_meets_no_worker_that_fits_is_deferred_after_its_time_and_no_sooner() -> None:
    @saga("undone", compensation=Retry(attempts=1), compensation_timeout=minutes(3))
    async def undone(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        await s.call(reserve, order)

    run = Run(undone, evict=True)
    run.reply("payments.charge")
    run.reply("stock.reserve", "failure", error="none")
    tries = 0
    while run.state.attention != "deferred":
        unfit(run, "payments.charge", undo=True)
        tries += 1
        if run.state.attention != "deferred":
            run.wake()

    assert tries > 3


def test_an_undo_says_that_the_coordinator_knows_of_the_success() -> None:
    @saga("done")
    async def done(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        await s.call(reserve, order)

    run = Run(done, evict=True)
    run.reply("payments.charge")
    run.reply("stock.reserve", "failure", error="none")
    [undo] = [command for command in run.sent if command.action == "compensate"]
    assert undo.done

    run = Run(done, evict=True)
    run.cancel()
    [undo] = [command for command in run.sent if command.action == "compensate"]
    assert not undo.done


def test_an_undo_that_its_participant_has_forgotten_is_deferred() -> None:
    @saga("forgotten")
    async def forgotten(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        await s.call(reserve, order)

    run = Run(forgotten, evict=True)
    run.reply("payments.charge")
    run.reply("stock.reserve", "failure", error="none")
    run.reply("payments.charge", "failure", undo=True, error="forgotten")

    assert run.state.troubled == {"payments.charge": "deferred"}
