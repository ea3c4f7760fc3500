"""Sagas of several runs under the test kit; the page for users is run."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from segue.contract import Activity, Signal, days, minutes
from segue.saga import ActivityRejected, Saga, saga
from segue.saga.failures import Nondeterminism
from segue.testing import SagaBlocked, SagaTest, explore, given, replay
from segue.testing.faults import Fault

PAGE = Path(__file__).resolve().parents[3] / "docs/how-to/sagas-that-live-long.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)

take = Activity("bank.take", int)
give = take.undo("bank.give")
look = Activity("bank.look", int, int, readonly=True)
stop = Signal("stop", bool)


def build(step: str | None = None) -> Any:
    @saga("rounds", deadline=days(2))
    async def rounds(s: Saga, left: int) -> str:
        """Takes, and takes again in the next run; what one run has taken stands when the next begins."""
        await s.call(take, left, compensate=give, step=step)
        await s.call(look, left)
        if left:
            s.pivot()
            s.continue_as_new(left - 1)
        return f"done in run {s.run}"

    return rounds


ROUNDS = build()


def test_the_example_of_the_page_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    page = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)
    names = vars(page)
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
    [test] = [value for name, value in names.items() if name.startswith("test_")]
    test()


def test_a_saga_test_goes_through_all_runs() -> None:
    t = SagaTest(ROUNDS)
    t.mock(take, returns=None)
    t.mock(look, returns=1, delay=minutes(4))
    outcome = t.run(3)
    assert outcome.result == "done in run 4"
    assert t.inputs(take) == [3, 2, 1, 0]
    assert outcome.elapsed == minutes(16)
    assert "run 2 begins with 2" in outcome.conversation


def test_only_the_last_run_is_undone() -> None:
    t = SagaTest(ROUNDS)
    t.mock(take, returns=None)
    t.mock(look, side_effects=[1, ActivityRejected("closed")])
    outcome = t.run(1)
    assert (outcome.status, t.compensated) == ("compensated", [give])
    assert [event.payload["step"] for event in outcome.history if event.type == "StepUndone"] == ["bank.take@2"]


def test_line_by_line_the_runs_follow_each_other() -> None:
    (
        given(ROUNDS, 1)
        .expect(take, 1).reply(None)
        .expect(look, 1).reply(5)
        .expect(take, 0).reply(None)
        .expect(look, 0).reply(5)
        .expect_completed()
    )  # fmt: skip


def test_a_run_that_would_forget_an_undo_fails_the_test_with_the_sentence() -> None:
    @saga("forgetful")
    async def forgetful(s: Saga, left: int) -> None:
        await s.call(take, left, compensate=give)
        s.continue_as_new(left)

    t = SagaTest(forgetful)
    t.mock(take, returns=None)
    with pytest.raises(SagaBlocked, match=r"the undo of bank\.take would be forgotten; call s\.pivot\(\) first"):
        t.run(1)


def test_every_fault_at_every_step_of_all_runs() -> None:
    report = explore(ROUNDS, input=1, activities={take: lambda n: None, give: lambda undo: None, look: lambda n: 1})
    report.raise_for_violations()
    assert any("bank.take@2" in str(case.plan) for case in report.cases)


def test_a_saga_that_lives_for_ever_is_left_alive_and_its_later_runs_are_one_row() -> None:
    @saga("for-ever")
    async def for_ever(s: Saga, n: int) -> None:
        await s.call(take, n, compensate=give)
        await asyncio.sleep(86_400 * 30)
        s.pivot()
        s.continue_as_new(n + 1)

    activities: dict[Activity[Any, Any], Callable[[Any], Any]] = {take: lambda n: None}
    report = explore(for_ever, input=1, activities=activities, until=days(70), budget=300)
    report.raise_for_violations()
    assert report.complete
    assert report.cases[0].outcome == "running"
    assert report.cases[0].standing == ("bank.take",) * 3
    table = report.outcomes()
    assert {"bank.take", "bank.take@n"} <= set(table)
    assert table["bank.take@n"][Fault.REFUSED] == {"failed": 2}


def test_a_recorded_history_is_replayed_from_the_last_run() -> None:
    t = SagaTest(ROUNDS)
    t.mock(take, returns=None)
    t.mock(look, silent=True)
    t.mock(look, side_effects=[1, 1])
    t.signal(stop, True)
    history = t.run(1).export()
    assert replay(history, ROUNDS, exact=True) == {"saga-1": "completed"}
    with pytest.raises(Nondeterminism, match=r"transition 5 .*bank\.take@2"):
        replay(history, build("renamed"))
