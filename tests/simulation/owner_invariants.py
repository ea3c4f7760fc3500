"""Coordinators of several names on one database: each moves, fires for, publishes for and gives up what is its own.

What they are told by queries that write nothing is judged where it is told (`database.py`), under the same name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.coordinator.store import Changes
from tests.simulation.oracles import Commit, Oracle

if TYPE_CHECKING:
    from tests.simulation.system import System


class OWNERS(Oracle):
    """No coordinator moves, fires a deadline for, publishes for or gives up anything of another name."""

    def commit(self, commit: Commit) -> None:
        names = {process.name: process.names for process in self.all.system.coordinators}
        if commit.by not in names or self.all.system.plan.names == 1:
            return
        mine = names[commit.by]
        for changes in commit.changes:
            self._judge_rows(mine.coordinator, changes)
            for message in changes.messages:
                if message.reply_to is not None and message.reply_to != mine.replies:
                    self.fail(f"{mine.coordinator} sends a command whose answer {message.reply_to} gets")

    def _judge_rows(self, mine: str, changes: Changes) -> None:
        for row in (*changes.started, *changes.updated):
            if row.coordinator != mine:
                self.fail(f"{mine} moves {row.id}, which is {row.coordinator}'s")
        for event in changes.events:
            started = self.all.shadow.of(event.saga_id).started
            if started is not None and started.coordinator != mine:
                self.fail(f"{mine} writes to the history of {event.saga_id}, which is {started.coordinator}'s")
        letters = self.all.system.database.tables.letters
        for n in changes.settled:
            if n in letters and letters[n].coordinator != mine:
                self.fail(f"{mine} settles what {letters[n].coordinator} has kept for {letters[n].saga_id}")
        for letter in changes.dead_letters:
            if letter.coordinator != mine:
                self.fail(f"{mine} keeps a dead letter for {letter.coordinator}")

    def end(self, system: System) -> None:
        for row in system.database.tables.sagas.values():
            wanted = system.names_of(row.id).coordinator
            if row.coordinator != wanted:
                self.fail(f"{row.id} was begun by {row.coordinator}, and {wanted} was asked")
