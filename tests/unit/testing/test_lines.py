"""A service's worker in the kit: as many slots as the real one, and one key at a time."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from segue.activities.loop import LoopOptions
from segue.contract import Activity, seconds
from segue.errors import UsageError
from segue.saga import Retry, Saga, saga
from segue.testing import SagaTest
from segue.testing.lines import SLOTS

double = Activity("numbers.double", int, int)
quick = Activity("numbers.quick", int, int)

QUARTER = timedelta(seconds=0.25)


@saga("spread")
async def spread(s: Saga, count: int) -> int:
    return len(await s.map(double, list(range(count))))


@saga("one-entity")
async def one_entity(s: Saga, key: str) -> list[int]:
    return list(await asyncio.gather(s.call(double, 1, key="A"), s.call(double, 2, key=key)))


@saga("slow-and-quick")
async def slow_and_quick(s: Saga, key: str) -> str:
    slow = s.call(double, 1, key="A")
    await asyncio.gather(slow, s.call(quick, 2, key=key, timeout=seconds(5), retry=Retry(attempts=1)))
    return "done"


def quarter_second(count: int, slots: int = SLOTS) -> timedelta:
    test = SagaTest(spread, slots=slots)
    test.mock(double, lambda n: 2 * n, delay=QUARTER)
    outcome = test.run(count)
    assert outcome.result == count
    return outcome.elapsed


def test_the_kit_has_as_many_slots_as_a_worker() -> None:
    assert LoopOptions().concurrency == SLOTS


@pytest.mark.parametrize(("count", "slots", "rounds"), [(16, 16, 1), (17, 16, 2), (40, 16, 3), (40, 1, 40), (4, 40, 1)])
def test_a_map_takes_as_many_rounds_as_its_items_need_slots(count: int, slots: int, rounds: int) -> None:
    assert quarter_second(count, slots) == rounds * QUARTER


@pytest.mark.parametrize(("key", "rounds"), [("A", 2), ("B", 1)])
def test_two_calls_of_one_key_are_handled_one_after_the_other(key: str, rounds: int) -> None:
    test = SagaTest(one_entity)
    test.mock(double, lambda n: 2 * n, delay=QUARTER)
    outcome = test.run(key)
    assert outcome.result == [2, 4]
    assert outcome.elapsed == rounds * QUARTER


def test_a_quick_call_is_not_behind_a_slow_one_of_another_key() -> None:
    test = SagaTest(slow_and_quick)
    test.mock(double, returns=2, delay=seconds(60))
    test.mock(quick, returns=2, delay=QUARTER)
    outcome = test.run("B")
    assert outcome.status == "completed"
    done = [event.at for event in outcome.history if event.type == "StepSucceeded"]
    assert done == [QUARTER, seconds(60)]


def test_a_quick_call_behind_a_slow_one_of_its_key_expires_and_is_not_done() -> None:
    test = SagaTest(slow_and_quick)
    test.mock(double, returns=2, delay=seconds(60))
    test.mock(quick, returns=2, delay=QUARTER)
    outcome = test.run("A")
    assert outcome.status != "completed"
    assert test.inputs(quick) == []


def test_a_worker_without_slots_is_refused() -> None:
    with pytest.raises(UsageError, match="slots=0"):
        SagaTest(spread, slots=0)
