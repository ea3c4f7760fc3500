"""Time, signals, maps, values that must not change at replay, code that is missing or changed."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from segue.contract import hours, minutes
from segue.saga import ActivityError, Retry, Saga, SagaFailed, saga
from segue.saga import events as e
from segue.saga.effects import Ignored
from segue.saga.inputs import ResolveStep, Wake
from tests.unit.saga.kit import (
    Order,
    Run,
    charge,
    decision,
    payout,
    refund,
    release,
    reserve,
    score,
)
from tests.unit.saga.sagas import order_saga

# --- time


def test_the_sagas_deadline_starts_the_undo(begin: Any) -> None:
    @saga("late", deadline=minutes(10))
    async def late(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        await s.receive(decision)

    run = begin(late)
    run.reply("payments.charge")
    run.wake(minutes(10))
    assert run.undos == ["payments.charge"]
    run.undone("payments.charge")
    assert run.status == "compensated"
    assert run.state.error.code == "deadline"


def test_no_deadline_fires_before_everything_that_came_in_time_has_been_read(begin: Any) -> None:
    run = begin(order_saga)
    gate = run.now + 1
    run.now += 7_200_000_000
    assert run.happen(Wake(gate=gate)) == Ignored("early", "no alarm is due")
    run.reply("payments.charge")
    assert run.status == "running"


def test_a_saga_sleeps_for_a_timedelta(begin: Any) -> None:
    @saga("naps")
    async def naps(s: Saga, order: Order) -> str:
        before = s.now()
        await s.sleep(hours(6))
        return str(s.now() - before)

    run = begin(naps)
    run.wake(hours(6))
    assert bytes(run.state.result) == b'"6:00:00"'


def test_a_timedelta_where_asyncio_wants_seconds_is_said_in_a_sentence(begin: Any) -> None:
    @saga("wrong")
    async def wrong(s: Saga, order: Order) -> None:
        await asyncio.sleep(hours(6))  # type: ignore[call-overload]

    run = begin(wrong)
    assert run.state.attention == "blocked"
    assert "asyncio takes seconds: write `await s.sleep(duration)`" in run.state.blocked.message


def test_sleep_is_durable(begin: Any) -> None:
    @saga("sleepy")
    async def sleepy(s: Saga, order: Order) -> str:
        before = s.now()
        await asyncio.sleep(86400)
        return str(s.now() - before)

    run = begin(sleepy)
    assert run.wake_at - run.now == 86_400_000_000
    run.wake()
    assert bytes(run.state.result or b"") == b'"1 day, 0:00:00"'


def test_a_timeout_scope_abandons_its_calls_and_they_are_undone_at_once(begin: Any) -> None:
    @saga("scoped")
    async def scoped(s: Saga, order: Order) -> str:
        try:
            async with asyncio.timeout(5):
                await s.call(charge, order, compensate=refund)
        except TimeoutError:
            return "gave up"
        return "paid"

    run = begin(scoped)
    run.wake_until(lambda: run.undos)
    assert run.status == "running"
    run.reply("payments.charge")
    run.undone("payments.charge")
    assert run.status == "completed"
    assert bytes(run.state.result or b"") == b'"gave up"'


def test_a_timeout_scope_that_is_left_in_time_cancels_its_timer(begin: Any) -> None:
    @saga("scoped")
    async def scoped(s: Saga, order: Order) -> str:
        async with asyncio.timeout(5):
            await s.call(charge, order, compensate=refund)
        await s.receive(decision)
        return "paid"

    run = begin(scoped)
    run.reply("payments.charge")
    assert run.events(e.TimerCancelled)
    assert run.wake_at is None


def test_a_timeout_error_that_leaves_the_saga_starts_the_undo(begin: Any) -> None:
    @saga("scoped")
    async def scoped(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        async with asyncio.timeout(5):
            await s.receive(decision)

    run = begin(scoped)
    run.reply("payments.charge")
    run.wake()
    assert run.undos == ["payments.charge"]


def test_several_timers_that_are_due_at_once_fire_in_the_order_of_their_times(begin: Any) -> None:
    @saga("timers")
    async def timers(s: Saga, order: Order) -> list[str]:
        seen: list[str] = []

        async def wait(seconds: int) -> None:
            await asyncio.sleep(seconds)
            seen.append(str(seconds))

        await asyncio.gather(wait(30), wait(10), wait(20))
        return seen

    run = begin(timers)
    run.wake(minutes(5))
    assert bytes(run.state.result or b"") == b'["10","20","30"]'


# --- signals, map, values


def test_a_signal_that_comes_before_anybody_waits_is_kept(begin: Any) -> None:
    @saga("waiting")
    async def waiting(s: Saga, order: Order) -> bool:
        await s.call(reserve, order)
        return await s.receive(decision)

    run = begin(waiting)
    run.signal(decision, True)
    run.reply("stock.reserve")
    assert bytes(run.state.result or b"") == b"true"


def test_signals_are_received_in_the_order_of_their_arrival(begin: Any) -> None:
    @saga("waiting")
    async def waiting(s: Saga, order: Order) -> list[bool]:
        return [await s.receive(decision), await s.receive(decision), await s.receive(decision)]

    run = begin(waiting)
    for value in (True, False, True):
        run.signal(decision, value)
    assert bytes(run.state.result or b"") == b"[true,false,true]"


def test_receive_times_out(begin: Any) -> None:
    @saga("waiting")
    async def waiting(s: Saga, order: Order) -> str:
        try:
            await s.receive(decision, timeout=hours(24))
        except TimeoutError:
            raise SagaFailed("no_decision") from None
        return "decided"

    run = begin(waiting)
    run.wake()
    assert run.status == "failed"
    assert run.state.error.code == "no_decision"
    assert run.now - run.state.started_at == 24 * 3_600_000_000


@pytest.mark.parametrize("wait", [timedelta(0), -hours(1)])
def test_receive_without_waiting_takes_a_signal_that_is_there_or_none(begin: Any, wait: timedelta) -> None:
    @saga("polls")
    async def polls(s: Saga, order: Order) -> list[str]:
        found = []
        for _ in range(2):
            await s.call(reserve, order)
            try:
                found.append("yes" if await s.receive(decision, timeout=wait) else "no")
            except TimeoutError:
                found.append("nothing")
        return found

    run = begin(polls)
    run.signal(decision, True)
    run.reply("stock.reserve")
    assert run.commands == ["stock.reserve", "stock.reserve#2"]
    run.reply("stock.reserve#2")
    run.wake()
    assert bytes(run.state.result or b"") == b'["yes","nothing"]'


def test_map_calls_each_input_with_bounded_concurrency(begin: Any) -> None:
    @saga("mapping")
    async def mapping(s: Saga, order: Order) -> int:
        results = await s.map(score, [order] * 5, concurrency=2, return_exceptions=True)
        return sum(r for r in results if isinstance(r, int))

    run = begin(mapping)
    assert run.commands == ["risk.score[0]", "risk.score[1]"]
    run.reply("risk.score[1]")
    assert run.commands[-1] == "risk.score[2]"
    for n in (0, 2, 3):
        run.reply(f"risk.score[{n}]")
    run.reply("risk.score[4]", "failure", error="odd")
    assert bytes(run.state.result or b"") == b"40"


def test_the_second_call_of_an_activity_is_another_occurrence(begin: Any) -> None:
    @saga("twice")
    async def twice(s: Saga, order: Order) -> None:
        await s.call(reserve, order)
        await s.call(reserve, order)

    run = begin(twice)
    run.reply("stock.reserve")
    assert run.commands == ["stock.reserve", "stock.reserve#2"]


def test_now_uuid_and_random_are_the_same_at_every_replay(begin: Any) -> None:
    @saga("values")
    async def values(s: Saga, order: Order) -> list[str]:
        first = [str(s.now()), str(s.uuid()), str(s.random.random())]
        await s.call(reserve, order)
        return [*first, str(s.uuid())]

    one, two = begin(values), Run(values, evict=True)
    one.reply("stock.reserve")
    two.reply("stock.reserve")
    assert bytes(one.state.result) == bytes(two.state.result)


def test_a_call_left_running_when_the_code_returns_is_undone_before_the_saga_completes(begin: Any) -> None:
    @saga("careless")
    async def careless(s: Saga, order: Order) -> str:
        task = asyncio.ensure_future(s.call(charge, order, compensate=refund))
        await asyncio.sleep(1)
        del task
        return "done"

    run = begin(careless)
    run.wake()
    assert run.undos == ["payments.charge"]
    assert run.status == "running"
    run.undone("payments.charge")
    assert run.status == "completed"


def test_an_abandoned_call_that_nothing_can_undo_keeps_the_saga_open_until_it_is_settled(begin: Any) -> None:
    @saga("careless")
    async def careless(s: Saga, order: Order) -> str:
        try:
            async with asyncio.timeout(1):
                await s.call(payout, order)
        except TimeoutError:
            pass
        return "done"

    run = begin(careless)
    run.wake()
    assert run.status == "running"
    run.wake_until(lambda: run.state.attention == "in_doubt")
    run.happen(ResolveStep(step="bank.payout", outcome="success", actor="ann"))
    assert run.status == "completed"


def test_the_loser_of_a_race_is_cancelled_and_undone(begin: Any) -> None:
    @saga("race")
    async def race(s: Saga, order: Order) -> str:
        tasks = [
            asyncio.ensure_future(s.call(reserve, order, compensate=release, step="a")),
            asyncio.ensure_future(s.call(reserve, order, compensate=release, step="b")),
        ]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return "won" if done else "lost"

    run = begin(race)
    run.reply("b")
    assert run.undos == ["a"]
    run.undone("a")
    assert run.status == "completed"


def test_finally_blocks_run_when_the_saga_is_stopped_but_can_not_call(begin: Any) -> None:
    seen: list[str] = []

    @saga("tidy")
    async def tidy(s: Saga, order: Order) -> None:
        try:
            await s.call(charge, order, compensate=refund)
        finally:
            seen.append("finally")
            await s.call(reserve, order)

    run = begin(tidy)
    run.cancel()
    assert "finally" in seen
    assert run.commands == ["payments.charge", "undo payments.charge"]


def test_a_saga_that_needs_code_which_is_not_here_waits_for_a_process_that_has_it() -> None:
    run = Run(order_saga)
    from segue.saga.replay import rebuild

    run.instance = rebuild("s-1", run.rows, None, run.converter)
    run.reply("payments.charge")
    assert run.state.undriven
    assert run.state.attention == "none"
    assert run.wake_at == run.now
    run.now += 1_000_000
    run.instance = rebuild("s-1", run.rows, order_saga, run.converter)
    run.wake()
    assert run.commands[-1] == "stock.reserve"


def test_changed_code_is_nondeterminism_and_shows_the_difference() -> None:
    from segue.saga.failures import Nondeterminism
    from segue.saga.replay import rebuild

    @saga("order")
    async def changed(s: Saga, order: Order) -> None:
        await s.call(reserve, order)

    run = Run(order_saga)
    with pytest.raises(Nondeterminism, match=r"has StepScheduled payments.charge.*asks for StepScheduled stock"):
        rebuild("s-1", run.rows, changed, run.converter)


def test_activity_errors_tell_step_code_and_details(begin: Any) -> None:
    seen: list[Any] = []

    @saga("telling")
    async def telling(s: Saga, order: Order) -> None:
        try:
            await s.call(charge, order)
        except ActivityError as error:
            seen.append((error.step, error.failure_code, error.message, error.details))

    run = begin(telling)
    run.reply("payments.charge", "failure", error="no_funds", output={"message": "2 missing", "details": {"x": 1}})
    assert seen[-1] == ("payments.charge", "no_funds", "2 missing", {"x": 1})


def test_the_retry_budget_bounds_all_attempts(begin: Any) -> None:
    @saga("bounded")
    async def bounded(s: Saga, order: Order) -> None:
        await s.call(charge, order, retry=Retry(attempts=100, budget=timedelta(seconds=5), factor=1))

    run = begin(bounded)
    while not run.state.ended:
        run.reply("payments.charge", "retry")
        if not run.state.ended:
            run.wake()
    assert 4 <= len(run.sent) <= 8
