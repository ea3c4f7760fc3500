"""Invariants of what the broker and the clocks do: other people's transactions, a clock that jumps ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from segue.coordinator.gate import CATCH_UP
from segue.saga import events as e
from segue.topics.broker import Record
from tests.simulation.oracles import Commit, Oracle, Oracles
from tests.simulation.shadow import SagaSeen
from tests.simulation.world import SECOND

if TYPE_CHECKING:
    from segue.coordinator.service import Coordinator
    from tests.simulation.system import System


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
        if world.faults["clock.database_back"]:
            return  # whoever did not ask between the step back and the step ahead has seen no jump at all
        since, began, starts = known
        promised, had = saga.timers.get(event.n, 0) - began, world.now - since
        if had * CATCH_UP + SECOND < promised and starts == self._starts():
            self.fail(f"{saga.id}: a timer of {promised} us has fired after {had}")

    def _starts(self) -> int:
        """Grows with each start, and again when that coordinator has asked for the first time what the time is."""
        return sum(2 * one.incarnation + self._has_asked(one.coordinator) for one in self.all.system.coordinators)

    @staticmethod
    def _has_asked(coordinator: Coordinator | None) -> bool:
        return coordinator is not None and coordinator._gate._believed is not None


class LOST(Oracle):
    """Where a batch was stepped over, no deadline fires before what was out went out again; a letter tells of it."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        #: Database time of the last step, and of the last time that each command went out.
        self.skipped_at = 0
        self.sent: dict[tuple[str, str, str], int] = {}

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        from tests.simulation.invariants import alarm_of

        if isinstance(event, e.CommandSent | e.CommandResent):
            self.sent[saga.id, event.step, event.action] = at
        elif self.skipped_at and alarm_of(saga, event) is not None:
            for step in saga.steps.values():
                self._asked(saga, step.name, "invoke", out=step.status == "issued")
                self._asked(saga, step.name, "compensate", out=step.undo == "issued")

    def _asked(self, saga: SagaSeen, step: str, action: str, *, out: bool) -> None:
        last = self.sent.get((saga.id, step, action))
        if out and last is not None and last < self.skipped_at:
            self.fail(f"{saga.id}: a deadline fires, and the answer to {action} {step} may have been stepped over")

    def commit(self, commit: Commit) -> None:
        for changes in commit.changes:
            if any(note.stands_at is None for note in changes.notes):
                self.skipped_at = commit.at
                self.all.system.world.points["stepped_over"] += 1

    def end(self, system: System) -> None:
        letters = {(letter.record.source, letter.record.offset) for letter in system.database.tables.letters.values()}
        for record in system.damaged:
            stored = next(o for (_, p), o in system.database.tables.offsets.items() if p == record.source)
            moved = system.world.faults["topic.truncated"] or system.world.faults["topic.recreated"]
            if stored.next > record.offset and not moved and (record.source, record.offset) not in letters:
                self.fail(f"{record.source}@{record.offset} was stepped over without a word")
