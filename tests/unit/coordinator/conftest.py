"""The estate of these tests: one thread, a clock that the test moves, broker and store in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from segue.coordinator.memory import MemoryStore
from segue.coordinator.store import Store
from tests.unit.coordinator.kit import Estate, ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> Store:
    return MemoryStore(clock.now)


@pytest.fixture
def estate(store: Store, clock: ManualClock) -> Iterator[Callable[..., Estate]]:
    made: list[Estate] = []

    def make(*definitions: Any, **more: Any) -> Estate:
        made.append(Estate(store, definitions, clock, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()
