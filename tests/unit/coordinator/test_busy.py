"""A saga whose code computes for ever is named, interrupted and blocked; the others go on."""

from __future__ import annotations

import threading

import pytest

from segue.coordinator.memory import MemoryStore
from segue.saga import Saga, saga
from segue.saga.busy import Busy, Watchdog, guarded
from tests.unit.coordinator.kit import Estate, ManualClock

TOLD: list[tuple[str, str]] = []
DOG = Watchdog(lambda saga_id, line: TOLD.append((saga_id, line)), limit=10.0)


@saga("busy")
async def busy(s: Saga, swallows: bool) -> None:
    """The watchdog looks while this runs, as its thread would, and its time passes as fast as that."""
    now = 0.0
    while True:
        try:
            now += 6.0
            DOG.look(now)
        except BaseException:
            if not swallows:
                raise
            return


@saga("quick")
async def quick(s: Saga, n: int) -> int:
    return n


@pytest.mark.parametrize("swallows", [False, True])
def test_a_saga_that_never_awaits_is_named_and_blocked_and_another_completes(swallows: bool) -> None:
    clock = ManualClock()
    estate = Estate(MemoryStore(clock.now), [busy, quick], clock)
    TOLD.clear()
    with DOG.watching():
        estate.start(busy, swallows, "x")
        estate.start(quick, 1, "y")
        estate.run()
    row = estate.saga("x")
    assert (row.attention, row.error_code) == ("blocked", "Busy")
    assert "without an await" in str(row.error_message)
    assert [saga_id for saga_id, _ in TOLD] == ["x"]
    assert TOLD[0][1].startswith("test_busy.py:")
    assert estate.saga("y").status == "completed"


def look(*moments: float) -> None:
    for moment in moments:
        DOG.look(moment)


def test_nothing_is_interrupted_once_it_is_over() -> None:
    with DOG.watching():
        guarded("x", lambda: look(0.0))
        look(100.0)
        with pytest.raises(Busy):
            guarded("x", lambda: look(0.0, 100.0))
        guarded("y", lambda: look(200.0))


def test_the_thread_of_a_watchdog_ends_with_its_block() -> None:
    before = set(threading.enumerate())  # the watchdog over databases has a thread for as long as its process lives
    with Watchdog(lambda saga_id, line: None).thread(lambda: 0.0):
        [thread] = [thread for thread in threading.enumerate() if thread not in before]
    thread.join(30)
    assert not thread.is_alive()
