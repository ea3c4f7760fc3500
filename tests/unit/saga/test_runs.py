"""`continue_as_new`: a saga that lives long goes on in new runs, each with an empty history."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from segue.contract import Attribute, Signal, hours, minutes
from segue.ids import command_id
from segue.limits import Limits
from segue.saga import ActivityError, Registry, Retry, Saga, saga
from segue.saga import events as e
from segue.saga.effects import Ignored
from segue.saga.fold import fold
from segue.saga.inputs import RetryStep
from segue.saga.replay import rebuild
from segue.saga.transition import go_on
from tests.unit.saga.kit import Order, Run, charge, essence, payout, raw, refund, reserve, score

tick = Signal("tick", int)
total = Attribute("total", int)


@saga("counter", deadline=hours(10))
async def counter(s: Saga, count: int) -> int:
    """Adds up what it is sent, one tick a run."""
    count += await s.receive(tick)
    s.set(total, count)
    await s.call(score, Order(id=f"o-{count}"))
    if count < 100:
        s.continue_as_new(count)
    return count


def of_run(run: Run) -> tuple[int, int, int]:
    return run.state.run, run.state.first_seq, run.state.revision


def ticked(run: Run, value: int) -> None:
    run.signal(tick, value)
    run.reply(run.commands[-1])


def test_a_run_that_ends_and_the_one_that_begins_are_two_transitions(begin: Any) -> None:
    run = begin(counter, 5)
    ticked(run, 2)
    assert of_run(run) == (2, 4, 4)
    last, first = (e.decode_events(payload) for _, payload in run.rows[-2:])
    assert type(last[-1]) is e.RunEnded
    assert [type(event) for event in first] == [e.Continued, e.ReceiveStarted]
    assert bytes(run.state.input) == b"7"
    assert bytes(run.state.started_with) == b"5"


def test_the_state_is_the_fold_of_the_newest_run_alone(begin: Any) -> None:
    run = begin(counter, 0)
    for value in (1, 2, 3):
        ticked(run, value)
    assert run.state.run == 4
    newest = run.rows[run.state.first_seq - 1 :]
    assert len(newest) == 1
    assert essence(fold("s-1", newest)) == essence(run.state)


def test_the_result_of_the_last_run_is_the_sagas(begin: Any) -> None:
    run = begin(counter, 0)
    ticked(run, 40)
    ticked(run, 70)
    assert (run.status, bytes(run.state.result)) == ("completed", b"110")


def test_steps_and_commands_of_different_runs_have_different_names_and_ids(begin: Any) -> None:
    run = begin(counter, 0)
    for value in (1, 2, 3):
        ticked(run, value)
    assert run.commands == ["risk.score", "risk.score@2", "risk.score@3"]
    assert len({command.id for command in run.sent}) == 3
    assert run.sent[1].id == command_id("test", "s-1", "risk.score@2", "invoke", 1)


def test_occurrences_within_a_run_are_counted_anew(begin: Any) -> None:
    @saga("mapping")
    async def mapping(s: Saga, count: int) -> None:
        await s.call(score, Order())
        await s.call(score, Order())
        await s.map(score, [Order()])
        await s.call(score, Order(), step="named")
        s.continue_as_new(count + 1)

    run = begin(mapping, 0)
    for _ in range(6):
        run.reply(run.commands[-1])
    assert run.commands[:4] == ["risk.score", "risk.score#2", "risk.score#3[0]", "named"]
    assert run.commands[4:] == ["risk.score@2", "risk.score@2#2", "risk.score@2#3[0]"]


def test_ids_and_random_numbers_differ_from_run_to_run(begin: Any) -> None:
    drawn = Attribute("drawn", list[str])

    @saga("drawing")
    async def drawing(s: Saga, before: list[str]) -> None:
        before = [*before, str(s.uuid()), str(s.random.random()), str(s.run)]
        s.set(drawn, before)
        await s.receive(tick)
        s.continue_as_new(before)

    run = begin(drawing, [])
    for n in range(3):
        run.signal(tick, n)
    values = msgspec.json.decode(run.state.attributes["drawn"])
    assert values[2::3] == ["1", "2", "3", "4"]
    assert len(set(values)) == 12


def test_signals_that_nobody_has_received_are_received_by_later_runs_in_their_order(begin: Any) -> None:
    run = begin(counter, 0)
    for value in (1, 2, 4):
        run.signal(tick, value)
    for _ in range(3):
        run.reply(run.commands[-1])
    assert of_run(run)[0] == 4
    assert bytes(run.state.input) == b"7"
    assert run.state.signals == {}


def test_a_chain_of_runs_that_signals_wait_for_is_one_input(begin: Any) -> None:
    @saga("draining")
    async def draining(s: Saga, count: int) -> None:
        if count == 0:
            await s.call(score, Order())
        s.continue_as_new(count + await s.receive(tick))

    run = begin(draining, 0)
    for value in (1, 2, 4):
        run.signal(tick, value)
    run.reply("risk.score")
    assert run.state.run == 4
    assert bytes(run.state.input) == b"7"


def test_a_signal_that_the_code_was_not_told_before_it_continued_waits_again(begin: Any) -> None:
    @saga("impatient")
    async def impatient(s: Saga, count: int) -> None:
        try:
            count += await s.receive(tick, timeout=minutes(1))
        except TimeoutError:
            s.continue_as_new(count)
        s.continue_as_new(count + 1000)

    run = begin(impatient, 0)
    # The code is away while its time runs out and its signal comes.
    run.instance.program, kept = None, run.instance.program
    if kept is not None:
        kept.close()
    run.evict, evict = False, run.evict
    run.wake()
    run.signal(tick, 7)
    run.evict = evict
    run.instance = rebuild("s-1", run.rows, impatient, run.converter)
    run.signal(tick, 9)
    assert [bytes(event.input) for event in run.events(e.Continued)] == [b"0", b"1007", b"2016"]


def test_attributes_and_the_start_last(begin: Any) -> None:
    run = begin(counter, 0)
    started = run.state.started_at
    run.now += 5_000_000
    ticked(run, 3)
    assert bytes(run.state.attributes["total"]) == b"3"
    assert run.state.started_at == started
    assert run.state.updated_at > started


def test_the_deadline_goes_on_unless_a_new_one_is_given(begin: Any) -> None:
    @saga("renewing", deadline=hours(1))
    async def renewing(s: Saga, renew: bool) -> None:
        await s.receive(tick)
        s.continue_as_new(True, deadline=hours(1) if renew else None)

    run = begin(renewing, False)
    first = run.state.deadline
    run.now += 60_000_000
    run.signal(tick, 1)
    assert run.state.deadline == first
    run.signal(tick, 2)
    assert run.state.deadline == first + 60_000_000
    run.wake()
    assert run.status == "failed"
    assert run.state.error.code == "deadline"


def test_a_deadline_that_was_missed_after_the_pivot_does_not_stop_the_next_run(begin: Any) -> None:
    @saga("pivoting", deadline=hours(1))
    async def pivoting(s: Saga, count: int) -> None:
        s.pivot()
        await s.receive(tick)
        s.continue_as_new(count + 1)

    run = begin(pivoting, 0)
    run.wake()
    assert run.state.deadline_missed
    run.signal(tick, 1)
    assert run.state.run == 2
    assert run.state.deadline_missed
    assert run.wake_at is None


def test_a_pivot_ends_with_its_run(begin: Any) -> None:
    @saga("paying")
    async def paying(s: Saga, count: int) -> None:
        await s.call(charge, Order(), compensate=refund)
        if count == 0:
            s.pivot()
            s.continue_as_new(1)
        await s.call(reserve, Order())

    run = begin(paying, 0)
    run.reply("payments.charge")
    assert not run.state.pivot
    run.reply("payments.charge@2")
    run.reply("stock.reserve@2", "failure", error="none_left")
    assert run.undos == ["payments.charge@2"]
    run.undone("payments.charge@2")
    assert run.status == "compensated"


# --- what must not be forgotten


def test_a_run_with_something_to_undo_does_not_end_by_mistake(begin: Any) -> None:
    @saga("forgetful")
    async def forgetful(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund)
        s.continue_as_new(order)

    run = begin(forgetful)
    run.reply("payments.charge")
    assert (run.state.run, run.state.attention, run.state.blocked.code) == (1, "blocked", "ContractError")
    assert "the undo of payments.charge would be forgotten; call s.pivot() first" in run.state.blocked.message
    run.cancel()
    assert run.undos == ["payments.charge"]


def test_an_optional_step_with_a_compensation_counts_whatever_became_of_it(begin: Any) -> None:
    @saga("optional")
    async def optional(s: Saga, order: Order) -> None:
        await s.call(charge, order, compensate=refund, optional=True, timeout=minutes(1))
        s.continue_as_new(order)

    run = begin(optional)
    run.wake_until(lambda: run.state.blocked)
    assert "payments.charge would be forgotten" in run.state.blocked.message


def test_an_optional_call_that_is_abandoned_counts_too(begin: Any) -> None:
    @saga("abandoning")
    async def abandoning(s: Saga, order: Order) -> None:
        try:
            async with asyncio.timeout(1):
                await s.call(charge, order, compensate=refund, optional=True)
        except TimeoutError:
            s.continue_as_new(order)

    run = begin(abandoning)
    run.wake_until(lambda: run.state.blocked)
    assert "payments.charge would be forgotten" in run.state.blocked.message


def test_a_run_does_not_end_while_another_branch_waits_for_a_step(begin: Any) -> None:
    @saga("branching")
    async def branching(s: Saga, order: Order) -> None:
        async def turn() -> None:
            await s.receive(tick)
            s.continue_as_new(order)

        await asyncio.gather(turn(), s.call(score, order))

    run = begin(branching)
    run.signal(tick, 1)
    assert "risk.score is still open; await it" in run.state.blocked.message


def test_a_finally_that_calls_something_is_asked_again(begin: Any) -> None:
    @saga("finally")
    async def tidying(s: Saga, order: Order) -> None:
        await s.receive(tick)
        try:
            s.continue_as_new(order)
        finally:
            await s.call(charge, order, compensate=refund)

    run = begin(tidying)
    run.signal(tick, 1)
    run.reply("payments.charge")
    assert run.state.run == 1
    assert "continue_as_new: the undo of payments.charge would be forgotten" in run.state.blocked.message


def test_a_run_that_waits_for_nothing_is_a_bug_and_not_an_endless_loop(begin: Any) -> None:
    @saga("spinning")
    async def spinning(s: Saga, order: Order) -> None:
        s.continue_as_new(order)

    run = begin(spinning)
    assert "begin anew for ever" in run.state.blocked.message


def test_a_task_group_does_not_let_it_through(begin: Any) -> None:
    @saga("grouped")
    async def grouped(s: Saga, order: Order) -> None:
        async def branch() -> None:
            await s.receive(tick)
            s.continue_as_new(order)

        async with asyncio.TaskGroup() as group:
            group.create_task(branch())

    run = begin(grouped)
    run.signal(tick, 1)
    assert "a TaskGroup has caught it" in run.state.blocked.message


@pytest.mark.parametrize(
    ("input", "deadline", "sentence"),
    [("seven", None, "int"), (7, timedelta(0), "it must be positive")],
)
def test_what_can_be_no_next_run_blocks_this_one(begin: Any, input: Any, deadline: Any, sentence: str) -> None:
    @saga("wrong")
    async def wrong(s: Saga, count: int) -> None:
        await s.receive(tick)
        s.continue_as_new(input, deadline=deadline)

    run = begin(wrong, 1)
    run.signal(tick, 1)
    assert run.state.run == 1
    assert sentence in run.state.blocked.message


def test_mended_code_goes_on_where_the_code_could_not_continue() -> None:
    def build(mended: bool) -> Any:
        @saga("mending")
        async def mending(s: Saga, order: Order) -> None:
            await s.call(charge, order, compensate=refund)
            if mended:
                s.pivot()
            s.continue_as_new(order)

        return mending

    run = Run(build(False))
    run.reply("payments.charge")
    assert run.state.attention == "blocked"
    run.definition = run.successor = build(True)
    run.instance = rebuild("s-1", run.rows, run.definition, run.converter)
    run.happen(RetryStep())
    assert run.state.run == 2
    assert run.commands[-1] == "payments.charge@2"


# --- what a run leaves behind


@saga("leaving")
async def leaving(s: Saga, order: Order) -> None:
    """Its call is given up after a while, and undone while the run is over already."""
    try:
        async with asyncio.timeout(60):
            await s.call(charge, order, compensate=refund)
    except TimeoutError:
        s.continue_as_new(order)


def test_a_new_run_waits_for_the_undo_of_what_the_last_one_abandoned(begin: Any) -> None:
    run = begin(leaving)
    run.wake_until(lambda: run.undos)
    assert run.undos == ["payments.charge"]
    assert (run.state.run, run.state.next is not None) == (1, True)
    run.undone("payments.charge")
    assert run.state.run == 2
    assert run.commands[-1] == "payments.charge@2"


def test_what_comes_while_a_run_is_ending_is_kept_for_the_next_one(begin: Any) -> None:
    run = begin(leaving)
    run.wake_until(lambda: run.undos)
    run.signal(tick, 5)
    run.undone("payments.charge")
    assert {name: [bytes(x.payload) for x in waiting] for name, waiting in run.state.signals.items()} == {
        "tick": [b"5"]
    }


def test_a_saga_can_be_cancelled_while_its_run_is_ending(begin: Any) -> None:
    run = begin(leaving)
    run.wake_until(lambda: run.undos)
    run.cancel()
    run.undone("payments.charge")
    assert (run.status, run.state.run) == ("cancelled", 1)


def test_the_deadline_stops_a_saga_whose_run_is_ending(begin: Any) -> None:
    @saga("late", deadline=minutes(2), compensation=Retry(attempts=5), compensation_timeout=hours(5))
    async def late(s: Saga, order: Order) -> None:
        try:
            async with asyncio.timeout(60):
                await s.call(charge, order, compensate=refund)
        except TimeoutError:
            s.continue_as_new(order)

    run = begin(late)
    run.wake_until(lambda: run.state.stop)
    run.undone("payments.charge")
    assert (run.status, run.state.error.code, run.state.run) == ("compensated", "deadline", 1)


def test_a_new_run_waits_for_the_person_who_knows_what_became_of_a_step(begin: Any) -> None:
    @saga("doubting")
    async def doubting(s: Saga, order: Order) -> None:
        try:
            async with asyncio.timeout(60):
                await s.call(payout, order, timeout=minutes(2))
        except TimeoutError:
            s.continue_as_new(order)

    run = begin(doubting)
    run.wake_until(lambda: run.state.attention == "in_doubt")
    assert run.state.run == 1
    run.reply("bank.payout")
    assert run.state.run == 2


def test_a_failed_step_can_be_caught_and_the_next_run_tries_again(begin: Any) -> None:
    @saga("polling")
    async def polling(s: Saga, order: Order) -> None:
        try:
            await s.call(charge, order, compensate=refund, retry=Retry(attempts=1))
        except ActivityError:
            await asyncio.sleep(60)
            s.continue_as_new(order)

    run = begin(polling)
    run.reply("payments.charge", "failure", error="not_yet")
    run.wake()
    assert run.commands == ["payments.charge", "payments.charge@2"]
    run.reply("payments.charge@2")
    assert run.status == "completed"


def test_a_reply_to_an_earlier_run_is_none_of_this_ones(begin: Any) -> None:
    run = begin(counter, 0)
    ticked(run, 1)
    result = run.reply("risk.score")
    assert isinstance(result, Ignored)
    assert result.reason == "foreign"


# --- bounds and versions


def test_the_limit_of_the_history_is_that_of_one_run(begin: Any) -> None:
    run = begin(counter, 0, limits=Limits(history_events=4))
    for _ in range(20):
        ticked(run, 1)
    assert (run.state.run, run.state.attention) == (21, "none")
    assert run.state.revision > 40


def test_the_limit_says_how_to_keep_below_it(begin: Any) -> None:
    @saga("growing")
    async def growing(s: Saga, order: Order) -> None:
        while True:
            await s.call(score, order)

    run = begin(growing, limits=Limits(history_events=2))
    run.reply("risk.score")
    run.reply("risk.score#2")
    assert "continue_as_new" in run.state.blocked.message


def version(number: int, retry: Retry) -> Any:
    @saga("versioned", version=number, compensation=retry, compensation_timeout=hours(number))
    async def versioned(s: Saga, count: int) -> int:
        await s.receive(tick)
        s.continue_as_new(number)

    return versioned


def test_a_new_run_has_the_newest_version_and_never_an_older_one() -> None:
    one, two = version(1, Retry(attempts=3)), version(2, Retry(attempts=7))
    assert Registry([one, two]).successor("versioned", 1) is two
    assert Registry([one]).successor("versioned", 2) is None
    run = Run(one, 0)
    run.successor = two
    run.signal(tick, 1)
    assert (run.state.version, run.state.compensation.attempts) == (2, 7)
    assert run.state.compensation_timeout == 2 * 3600 * 1_000_000
    run.definition = version(2, Retry(attempts=7))
    run.evict = True
    run.signal(tick, 2)
    assert (run.state.run, bytes(run.state.input)) == (3, b"2")


def test_a_run_begins_without_its_code_and_waits_for_a_process_that_has_it() -> None:
    run = Run(leaving)
    run.wake_until(lambda: run.undos)
    run.successor = None
    run.undone("payments.charge")
    assert (run.state.run, run.state.undriven, run.state.version) == (2, True, 1)
    assert run.wake_at == run.state.updated_at
    run.instance = rebuild("s-1", run.rows, leaving, run.converter)
    run.wake()
    assert run.commands[-1] == "payments.charge@2"


def test_a_transition_that_ends_a_run_is_followed_at_once_by_whoever_sees_it() -> None:
    """Should a process ever store the one without the other, the saga is due."""
    run = Run(counter, 0)
    run.signal(tick, 1)
    run.instance = rebuild("s-1", run.rows, counter, run.converter)
    from segue.saga.inputs import Reply
    from segue.saga.transition import advance

    moved = advance(run.instance, Reply(command_id=run.sent[-1].id, outcome="success", body=raw(1)), run.now)
    assert not isinstance(moved, Ignored)
    assert run.state.run_is_over
    assert moved.wake_at == run.state.updated_at
    go_on(run.instance, counter, run.converter, run.now)
    assert run.state.run == 2


def test_a_name_that_is_too_long_with_the_number_of_its_run_blocks_the_saga(begin: Any) -> None:
    @saga("long-named")
    async def long_named(s: Saga, count: int) -> None:
        await s.call(score, Order(), step="n" * 254)
        s.continue_as_new(count + 1)

    run = begin(long_named, 0)
    run.reply("n" * 254)
    assert run.state.run == 2
    assert "has 256 characters, allowed are 255" in run.state.blocked.message
