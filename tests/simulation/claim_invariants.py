"""What processes say and remember beside their tables: never more than what is committed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from segue.saga import events as e
from tests.simulation.oracles import Commit, Oracle, Oracles

if TYPE_CHECKING:
    from tests.simulation.system import System

#: After these somebody has committed what it does not know of, or has died before it said so.
_UNTOLD = ("commit.ambiguous", "db.hangs", "kill.after_commit")


class CLAIMS(Oracle):
    """Counters and breakers count what is committed, once: not what was rolled back and done again."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        self.committed: Counter[str] = Counter()
        #: By saga type: undos that no person asked for.
        self.undos: Counter[str] = Counter()

    def commit(self, commit: Commit) -> None:
        self._compare()  # what this one claims is said only when its COMMIT is known to be done
        for changes in commit.changes:
            self.committed["transitions"] += len(changes.events)
            self.committed["compensations"] += sum(m.saga_action == "compensate" for m in changes.messages)
            for row in changes.events:
                definition = self.all.shadow.of(row.saga_id).started
                for event in e.decode_events(row.payload):
                    self._count(event, "" if definition is None else definition.definition)

    def _count(self, event: e.AnyEvent, definition: str) -> None:
        match event:
            case e.Started():
                self.committed["saga.started"] += 1
            case e.Continued():
                self.committed["saga.continued"] += 1
            case e.Ended():
                self.committed[f"saga.{event.status}"] += 1
            case e.StopRequested() if event.cause != "cancel" and not event.actor:
                self.undos[definition] += 1
            case e.StopHeld():
                self.committed["event.breaker.alert"] += 1
            case _:
                pass

    def _compare(self) -> None:
        points = self.all.system.world.points
        for name, committed in self.committed.items():
            if points[name] > committed:
                self.fail(f"{name} is counted {points[name]} times, and {committed} are committed")
        for process in self.all.system.coordinators:
            begun = {} if process.coordinator is None else process.coordinator._breaker._begun
            for definition, times in begun.items():
                if len(times) > self.undos[definition]:
                    self.fail(f"a breaker knows {len(times)} undos of {definition}, of {self.undos[definition]}")

    def end(self, system: System) -> None:
        self._compare()
        world = system.world
        if any(world.faults[fault] for fault in _UNTOLD):
            return
        for name, committed in self.committed.items():
            if world.points[name] != committed:
                self.fail(f"{name} is counted {world.points[name]} times, and {committed} are committed")
