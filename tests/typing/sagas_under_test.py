# pyright: reportUnnecessaryTypeIgnoreComment=true
"""What type checkers must infer of tests of sagas, and what they must refuse; nothing here is run (see sagas.py)."""

from __future__ import annotations

from typing import assert_type

from segue.contract import Undo, hours, minutes
from segue.testing import Case, Handlers, Outcome, Report, SagaTest, explore, given
from segue.testing.plugin import Explore
from tests.typing.sagas import (
    Charged,
    Decision,
    Order,
    Shipped,
    charge,
    decision,
    order_saga,
    refund,
    reserve,
    ship,
    shipped_share,
)


async def charge_later(order: Order) -> Charged:
    return Charged(order.id)


def give_back(undo: Undo[Order, Charged]) -> None:
    assert_type(undo.output, Charged | None)


def mocks(order: Order) -> None:
    t = SagaTest(order_saga)
    assert_type(t, SagaTest[Order, Shipped])
    t.mock(charge, returns=Charged("ch-1"))
    t.mock(charge, lambda given: Charged(given.id), delay=minutes(1))
    t.mock(charge, charge_later)
    t.mock(refund, give_back)
    t.mock(reserve, returns=None)
    t.mock(ship, raises=TimeoutError)
    t.mock(ship, side_effects=[ConnectionError(), Shipped(tracking="p")])
    t.mock(ship, retry="busy")
    t.mock(ship, silent=True)
    t.signal(decision, Decision(True), after=hours(1))
    outcome = t.run(order)
    assert_type(outcome, Outcome[Shipped])
    assert_type(outcome.result, Shipped)
    assert_type(outcome.query(shipped_share), float | None)
    assert_type(t.inputs(charge), list[Order])


def mistakes_in_mocks(order: Order, shipped: Shipped) -> None:
    t = SagaTest(order_saga)
    t.mock(charge, returns=shipped)  # type: ignore[misc] # another output
    t.mock(reserve, returns=1)  # type: ignore[misc] # it answers with nothing
    t.mock(refund, charge_later)  # type: ignore[arg-type] # another input
    t.mock(charge, returns=Charged("a"), silent=True)  # type: ignore[call-overload] # two ways to answer
    t.mock(charge, retry=3)  # type: ignore[call-overload] # a code, not a number
    t.signal(decision, "yes")  # type: ignore[misc] # another value
    t.run(shipped)  # type: ignore[arg-type] # another input


def conversations(order: Order, shipped: Shipped) -> None:
    given(order_saga, order).expect(charge, order).reply(Charged("ch-1")).expect(reserve).reply(None).expect(
        refund, Undo(order, Charged("ch-1"))
    ).reply(None).expect_completed(shipped)
    assert_type(given(order_saga, order).outcome.result, Shipped)


def mistakes_in_conversations(order: Order, shipped: Shipped) -> None:
    given(order_saga, shipped)  # type: ignore[misc] # another input
    given(order_saga, order).expect(charge, shipped)  # type: ignore[misc] # another input
    given(order_saga, order).expect(charge).reply(shipped)  # type: ignore[arg-type] # another output
    given(order_saga, order).expect_completed(order)  # type: ignore[arg-type] # another result


def explorations(order: Order, segue_explore: Explore) -> None:
    def check(case: Case) -> None:
        assert case.status != "failed"

    typed = Handlers().on(charge, charge_later).on(refund, give_back)
    assert_type(explore(order_saga, input=order, activities=typed, check=check), Report)
    assert_type(segue_explore(order_saga, input=order, activities={charge: charge_later}, budget=10), Report)
    typed.on(charge, give_back)  # type: ignore[arg-type] # another input
    typed.on(reserve, charge_later)  # type: ignore[arg-type] # it answers with nothing
    explore(order_saga, input="o-1", activities=typed)  # type: ignore[misc] # another input
