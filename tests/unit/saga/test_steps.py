"""Steps: forward, retried, silent, spent."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from msgspec.structs import replace

from segue.contract import hours, minutes
from segue.saga import ActivityRejected, ActivityTimeout, Retry, Saga, SagaFailed, saga
from segue.saga import events as e
from segue.saga.effects import Ignored
from segue.saga.inputs import Reply, ResolveStep, RetryStep, SkipStep
from segue.saga.transition import block
from tests.unit.saga.kit import (
    Order,
    Run,
    charge,
    payout,
    refund,
    release,
    reserve,
    score,
)
from tests.unit.saga.sagas import order_saga, to_shipping

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
    waits: list[int] = []
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


def test_a_persons_retry_in_doubt_asks_a_silent_participant_again_and_has_one_that_answered_try_again(
    begin: Any,
) -> None:
    @saga("paying")
    async def paying(s: Saga, order: Order) -> None:
        await s.call(payout, order)

    run = begin(paying)
    run.wake_until(lambda: run.state.attention == "in_doubt")
    run.happen(RetryStep())
    assert run.sent[-1] == replace(run.sent[0], sent_at=run.sent[-1].sent_at, deadline=run.sent[-1].deadline)
    # It has answered, and keeps the answer: the same command would bring the same one for ever.
    run.reply("bank.payout", "failure", error="crashed", effect_unknown=True)
    assert run.state.attention == "in_doubt"
    run.happen(RetryStep())
    assert run.sent[-1].attempt == 2
    run.reply("bank.payout")
    assert run.status == "completed"


def test_a_persons_retry_in_doubt_does_nothing_anew_for_a_saga_that_is_being_undone(begin: Any) -> None:
    @saga("paying")
    async def paying(s: Saga, order: Order) -> None:
        await s.call(payout, order)

    run = begin(paying)
    run.reply("bank.payout", "failure", error="crashed", effect_unknown=True)
    run.cancel()
    assert run.state.attention == "in_doubt"
    run.happen(RetryStep())
    assert run.sent[-1].attempt == 1


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
        missing: dict[str, str] = {}
        return missing["key"]

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
    fixed = ResolveStep(step="payments.charge", outcome="success", output=msgspec.Raw(b'{"charge_id":"c"}'))
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


def test_a_saga_that_parked_and_was_then_blocked_is_released_without_its_code(begin: Any) -> None:
    @saga("past")
    async def past(s: Saga, order: Order) -> None:
        s.pivot()
        raise SagaFailed("no way on")

    run = begin(past)
    assert run.state.attention == "parked"
    run._stored(block(run.instance, e.Failure(code="undecodable", message="?", kind="saga"), run.now))
    assert run.state.attention == "blocked"
    run.happen(RetryStep())
    assert (run.state.attention, run.ignored) == ("parked", [])


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
