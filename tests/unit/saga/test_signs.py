"""Signs of life: each counts once, whatever comes again, late, or in another order."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from segue.contract import minutes
from segue.saga import Saga, saga
from segue.saga import events as e
from segue.saga.fold import fold
from segue.saga.inputs import Reply, RetryStep
from segue.saga.signs import Signs
from tests.unit.saga.kit import Order, payout
from tests.unit.saga.sagas import order_saga

CHARGE = "payments.charge"


@saga("paying")
async def paying(s: Saga, order: Order) -> None:
    await s.call(payout, order, timeout=minutes(5))


def beat(run: Any, message: str, said: int = 0, **more: Any) -> Any:
    return run.reply(more.pop("step", CHARGE), "pending", message_id=message, said_at=said, **more)


def answers_every_resend(run: Any, step: str, message: str) -> None:
    """The participant has nothing but its stored `pending`, and the command comes again and again."""
    sent = len(run.sent)
    for _ in range(200):
        if run.state.steps[step].status != "issued":
            return
        run.wake()
        for command in run.sent[sent:]:
            if command.step == step and command.action == "invoke":
                run.happen(Reply(command_id=command.id, outcome="pending", message_id=message, said_at=run_start(run)))
        sent = len(run.sent)
    raise AssertionError("its deadline never comes")


def run_start(run: Any) -> int:
    return int(run.state.started_at)


def test_a_step_whose_put_off_answer_is_lost_becomes_unknown_at_its_deadline(begin: Any) -> None:
    run = begin(order_saga)
    run.wake(minutes(1))
    beat(run, "m-1", run_start(run))
    accepted = run.now
    answers_every_resend(run, CHARGE, "m-1")
    assert run.now == accepted + 5 * 60_000_000
    assert run.state.steps[CHARGE].error.code == "timeout"
    assert run.undos == [CHARGE]


def test_a_step_that_nothing_can_undo_goes_in_doubt_when_its_put_off_answer_is_lost(begin: Any) -> None:
    run = begin(paying)
    beat(run, "m-1", run_start(run), step="bank.payout")
    answers_every_resend(run, "bank.payout", "m-1")
    assert run.state.attention == "in_doubt"


def test_a_copy_writes_nothing_and_moves_nothing(begin: Any) -> None:
    run = begin(order_saga)
    beat(run, "m-1")
    due, revision = run.state.steps[CHARGE].due, run.state.revision
    run.wake(timedelta(seconds=5))
    beat(run, "m-1")
    assert run.ignored[-1].reason == "duplicate"
    assert (run.state.steps[CHARGE].due, run.state.revision) == (due, revision)


def test_the_stored_answer_between_heartbeats_counts_once(begin: Any) -> None:
    run = begin(order_saga)
    at = run.now
    for n, message in enumerate(("beat-1", "stored", "beat-2", "stored", "beat-3", "stored")):
        run.now = at + n * 1_000_000
        beat(run, message, at if message == "stored" else run.now)
    assert [event.message for event in run.events(e.ProgressReported)] == ["beat-1", "stored", "beat-2", "beat-3"]


def test_a_sign_of_life_that_is_older_than_the_last_says_nothing(begin: Any) -> None:
    run = begin(order_saga)
    run.wake(timedelta(seconds=4))
    beat(run, "second", run.now - 1_000)
    due = run.state.steps[CHARGE].due
    run.wake(timedelta(seconds=1))
    beat(run, "first", run.now - 3_000_000)
    assert run.state.steps[CHARGE].due == due


def test_a_participant_whose_clock_is_fast_does_not_silence_the_one_that_takes_over(begin: Any) -> None:
    run = begin(order_saga)
    beat(run, "fast", run.now + 3_600_000_000)
    run.wake(timedelta(seconds=4))
    beat(run, "right", run.now)
    beat(run, "fast", run.now + 3_600_000_000)
    assert [event.message for event in run.events(e.ProgressReported)] == ["fast", "right"]


def test_without_ids_and_times_every_sign_counts(begin: Any) -> None:
    run = begin(order_saga)
    run.reply(CHARGE, "pending")
    run.reply(CHARGE, "pending")
    assert len(run.events(e.ProgressReported)) == 2


def test_each_attempt_has_its_own_signs(begin: Any) -> None:
    run = begin(order_saga)
    beat(run, "m-1", run.now)
    run.reply(CHARGE, "retry", error="busy")
    run.wake()
    beat(run, "m-2", run.now - 60_000_000)
    assert len(run.events(e.ProgressReported)) == 2
    run.reply(CHARGE)
    assert run.state.signs == {}


def test_a_person_who_asks_again_gives_the_step_its_time_and_the_stored_answer_gives_it_no_more(begin: Any) -> None:
    run = begin(paying)
    beat(run, "m-1", run_start(run), step="bank.payout")
    answers_every_resend(run, "bank.payout", "m-1")
    run.happen(RetryStep(actor="ann"))
    due = run.now + 5 * 60_000_000
    answers_every_resend(run, "bank.payout", "m-1")
    assert run.now == due
    assert run.state.attention == "in_doubt"


def test_a_compensation_whose_put_off_answer_is_lost_is_deferred(begin: Any) -> None:
    run = begin(order_saga)
    run.cancel()
    beat(run, "m-1", undo=True)
    for _ in range(200):
        if run.state.steps[CHARGE].undo.status != "issued":
            break
        run.wake()
        beat(run, "m-1", undo=True)
    assert run.state.attention == "deferred"
    assert run.state.signs == {}


def test_histories_without_ids_still_fold(begin: Any) -> None:
    run = begin(order_saga)
    beat(run, "m-1", run.now)
    old = [(at, payload.replace(b',"message":"m-1"', b"")) for at, payload in run.rows]
    assert fold("s-1", old).steps[CHARGE].due == run.state.steps[CHARGE].due


@pytest.mark.parametrize("fast", [0, 10_000_000])
def test_what_is_remembered_does_not_grow_with_dated_signs(fast: int) -> None:
    signs = Signs()
    for n in range(1, 1000):
        signs.take(f"m-{n}", n * 1_000_000 + fast, n * 1_000_000)
    assert len(signs.known) <= 1 + fast // 1_000_000
    assert all(signs.repeats(f"m-{n}", n * 1_000_000 + fast, 1_000_000_000) for n in range(1, 1000))


def test_no_sign_moves_a_step_that_is_not_out(begin: Any) -> None:
    run = begin(order_saga)
    run.reply(CHARGE, "retry", error="busy")
    beat(run, "m-1", run.now)
    assert run.ignored[-1].reason == "late"


def test_the_undo_counts_its_own_signs(begin: Any) -> None:
    run = begin(order_saga)
    beat(run, "same", run.now)
    run.cancel()
    beat(run, "same", run.now, undo=True)
    assert [event.action for event in run.events(e.ProgressReported)] == ["invoke", "compensate"]
