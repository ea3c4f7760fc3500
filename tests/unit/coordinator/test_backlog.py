"""Many sagas are due at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from segue.coordinator.service import Options
from segue.saga import Saga, saga
from tests.unit.coordinator.kit import Estate

Make = Callable[..., Estate]


@saga("nap")
async def nap(s: Saga, n: int) -> int:
    await asyncio.sleep(60)
    return n


def due_at_once(estate: Make) -> Estate:
    e = estate(nap, options=Options(batch_size=2))
    for n in range(6):
        e.start(nap, n, f"n-{n}")
    e.run()
    e.clock.advance(timedelta(minutes=2))
    return e


def completed(e: Estate) -> int:
    return sum(e.saga(f"n-{n}").status == "completed" for n in range(6))


def test_records_are_read_between_pages_of_due_sagas(estate: Make) -> None:
    e = due_at_once(estate)
    e.coordinators[0].step()
    assert completed(e) == 2
    e.start(nap, 7, "new")
    e.coordinators[0].step()
    assert e.saga("new").status == "running"
    assert completed(e) < 6


def test_further_pages_of_due_sagas_wait_for_nothing(estate: Make) -> None:
    e = due_at_once(estate)
    assert [e.coordinators[0].step() for _ in range(3)] == [True] * 3
    assert completed(e) == 6
