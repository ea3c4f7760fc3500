"""Mutants of queries that several coordinators on one database ask: each forgets whose rows are wanted."""

from __future__ import annotations

from typing import Any

from segue.coordinator import schema, statements
from segue.coordinator.memory import MemoryBatch, MemoryStore, Tables
from tests.simulation.patching import Patch, mutant
from tests.simulation.processes import NAMES, OTHERS

_ALL = (NAMES.coordinator, OTHERS.coordinator)


@mutant("sagas of another coordinator are woken", focus="neighbours")
def wakes_anybodys(patch: Patch) -> None:
    due, alarm = MemoryBatch.due, MemoryStore._next_alarm

    def every(self: Any, coordinator: str, *args: Any) -> Any:
        return [row for name in _ALL for row in due(self, name, *args)]

    def first(self: Any, coordinator: str, versions: Any) -> Any:
        return min((at for name in _ALL if (at := alarm(self, name, versions)) is not None), default=None)

    patch(MemoryBatch, "due", every)
    patch(MemoryStore, "_next_alarm", first)


@mutant(
    "sagas of another coordinator are woken: the statement does not ask whose they are", tier="sql", focus="neighbours"
)
def wakes_anybodys_in_sql(patch: Patch) -> None:
    due = statements.due_sagas
    anybody: Any = schema.saga.c.coordinator  # is equal to itself in every row
    patch(statements, "due_sagas", lambda coordinator, *args: due(anybody, *args))


@mutant("the gate asks how far anybody has read", focus="neighbours")
def gate_of_anybody(patch: Patch) -> None:
    offsets = MemoryStore.offsets
    patch(MemoryStore, "offsets", lambda self, coordinator: {p: o for n in _ALL for p, o in offsets(self, n).items()})


@mutant("what another coordinator has parked is given up", focus="neighbours")
def sweeps_anybodys(patch: Patch) -> None:
    sweep = MemoryStore.sweep
    patch(MemoryStore, "sweep", lambda self, coordinator, *args: sum(sweep(self, name, *args) for name in _ALL))


@mutant("what another coordinator has parked is folded", focus="neighbours")
def folds_anybodys(patch: Patch) -> None:
    foldable = Tables.foldable

    def every(self: Any, coordinator: str, names: Any) -> Any:
        return [row for name in _ALL for row in foldable(self, name, names)]

    patch(Tables, "foldable", every)
