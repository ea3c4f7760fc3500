"""A null where the contract promises a value: the code is not told, and nothing is undone."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from segue.contract import Activity
from segue.saga import Saga, saga
from segue.saga import events as e
from segue.saga.inputs import ResolveStep, SkipStep
from segue.saga.replay import rebuild
from segue.topics.converter import Converter
from tests.unit.saga.kit import Order, charge, decision, raw, refund, reserve
from tests.unit.saga.sagas import order_saga

maybe: Activity[Order, Any] = Activity("risk.maybe", Order, cast("Any", int | None))


@saga("nulls")
async def nulls(s: Saga, order: Order) -> str:
    charged = await s.call(charge, order, compensate=refund, on_failure="park")
    return charged.charge_id


def test_a_null_for_an_output_that_may_not_be_one_blocks_the_saga_and_undoes_nothing(begin: Any) -> None:
    run = begin(order_saga)
    run.reply("payments.charge", output=None)
    assert (run.status, run.state.attention) == ("running", "blocked")
    message = run.state.blocked.message
    assert message.startswith("the output of payments.charge does not fit the declared type: not a Charged")
    assert "null" in message
    assert run.undos == []


def test_a_null_for_a_signal_that_may_not_be_one_never_reaches_the_code(begin: Any) -> None:
    @saga("asks")
    async def asks(s: Saga, order: Order) -> str:
        told: bool = await s.receive(decision)
        return f"told {told}"

    run = begin(asks)
    run.signal(decision, None)
    assert run.state.result is None


def test_an_output_that_may_be_null_is_null(begin: Any) -> None:
    @saga("maybe")
    async def maybe_saga(s: Saga, order: Order) -> str:
        await s.call(reserve, order)
        found: Any = await s.call(maybe, order)
        return f"it is {found}"

    run = begin(maybe_saga)
    run.reply("stock.reserve", output=None)
    run.reply("risk.maybe", output=None)
    assert bytes(run.state.result) == b'"it is None"'


def test_who_resolves_a_step_without_the_output_that_its_contract_promises_blocks_it(begin: Any) -> None:
    run = begin(nulls)
    run.reply("payments.charge", "failure")
    run.happen(ResolveStep(step="payments.charge", outcome="success", output=raw(None), reason="seen", actor="ann"))
    assert (run.status, run.state.attention) == ("running", "blocked")
    assert run.undos == []


def test_who_skips_a_step_lets_the_code_go_on_without_its_output(begin: Any) -> None:
    @saga("skips")
    async def skips(s: Saga, order: Order) -> str:
        charged = await s.call(charge, order, on_failure="park")
        return f"{charged!r}"

    run = begin(skips)
    run.reply("payments.charge", "failure")
    run.happen(SkipStep(step="payments.charge", reason="not needed", actor="ann"))
    assert bytes(run.state.result) == b'"None"'


def test_an_older_history_in_which_the_code_went_on_with_a_null_is_still_replayed() -> None:
    @saga("older")
    async def older(s: Saga, order: Order) -> str:
        charged = await s.call(charge, order)
        await s.call(reserve, order)
        return f"{charged!r}"

    begun = e.Started(coordinator="test", definition="older", version=1, input=raw({"id": "o-1"}))
    asked = e.StepScheduled(step="payments.charge", input=raw({}), timeout=1)
    first: list[e.AnyEvent] = [begun, asked, e.CommandSent(step="payments.charge", attempt=1)]
    then: list[e.AnyEvent] = [
        e.StepSucceeded(step="payments.charge", output=msgspec.Raw(b"null")),
        e.StepScheduled(step="stock.reserve", input=raw({}), timeout=1),
        e.CommandSent(step="stock.reserve", attempt=1),
    ]
    rows = [(1, e.encode_events(first)), (2, e.encode_events(then))]

    instance = rebuild("s-1", rows, older, Converter())
    assert instance.state.blocked is None
    assert list(instance.state.open_steps) == ["stock.reserve"]
