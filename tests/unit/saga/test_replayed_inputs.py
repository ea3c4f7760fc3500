"""A replay asks for the same steps with the same inputs, or the saga is blocked; a new default makes no difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from segue.contract import Activity, Attribute
from segue.saga import Saga, saga
from segue.saga import events as e
from segue.saga.failures import Nondeterminism
from segue.saga.replay import rebuild
from tests.unit.saga.kit import Order, Run

double = Activity("math.double", int, int)
seen = Attribute("seen", int)


def doubling(*numbers: int) -> Any:
    """As after a restart under another hash seed: the same steps in the same order, each for another item."""

    @saga("doubling")
    async def define(s: Saga, order: Order) -> list[int]:
        return [await s.call(double, number) for number in numbers]

    return define


def counting(number: int) -> Any:
    @saga("counting")
    async def define(s: Saga, order: Order) -> None:
        s.set(seen, number)
        await s.call(double, 1)

    return define


def in_rules_of_before(rows: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    return [(at, payload.replace(b'"rules":2', b'"rules":1')) for at, payload in rows]


def test_another_order_of_the_same_items_is_noticed_at_the_replay() -> None:
    run = Run(doubling(1, 2))
    with pytest.raises(Nondeterminism, match=r"StepScheduled math\.double is asked for with another value"):
        rebuild("s-1", run.rows, doubling(2, 1), run.converter)


def test_another_value_of_an_attribute_is_noticed_at_the_replay() -> None:
    run = Run(counting(1))
    with pytest.raises(Nondeterminism, match=r"AttributeSet seen is asked for with another value"):
        rebuild("s-1", run.rows, counting(2), run.converter)


def test_of_a_history_from_before_it_is_only_warned() -> None:
    run = Run(doubling(1, 2))
    warnings: list[str] = []
    instance = rebuild("s-1", in_rules_of_before(run.rows), doubling(2, 1), run.converter, warn=warnings.append)
    assert instance.program is not None
    assert len(warnings) == 1


def test_no_payload_is_in_what_is_said_about_the_difference() -> None:
    run = Run(doubling(4711, 2))
    with pytest.raises(Nondeterminism) as raised:
        rebuild("s-1", run.rows, doubling(2, 4711), run.converter)
    assert "4711" not in str(raised.value)


def test_a_new_field_with_a_default_is_no_difference() -> None:
    def of(type: Any) -> Any:
        activity = Activity("math.take", type, int)

        @saga("taking")
        async def taking(s: Saga, order: Order) -> int:
            return await s.call(activity, type(1))

        return taking

    @dataclass
    class Before:
        a: int

    @dataclass
    class After:
        a: int
        b: str = "new"

    run = Run(of(Before))
    assert rebuild("s-1", run.rows, of(After), run.converter).program is not None


def test_an_input_that_a_person_edited_is_the_persons() -> None:
    from segue.saga.inputs import RetryStep
    from tests.unit.saga.kit import raw

    @saga("parked")
    async def parked(s: Saga, order: Order) -> int:
        return await s.call(double, 1, on_failure="park")

    run = Run(parked, evict=True)
    run.reply("math.double", "failure")
    run.happen(RetryStep(step="math.double", edited=raw(5)))
    run.reply("math.double", output=10)
    assert (run.status, run.result) == ("completed", 10)
    assert run.events(e.StepScheduled)[0].input == raw(1)
