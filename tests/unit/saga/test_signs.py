"""Signs of life: each counts once, whatever comes again, late, or in another order."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from segue.contract import hours, minutes
from segue.errors import ContractError
from segue.saga import Retry, Saga, saga
from segue.saga import events as e
from segue.saga.fold import fold
from segue.saga.inputs import Reply, RetryStep, Wake
from segue.saga.signs import Signs
from tests.unit.saga.kit import Order, charge, payout, refund
from tests.unit.saga.sagas import order_saga

CHARGE = "payments.charge"
SECOND = 1_000_000


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
    [kept] = run.kept.last.values()
    assert (kept.count, kept.at) == (3, at + 4 * 1_000_000)
    assert [event.message for event in run.events(e.ProgressReported)] == ["beat-1"]


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
    [kept] = run.kept.last.values()
    assert (kept.count, kept.at) == (1, run.now)


def test_without_ids_and_times_every_sign_counts(begin: Any) -> None:
    run = begin(order_saga)
    for _ in range(3):
        run.reply(CHARGE, "pending")
    [kept] = run.kept.last.values()
    assert kept.count == 2


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


# --- beside the history


@saga("indexing")
async def indexing(s: Saga, order: Order) -> None:
    await s.call(charge, order, compensate=refund)


def work_for(run: Any, hours: int, every: int = 10) -> None:
    """The participant says each `every` seconds that it goes on; alarms ring when they are due."""
    until = run.now + hours * 3600 * SECOND
    while run.now < until:
        run.now += every * SECOND
        beat(run, f"beat-{run.now}", run.now, body=msgspec.Raw(b"[%d]" % run.now))
        if run.wake_at is not None and run.wake_at <= run.now:
            run.happen(Wake(gate=run.now))


def test_a_day_of_heartbeats_is_one_event_for_each_deadline_and_no_resend(begin: Any) -> None:
    run = begin(indexing)
    work_for(run, hours=14)
    deadlines = 14 * 60 // 5
    assert run.state.steps[CHARGE].status == "issued"
    assert len(run.events(e.CommandResent)) == 0
    assert deadlines - 10 <= len(run.events(e.ProgressReported)) <= deadlines + 10
    assert len(run.rows) < deadlines + 12
    run.reply(CHARGE)
    assert run.kept.last == {}


def test_a_step_that_falls_silent_after_heartbeats_has_its_whole_time_from_the_last(begin: Any) -> None:
    run = begin(indexing)
    work_for(run, hours=1)
    last = run.now
    run.wake_until(lambda: run.state.steps[CHARGE].status != "issued")
    assert run.now == last + 5 * 60 * SECOND
    assert len(run.events(e.CommandResent)) > 0


def test_a_silent_handler_is_asked_again_when_its_heartbeat_timeout_is_over(begin: Any) -> None:
    @saga("heartbeats", deadline=hours(20))
    async def beating(s: Saga, order: Order) -> None:
        await s.call(payout, order, timeout=hours(10), heartbeat_timeout=timedelta(seconds=30))

    run = begin(beating)
    assert run.sent[-1].heartbeat == 30 * SECOND
    run.wake()
    assert run.now - run_start(run) == 30 * SECOND
    assert [event.step for event in run.events(e.CommandResent)] == ["bank.payout"]
    beat(run, "first", run.now, step="bank.payout")
    run.now += 20 * SECOND
    beat(run, "second", run.now, step="bank.payout")
    said = run.now
    run.wake()
    assert len(run.events(e.CommandResent)) == 1
    run.wake()
    assert run.now == said + 30 * SECOND
    assert len(run.events(e.CommandResent)) == 2


def test_an_attempt_that_takes_too_long_is_followed_by_the_next_whatever_signs_it_gives(begin: Any) -> None:
    @saga("attempts")
    async def trying(s: Saga, order: Order) -> None:
        patience = Retry(attempts=2, attempt_timeout=timedelta(seconds=40))
        await s.call(charge, order, compensate=refund, timeout=minutes(10), retry=patience)

    run = begin(trying)
    for _ in range(4):
        run.now += 10 * SECOND
        beat(run, f"beat-{run.now}", run.now)
        run.happen(Wake(gate=run.now))
    [planned] = run.events(e.RetryPlanned)
    assert (planned.unknown, planned.error.code) == (True, "attempt_timeout")
    run.wake_until(lambda: run.state.steps[CHARGE].attempt == 2)
    sent = run.now
    run.wake_until(lambda: run.state.steps[CHARGE].status != "issued")
    assert run.now == sent + 40 * SECOND
    assert run.undos == [CHARGE]


def test_an_attempt_whose_end_nobody_was_there_to_notice_takes_no_more_from_its_step(begin: Any) -> None:
    @saga("late")
    async def late(s: Saga, order: Order) -> None:
        patience = Retry(attempts=3, attempt_timeout=timedelta(seconds=40), silence=minutes(5))
        await s.call(charge, order, compensate=refund, timeout=minutes(1), retry=patience)

    run = begin(late)
    due = run.state.steps[CHARGE].due
    run.now += 100 * SECOND
    run.happen(Wake(gate=run.now))

    [planned] = run.events(e.RetryPlanned)
    assert planned.shift == 60 * SECOND
    assert run.state.steps[CHARGE].due == due + 60 * SECOND


def test_an_attempt_of_a_compensation_has_its_bound_too(begin: Any) -> None:
    @saga("undoing", compensation=Retry(attempts=2, attempt_timeout=timedelta(seconds=40)))
    async def undoing(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)

    run = begin(undoing)
    run.cancel()
    started = run.now
    run.wake_until(lambda: run.state.attention == "deferred")
    assert run.state.steps[CHARGE].undo.attempt == 2
    assert run.now - started < 90 * SECOND


def test_a_bound_of_no_time_is_refused_at_the_call(begin: Any) -> None:
    @saga("no-time")
    async def no_time(s: Saga, order: Order) -> None:
        await s.call(payout, order, heartbeat_timeout=timedelta(0))

    assert "heartbeat_timeout=0:00:00" in begin(no_time).state.blocked.message
    with pytest.raises(ContractError, match="attempt_timeout"):
        Retry(attempt_timeout=timedelta(0))
