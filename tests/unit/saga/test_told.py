"""What the saga's code is told of a step, and what becomes of the step, agree."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from segue.contract import Signal, hours, minutes
from segue.saga import ActivityError, ActivityTimeout, Retry, Saga, saga
from segue.saga import events as e
from segue.saga.definition import SagaDefinition
from segue.saga.effects import Ignored
from segue.saga.fold import fold
from segue.saga.inputs import ResolveStep, RetryStep, SkipStep
from segue.saga.replay import rebuild
from segue.testing.told import Told, disagreements
from tests.unit.saga.kit import Order, Run, charge, payout, raw, refund, ship

note = Signal("note", str)


def falling_back(*, bug: bool) -> SagaDefinition[Order, str]:
    @saga("o")
    async def o(s: Saga, order: Order) -> str:
        try:
            await s.call(charge, order, compensate=refund, timeout=minutes(1))
        except ActivityTimeout:
            if bug:
                raise KeyError("a template is missing") from None
            return "not paid"
        await s.call(ship, order)
        return "paid"

    return o


def beside(*, bug: bool, optional: bool = False) -> SagaDefinition[Order, str]:
    """The charge is under way while the code handles a note, which blocks it."""

    @saga("o")
    async def o(s: Saga, order: Order) -> str:
        async def notes() -> None:
            await s.receive(note)
            if bug:
                raise KeyError("a bug in handling notes")

        noted = asyncio.create_task(notes())
        calling = s.call(charge, order, compensate=refund, retry=Retry(attempts=1), optional=optional)
        paying = asyncio.create_task(calling)
        done, _ = await asyncio.wait([noted, paying], return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()
        try:
            return f"told {await paying}"
        except ActivityError as error:
            return f"told {error.failure_code}"

    return o


def mend(run: Run, definition: SagaDefinition[Any, Any]) -> None:
    """Code without the bug is deployed, and a person retries."""
    run.definition = definition
    run.instance = rebuild("s-1", run.rows, definition, run.converter)
    run.happen(RetryStep())
    agrees(run)


def agrees(run: Run) -> None:
    told = Told("s-1")
    for at, payload in run.rows:
        told.transition(e.decode_events(payload), at)
        assert list(disagreements(told)) == []


def result(run: Run) -> Any:
    return bytes(run.state.result or b"").decode()


def test_a_success_after_blocked_code_was_to_be_told_of_silence_does_not_change_what_it_is_told() -> None:
    run = Run(falling_back(bug=True))
    run.wake_until(lambda: run.state.blocked)
    assert run.undos == ["payments.charge"]
    run.reply("payments.charge")
    mend(run, falling_back(bug=False))
    assert result(run) == '"not paid"'
    assert run.commands[-1] == "undo payments.charge"


def test_an_unknown_outcome_that_is_undone_is_not_replaced_by_a_success_while_the_code_is_blocked() -> None:
    run = Run(beside(bug=True))
    run.signal(note, "hi")
    run.reply("payments.charge", "retry", effect_unknown=True, error="lost")
    run.reply("payments.charge")
    assert run.undos == ["payments.charge"]
    mend(run, beside(bug=False))
    assert result(run) == '"told lost"'


def test_a_refusal_is_replaced_by_a_success_while_the_code_is_blocked_and_the_success_stands() -> None:
    run = Run(beside(bug=True))
    run.signal(note, "hi")
    run.reply("payments.charge", "failure", error="no_money")
    run.reply("payments.charge")
    assert run.undos == []
    mend(run, beside(bug=False))
    assert result(run).startswith('"told Charged')
    assert (run.status, run.undos) == ("completed", [])


def test_an_output_that_does_not_fit_is_resolved_by_a_person_and_nothing_is_undone() -> None:
    run = Run(falling_back(bug=False))
    run.reply("payments.charge", output={"chargeId": "ch-1"})
    assert run.state.attention == "blocked"
    run.happen(ResolveStep(step="payments.charge", outcome="success", output=raw({"charge_id": "ch-1"})))
    mend(run, falling_back(bug=False))
    run.reply("shipping.ship")
    assert (run.status, result(run), run.undos) == ("completed", '"paid"', [])


def test_a_person_can_not_resolve_what_is_undone_already() -> None:
    run = Run(falling_back(bug=True))
    run.wake_until(lambda: run.state.blocked)
    run.undone("payments.charge")
    ignored = run.happen(ResolveStep(step="payments.charge", outcome="success", output=raw({"charge_id": "ch-1"})))
    assert ignored == Ignored("not_allowed", "the undo of payments.charge is done; nothing is left to resolve")


def test_a_step_that_a_person_skipped_and_that_succeeds_late_is_only_recorded_until_a_later_undo() -> None:
    @saga("o")
    async def o(s: Saga, order: Order) -> str:
        await s.call(charge, order, compensate=refund, on_failure="park", timeout=minutes(5))
        await s.call(ship, order, timeout=hours(9))
        return "shipped"

    run = Run(o)
    run.wake_until(lambda: run.state.troubled)
    run.happen(SkipStep(step="payments.charge", reason="paid in cash"))
    run.reply("payments.charge")
    assert (run.state.steps["payments.charge"].status, run.undos) == ("succeeded", [])
    agrees(run)
    run.cancel()
    assert run.undos == ["payments.charge"]


@pytest.mark.parametrize("outcome", ["unknown", "refused"])
def test_optional_code_goes_on_without_an_error_whatever_is_found_out_later(outcome: str) -> None:
    run = Run(beside(bug=True, optional=True))
    run.signal(note, "hi")
    run.reply("payments.charge", "retry", effect_unknown=True, error="lost")
    if outcome == "refused":
        run.happen(ResolveStep(step="payments.charge", outcome="failure", reason="asked them"))
        assert run.state.steps["payments.charge"].status == "skipped"
    mend(run, beside(bug=False, optional=True))
    assert (run.status, result(run), run.undos) == ("completed", '"told None"', [])


def test_an_optional_step_that_is_silent_after_the_pivot_is_gone_on_without() -> None:
    @saga("o")
    async def o(s: Saga, order: Order) -> str:
        s.pivot()
        charged = await s.call(charge, order, compensate=refund, optional=True, timeout=minutes(1))
        return f"told {charged}"

    run = Run(o)
    run.wake_until(lambda: run.state.ended)
    assert (run.status, result(run)) == ("completed", '"told None"')


@saga("impatient")
async def impatient(s: Saga, order: Order) -> str:
    try:
        async with asyncio.timeout(5):
            await s.call(charge, order, compensate=refund, retry=Retry(initial=minutes(1)))
    except TimeoutError:
        return "given up"
    return "paid"


def test_a_call_that_is_given_up_while_it_is_known_to_have_no_effect_is_not_undone() -> None:
    run = Run(impatient)
    run.reply("payments.charge", "retry", error="busy")
    run.wake_until(lambda: run.state.ended)
    assert (run.status, result(run), run.undos) == ("completed", '"given up"', [])


def test_a_call_that_is_given_up_and_of_which_nobody_knows_the_effect_is_undone() -> None:
    run = Run(impatient)
    run.reply("payments.charge", "retry", error="busy", effect_unknown=True)
    run.wake_until(lambda: bool(run.undos))
    assert run.undos == ["payments.charge"]


def test_a_history_in_which_a_late_success_replaced_what_was_to_be_told_is_told_as_it_was() -> None:
    run = Run(falling_back(bug=True))
    run.wake_until(lambda: run.state.blocked)
    before = [
        e.StepSucceeded(step="payments.charge", output=raw({"charge_id": "ch-1"}), late=True),
    ]
    run.rows.append((run.now, e.encode_events(before)))
    state = fold("s-1", run.rows)
    assert [bytes(one.payload) for one in state.deliveries] == [b'{"charge_id":"ch-1"}']
    run.instance = rebuild("s-1", run.rows, falling_back(bug=False), run.converter)
    run.happen(RetryStep())
    assert run.commands[-1] == "shipping.ship"


def test_a_parked_step_does_not_park_where_the_code_can_do_without_it() -> None:
    @saga("o")
    async def o(s: Saga, order: Order) -> str:
        await s.call(payout, order, optional=True, on_failure="park", timeout=minutes(1))
        return "went on"

    run = Run(o)
    run.wake_until(lambda: run.state.ended)
    assert run.status == "completed"
