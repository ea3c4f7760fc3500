"""Calls to a database: each may fail, or be left without an answer till the product's watchdog cuts its connection.

The watchdog is the product's, on the clock of its process; in the place of its thread is the scheduler. What becomes of
a COMMIT that is not answered is not known: nothing, what it should, or that later, when its process has gone on.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from greenlet import getcurrent

from segue.errors import Fenced, StoreUnavailable
from segue.outbox.watchdog import Watchdog
from tests.simulation.world import CALL, CLOSE, PAUSES, SECOND, Process


class Watch(Watchdog):
    """The watchdog of one process."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.call_timeout, clock=process)
        self._world = process.world

    def _rouse(self) -> None:
        pause = self._pause()
        if pause is not None:
            self._world.at(self._world.now + ceil(pause * SECOND) + 1, self._rouse)


def read(process: Process, apply: Callable[[], object] | None = None) -> None:
    """Ask the database something; `apply` is what that does there, if it does something. Raises StoreUnavailable."""
    fault = process.io(CALL)
    if fault == "db.hangs":
        if apply is not None:
            unanswered(process, apply)
        hang(process)
    if fault:
        raise StoreUnavailable("the database did not answer")


def commit(
    process: Process,
    apply: Callable[[], object],
    *,
    begin: Callable[[], None] = lambda: None,
    over: Callable[[], None] = lambda: None,
) -> None:
    """A COMMIT, in one of its outcomes; `apply` is what it does. Raises StoreUnavailable.

    `begin` and `over` take and end its locks for a server that goes on by itself.
    """
    fault = process.io(CLOSE)
    if fault == "commit.failed":
        raise StoreUnavailable("rolled back")
    if fault == "db.hangs":
        begin()
        unanswered(process, apply, over)
    apply()
    if fault == "commit.ambiguous":
        process.world.points["ambiguous_commit"] += 1
        raise StoreUnavailable("committed, but nobody knows")
    if fault == "kill.after_commit":
        process.die()


def hang(process: Process) -> None:
    """Wait for an answer that does not come; return when the connection is cut."""
    world = process.world
    if getcurrent() is not process.greenlet:
        return
    with Watch(process).guard(lambda: world.put(process, world.now)) as guard:
        while not guard.fired:
            process.hub()


def unanswered(process: Process, apply: Callable[[], object], over: Callable[[], None] = lambda: None) -> None:
    """A COMMIT that is not answered; `apply` is what it does, `over` ends its locks. Raises StoreUnavailable."""
    world = process.world

    def late() -> None:
        try:
            apply()
        except (Fenced, StoreUnavailable):
            return  # others were faster: it is rolled back
        finally:
            over()
        world.points["commit_unanswered"] += 1
        for other in world.processes:
            world.wake(other, world.now)  # whoever looks now and then finds what nobody had seen yet

    match process.stream.pick(3):
        case 0:
            over()
        case 1:
            late()
        case _:
            when = world.now + round(process.call_timeout.total_seconds() * SECOND)
            world.at(when + PAUSES[process.stream.pick(len(PAUSES))], late)
    hang(process)
    raise StoreUnavailable("the database did not answer in time, and the connection was cut")
