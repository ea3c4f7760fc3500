"""Mutants of what a worker handles side by side."""

from __future__ import annotations

from segue.activities.loop import CommandLoop
from segue.activities.partitions import PartitionWork, Task
from tests.simulation.patching import Patch, mutant


@mutant("all records of a partition stand in one line", focus="slots")
def one_line(patch: Patch) -> None:
    patch(PartitionWork, "_line_key", staticmethod(lambda record: b""))
    patch(Task, "follows", lambda self, other: self.home is other.home)


@mutant("records of one key do not wait for each other", focus="slots")
def no_lines(patch: Patch) -> None:
    patch(PartitionWork, "_line_key", staticmethod(lambda record: record.offset))


@mutant("a worker takes more at once than it has slots", focus="slots")
def no_slots(patch: Patch) -> None:
    patch(CommandLoop, "_has_room", property(lambda self: len(self._gathered) < self._options.group))
