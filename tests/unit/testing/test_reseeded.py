"""Code that goes over a set is found though each run of it in one process is the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from segue.contract import Activity
from segue.saga import Saga, saga
from segue.testing import NondeterministicSaga, SagaTest, explore, reseeded

look_up = Activity("stock.look_up", str, int, readonly=True)
ITEMS = frozenset(f"item-{n}" for n in range(20))


@dataclass(frozen=True)
class Order:
    items: frozenset[str] = field(default_factory=frozenset)


async def found(s: Saga, items: Iterable[str]) -> dict[str, int]:
    return {item: await s.call(look_up, item, step=f"look-{n}") for n, item in enumerate(items)}


@saga("unsorted")
async def unsorted(s: Saga, order: Order) -> dict[str, int]:
    return await found(s, order.items)


@saga("in-order")
async def in_order(s: Saga, order: Order) -> dict[str, int]:
    return await found(s, sorted(order.items))


def test_a_saga_that_goes_over_a_set_fails_its_test() -> None:
    t = SagaTest(unsorted)
    t.mock(look_up, len)
    with pytest.raises(NondeterministicSaga, match=r"another hash seed(.|\n)*stock.look_up(.|\n)*use sorted"):
        t.run(Order(ITEMS))


def test_one_that_sorts_it_passes_and_was_replayed() -> None:
    t = SagaTest(in_order)
    t.mock(look_up, len)
    outcome = t.run(Order(ITEMS))
    assert outcome.status == "completed"
    assert "hash seed" not in outcome.conversation


def test_an_exploration_reports_it_once() -> None:
    report = explore(unsorted, input=Order(ITEMS), activities={look_up: len}, budget=20)
    assert [x.rule for x in report.violations] == ["hash seeds"]
    assert not explore(in_order, input=Order(ITEMS), activities={look_up: len}, budget=20).violations


def test_where_no_process_can_be_started_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(pid: int) -> list[object]:
        raise OSError("no more processes")

    monkeypatch.setattr("segue.testing.reseeded._others", none)
    t = SagaTest(in_order)
    t.mock(look_up, len)
    assert "can't be started: no more processes" in t.run(Order(ITEMS)).conversation


def test_a_process_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.testing.reseeded._SERVE", "import sys; sys.stdin.readline()")
    lost = reseeded._others.__wrapped__(0)
    monkeypatch.setattr("segue.testing.reseeded._others", lambda pid: lost)
    t = SagaTest(in_order)
    t.mock(look_up, len)
    try:
        assert "a process with another hash seed has ended" in t.run(Order(ITEMS)).conversation
    finally:
        for other in lost:
            other.close()


def test_a_saga_that_no_other_process_can_import_is_said_to_be_untried() -> None:
    @saga("inner")
    async def inner(s: Saga, n: int) -> int:
        return n

    assert "not replayed under other hash seeds: saga 'inner' is not at the top level" in (
        SagaTest(inner).run(1).conversation
    )
    report = explore(inner, input=1, activities={})
    assert "not replayed under other hash seeds" in report.text()
