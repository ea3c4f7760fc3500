"""What a test of n items costs grows like n: counted in tasks and events that are replayed, not in seconds."""

from __future__ import annotations

from typing import Any

import pytest

from segue.contract import Activity
from segue.saga import Saga, saga
from segue.testing import SagaTest
from segue.testing.virtual import VirtualSaga

double = Activity("numbers.double", int, int)


@saga("mapped")
async def mapped(s: Saga, count: int) -> int:
    return len(await s.map(double, list(range(count))))


@saga("one-by-one")
async def one_by_one(s: Saga, count: int) -> int:
    for n in range(count):
        await s.call(double, n)
    return count


@pytest.mark.parametrize("definition", [mapped, one_by_one], ids=lambda definition: definition.name)
def test_replays_of_twice_as_many_items_cost_about_twice_as_much(
    definition: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = 0
    replay = VirtualSaga.replay

    def counting(self: VirtualSaga, *, blocked: bool) -> None:
        nonlocal work
        replay(self, blocked=blocked)
        program = self.instance.program
        work += self.state.count + (0 if program is None else program.loop.tasks_made)

    monkeypatch.setattr(VirtualSaga, "replay", counting)
    costs = []
    for count in (400, 1600):
        work = 0
        test = SagaTest(definition)
        test.mock(double, lambda n: 2 * n)
        assert test.run(count).status == "completed"
        costs.append(work)
    assert costs[1] < 5 * costs[0]
    assert costs[0] > 400  # it is replayed at all
