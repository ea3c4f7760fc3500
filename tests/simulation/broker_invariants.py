"""Invariants of what the broker and the clocks do: other people's transactions, a clock that jumps ahead."""

from __future__ import annotations

from collections.abc import Sequence

from segue.coordinator.gate import CATCH_UP
from segue.saga import events as e
from segue.topics.broker import Record
from tests.simulation.oracles import Commit, Oracle, Oracles
from tests.simulation.shadow import SagaSeen
from tests.simulation.world import SECOND


class STRANGERS(Oracle):
    """No reader is given what is in somebody else's open transaction, or in one that was aborted."""

    def given(self, records: Sequence[Record]) -> None:
        unread = self.all.system.unread
        for record in records if unread else ():
            if id(record) in unread:
                self.fail(f"{record.topic}[{record.partition}]@{record.offset} is not committed, and is read")


class LEAPS(Oracle):
    """However the database's clock jumps ahead, a timer has about the time that it was promised.

    Of a coordinator that has started meanwhile nothing is demanded: it can't know that the clock was another one.
    """

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        #: (saga, timer) → world time and database time of the transaction that set it, and the starts of all
        #: coordinators.
        self.set: dict[tuple[str, int], tuple[int, int, int]] = {}

    def commit(self, commit: Commit) -> None:
        for changes in commit.changes:
            for row in (*changes.started, *changes.updated):
                for n in self.all.shadow.of(row.id).timers:
                    self.set.setdefault((row.id, n), (commit.began, commit.at, self._starts()))

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        known = self.set.pop((saga.id, event.n), None) if isinstance(event, e.TimerFired) else None
        world = self.all.system.world
        if not isinstance(event, e.TimerFired) or known is None or world.faults["clock.jump"]:
            return
        since, began, starts = known
        promised, had = saga.timers.get(event.n, 0) - began, world.now - since
        if had * CATCH_UP + SECOND < promised and starts == self._starts():
            self.fail(f"{saga.id}: a timer of {promised} us has fired after {had}")

    def _starts(self) -> int:
        return sum(coordinator.incarnation for coordinator in self.all.system.coordinators)
