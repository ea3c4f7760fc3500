"""`explore` warns of lines of a saga that go over a set: one process never shows what another would do."""

from __future__ import annotations

from segue.contract import Activity
from segue.saga import Saga, saga
from segue.testing import explore

take = Activity("shop.take", str, readonly=True)


@saga("sets")
async def sets(s: Saga, names: list[str]) -> None:
    for name in set(names):
        await s.call(take, name)


def test_a_line_that_goes_over_a_set_is_a_warning_of_the_report() -> None:
    report = explore(sets, input=["a"], activities={take: lambda name: None}, budget=3)
    line = sets.function.__code__.co_firstlineno + 2
    [warning] = [line for line in report.text().splitlines() if "goes over the set" in line]
    assert warning.startswith(f"warning: test_explore_lint.py:{line}: it goes over the set set(names)")
