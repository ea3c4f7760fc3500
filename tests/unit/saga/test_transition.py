"""The semantics of the engine, one sentence a test. Each runs with a cached and with an always evicted instance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from segue.contract import hours, minutes
from segue.saga import ActivityError, ActivityRejected, ActivityTimeout, Retry, Saga, SagaFailed, saga
from segue.saga import events as e
from segue.saga.effects import Ignored
from segue.saga.inputs import Reply, ResolveStep, RetryStep, SkipStep, Wake
from tests.unit.saga.kit import (
    Order,
    Run,
    Shipped,
    charge,
    confirm,
    decision,
    payout,
    recall,
    refund,
    release,
    reserve,
    score,
    ship,
)


@saga("order", deadline=hours(1))
async def order_saga(s: Saga, order: Order) -> Shipped:
    await s.call(charge, order, compensate=refund, timeout=minutes(5))
    await s.call(reserve, order, compensate=release)
    shipped = await s.call(ship, order, compensate=recall, retry=Retry(attempts=3, factor=2))
    await s.call(confirm, shipped, optional=True)
    return shipped


@pytest.fixture(params=[False, True], ids=["cached", "evicted"])
def begin(request: pytest.FixtureRequest) -> Callable[..., Run]:
    def make(definition: Any, input: Any = None) -> Run:
        return Run(definition, input, evict=request.param)

    return make


def to_shipping(run: Run) -> Run:
    run.reply("payments.charge")
    run.reply("stock.reserve")
    return run


# --- forward


def test_steps_run_one_after_another_and_the_saga_completes_with_its_result(begin: Any) -> None:
    run = to_shipping(begin(order_saga))
    run.reply("shipping.ship")
    run.reply("mail.confirm")
    assert run.commands == ["payments.charge", "stock.reserve", "shipping.ship", "mail.confirm"]
    assert run.status == "completed"
    assert bytes(run.state.result or b"") == b'{"parcel":"p-1"}'
    assert run.wake_at is None


def test_a_duplicate_reply_changes_nothing(begin: Any) -> None:
    run = begin(order_saga)
    run.reply("payments.charge")
    assert run.reply("payments.charge") == Ignored("duplicate", "payments.charge is settled")
    assert run.commands == ["payments.charge", "stock.reserve"]


def test_a_reply_to_a_command_that_was_never_sent_is_foreign(begin: Any) -> None:
    run = begin(order_saga)
    ignored = run.happen(Reply(command_id="forged", outcome="success"))  # type: ignore[arg-type]
    assert isinstance(ignored, Ignored)
    assert ignored.reason == "foreign"


def test_a_command_has_the_id_that_its_place_in_the_saga_gives_it(begin: Any) -> None:
    assert begin(order_saga).sent[0].id == begin(order_saga).sent[0].id


def test_a_failed_optional_step_is_skipped(begin: Any) -> None:
    run = to_shipping(begin(order_saga))
    run.reply("shipping.ship")
    run.reply("mail.confirm", "failure", error="no_address")
    assert run.status == "completed"
    assert run.state.steps["mail.confirm"].status == "skipped"


# --- retries and silence


def test_a_retry_has_a_new_command_id_and_the_next_attempt_number(begin: Any) -> None:
    run = to_shipping(begin(order_saga))
    run.reply("shipping.ship", "retry", error="busy")
    run.wake()
    first, second = [c for c in run.sent if c.step == "shipping.ship"]
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.id != second.id


def test_the_wait_before_a_retry_grows_by_the_factor(begin: Any) -> None:
    run = to_shipping(begin(order_saga))
    waits = []
    for _ in range(2):
        run.reply("shipping.ship", "retry", error="busy")
        waits.append(run.wake_at - run.now)
        run.wake()
    assert 1.5 < waits[1] / waits[0] < 2.5


def test_the_participants_own_retry_after_wins(begin: Any) -> None:
    run = begin(order_saga)
    run.reply("payments.charge", "retry", retry_after=42.0)
    assert run.wake_at - run.now == 42_000_000


def test_after_the_last_attempt_the_step_is_spent_and_the_undo_runs_in_reverse_order(begin: Any) -> None:
    run = to_shipping(begin(order_saga))
    for attempt in (1, 2, 3):
        run.reply("shipping.ship", "retry", error="no_courier", message="all out")
        if attempt < 3:
            run.wake()
    assert run.undos == ["stock.reserve"]
    run.undone("stock.reserve")
    assert run.undos == ["stock.reserve", "payments.charge"]
    run.undone("payments.charge")
    assert run.status == "compensated"
    assert run.state.error.code == "no_courier"


def test_a_non_retryable_code_ends_the_step_at_once(begin: Any) -> None:
    @saga("once")
    async def once(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund, retry=Retry(non_retryable=("broken",)))

    run = begin(once)
    run.reply("payments.charge", "retry", error="broken")
    assert run.status == "failed"


def test_a_success_of_an_earlier_attempt_settles_the_step(begin: Any) -> None:
    run = begin(order_saga)
    run.reply("payments.charge", "retry", error="busy")
    run.wake()
    run.reply("payments.charge", attempt=1)
    assert run.state.steps["payments.charge"].status == "succeeded"
    assert run.commands[-1] == "stock.reserve"


def test_a_failure_of_an_earlier_attempt_does_not_count(begin: Any) -> None:
    run = begin(order_saga)
    run.reply("payments.charge", "retry", error="busy")
    run.wake()
    assert run.reply("payments.charge", "failure", attempt=1).reason == "late"
    assert run.status == "running"


def test_silence_sends_the_same_command_again(begin: Any) -> None:
    run = begin(order_saga)
    run.wake()
    assert run.commands == ["payments.charge", "payments.charge"]
    assert run.sent[0].id == run.sent[1].id
    assert run.sent[0] == run.sent[1]


def test_silence_until_the_timeout_is_an_unknown_outcome_and_is_undone_too(begin: Any) -> None:
    run = begin(order_saga)
    run.reply("payments.charge")
    run.wake_until(lambda: run.undos)
    assert run.state.steps["stock.reserve"].status == "unknown"
    assert run.undos == ["stock.reserve"]
    run.undone("stock.reserve")
    run.undone("payments.charge")
    assert run.status == "compensated"
    assert run.state.error.code == "timeout"


def test_pending_moves_the_deadline_and_carries_progress(begin: Any) -> None:
    run = begin(order_saga)
    run.wake(minutes(4))
    run.reply("payments.charge", "pending", output={"done": 3})
    run.wake(minutes(4))
    assert run.state.steps["payments.charge"].status == "issued"
    assert bytes(run.state.steps["payments.charge"].progress) == b'{"done":3}'


def test_a_negative_reply_that_cannot_prove_no_effect_makes_a_spent_step_unknown(begin: Any) -> None:
    run = begin(order_saga)
    run.reply("payments.charge", "failure", error="crashed", effect_unknown=True)
    assert run.state.steps["payments.charge"].status == "unknown"
    assert run.undos == ["payments.charge"]


def test_one_attempt_that_may_have_had_an_effect_taints_the_whole_step(begin: Any) -> None:
    run = begin(order_saga)
    run.reply("payments.charge", "retry", error="crashed", effect_unknown=True)
    run.wake()
    run.reply("payments.charge", "failure", error="refused")
    assert run.undos == ["payments.charge"]


# --- what a spent step does


def test_saga_code_may_catch_a_rejection_and_fall_back(begin: Any) -> None:
    @saga("fallback")
    async def fallback(s: Saga, order: Order) -> str:
        try:
            await s.call(charge, order, compensate=refund)
        except ActivityRejected as error:
            assert error.failure_code == "no_funds"
            await s.call(reserve, order)
        return "paid otherwise"

    run = begin(fallback)
    run.reply("payments.charge", "failure", error="no_funds")
    run.reply("stock.reserve")
    assert run.status == "completed"
    assert run.undos == []


def test_a_caught_timeout_is_undone_at_once_while_the_saga_goes_on(begin: Any) -> None:
    @saga("fallback")
    async def fallback(s: Saga, order: Order) -> str:
        try:
            await s.call(charge, order, compensate=refund)
        except ActivityTimeout:
            await s.call(reserve, order)
        return "paid otherwise"

    run = begin(fallback)
    run.wake_until(lambda: run.undos)
    assert run.commands[-2:] == ["stock.reserve", "undo payments.charge"]
    run.reply("stock.reserve")
    assert run.status == "running"
    run.undone("payments.charge")
    assert run.status == "completed"


def test_on_failure_park_waits_for_a_person_and_retries_on_request(begin: Any) -> None:
    @saga("parking")
    async def parking(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund, on_failure="park")

    run = begin(parking)
    run.reply("payments.charge", "failure", error="no_funds")
    assert run.state.attention == "parked"
    assert run.wake_at is None
    run.happen(RetryStep(actor="ann"))
    assert run.state.attention == "none"
    assert [c.attempt for c in run.sent] == [1, 2]
    run.reply("payments.charge")
    assert run.status == "completed"


def test_a_parked_step_can_be_skipped(begin: Any) -> None:
    @saga("parking")
    async def parking(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund, on_failure="park")

    run = begin(parking)
    run.reply("payments.charge", "failure", error="no_funds")
    run.happen(SkipStep(step="payments.charge", reason="paid in cash", actor="ann"))
    assert run.status == "completed"


def test_an_unknown_outcome_that_nothing_can_undo_goes_in_doubt_and_never_compensates(begin: Any) -> None:
    @saga("paying")
    async def paying(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        await s.call(payout, order)

    run = begin(paying)
    run.reply("payments.charge")
    run.wake_until(lambda: run.state.attention != "none")
    assert run.state.attention == "in_doubt"
    assert run.undos == []
    run.reply("bank.payout")
    assert run.status == "completed"


def test_a_person_resolves_a_step_in_doubt(begin: Any) -> None:
    @saga("paying")
    async def paying(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        await s.call(payout, order)

    run = begin(paying)
    run.reply("payments.charge")
    run.wake_until(lambda: run.state.attention != "none")
    run.happen(ResolveStep(step="bank.payout", outcome="failure", reason="never arrived", actor="ann"))
    assert run.undos == ["payments.charge"]
    run.undone("payments.charge")
    assert run.status == "compensated"


def test_the_unknown_outcome_of_a_readonly_step_is_a_failure(begin: Any) -> None:
    @saga("scoring")
    async def scoring(s: Saga, order: Order) -> int:
        try:
            return await s.call(score, order)
        except ActivityTimeout:
            return -1

    run = begin(scoring)
    run.wake_until(lambda: run.state.ended)
    assert run.status == "completed"
    assert bytes(run.state.result or b"") == b"-1"


def test_a_bug_in_saga_code_blocks_the_saga_and_undoes_nothing(begin: Any) -> None:
    @saga("buggy")
    async def buggy(s: Saga, order: Order) -> str:
        await s.call(charge, order, compensate=refund)
        return {}["missing"]  # type: ignore[no-any-return]

    run = begin(buggy)
    run.reply("payments.charge")
    assert run.state.attention == "blocked"
    assert "KeyError" in run.state.blocked.class_name
    assert run.undos == []
    assert run.status == "running"


def test_a_result_that_cannot_be_stored_blocks_the_saga(begin: Any) -> None:
    @saga("odd")
    async def odd(s: Saga, order: Order) -> object:
        return object()

    run = begin(odd)
    assert run.state.attention == "blocked"


def test_an_output_that_does_not_fit_the_declared_type_blocks_the_saga_until_a_person_corrects_it(begin: Any) -> None:
    run = begin(order_saga)
    run.reply("payments.charge", output={"charge": 1})
    assert run.state.attention == "blocked"
    assert "payments.charge" in run.state.blocked.message
    fixed = ResolveStep(step="payments.charge", outcome="success", output=e.msgspec.Raw(b'{"charge_id":"c"}'))
    run.happen(fixed)
    run.instance = rebuilt(run, order_saga)
    run.happen(RetryStep())
    assert run.commands[-1] == "stock.reserve"


def rebuilt(run: Run, definition: Any) -> Any:
    from segue.saga.replay import rebuild

    return rebuild("s-1", run.rows, definition, run.converter)


def test_a_blocked_saga_goes_on_with_mended_code_and_its_deadlines_moved(begin: Any) -> None:
    def version(mended: bool) -> Any:
        @saga("buggy", deadline=hours(1))
        async def buggy(s: Saga, order: Order) -> str:
            await s.call(charge, order, compensate=refund)
            if not mended:
                raise KeyError("oops")
            await s.call(reserve, order)
            return "ok"

        return buggy

    run = begin(version(False))
    run.reply("payments.charge")
    assert run.wake_at is None
    run.now += 3 * 3_600_000_000
    run.definition = version(True)
    run.instance = rebuilt(run, run.definition)
    run.happen(RetryStep())
    assert run.commands[-1] == "stock.reserve"
    run.wake(minutes(1))
    assert run.status == "running"
    run.reply("stock.reserve")
    assert run.status == "completed"


def test_an_exception_group_is_recorded_under_its_earliest_activity_error(begin: Any) -> None:
    @saga("group")
    async def group(s: Saga, order: Order) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(s.call(charge, order, compensate=refund))
            tasks.create_task(s.call(reserve, order, compensate=release))

    run = begin(group)
    run.reply("stock.reserve", "failure", error="sold_out")
    assert run.state.error.code == "sold_out"
    assert run.undos == ["payments.charge"]


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
    assert run.undos == ["slow", "later"] or run.undos == ["later", "slow"]


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
    edited = e.msgspec.Raw(b'{"input":{"id":"o-2"},"output":null}')
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
    with pytest.raises(Nondeterminism, match=r"history has StepScheduled payments.charge.*asks for StepScheduled stock"):
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
