"""Mutants of signals: lost on the way, overtaken, blamed on the saga, given up in silence."""

from __future__ import annotations

from typing import Any

import segue.coordinator.memory as memory
import segue.coordinator.service as service
import segue.coordinator.work as work
import segue.saga.transition as transition
from segue.saga import events as e
from segue.saga.program import CodeFailed
from tests.simulation.patching import Patch, mutant

Turn: Any = transition._Turn


@mutant("[signals] one that was on its way to a wait which is cancelled is lost", focus="signals")
def signal_lost(patch: Patch) -> None:
    old = Turn.requested

    def requested(self: Any, request: Any) -> None:
        if isinstance(request, e.ReceiveCancelled):
            self.record(request)
        else:
            old(self, request)

    patch(Turn, "requested", requested)


@mutant("[signals] one that does not fit its type blocks the saga", focus="signals")
def signal_blocks(patch: Patch) -> None:
    def reject(self: Any, delivery: Any, failure: Any) -> None:
        raise CodeFailed(failure)

    old = Turn.drive

    def drive(self: Any) -> None:
        try:
            old(self)
        except CodeFailed as failed:
            self.record(e.Undriven(pending=len(self.state.deliveries), error=failed.failure))
            self.drop_program()

    patch(Turn, "reject", reject)
    patch(Turn, "drive", drive)


@mutant("[signals] those that came before their saga are overtaken by those that come after it", focus="signals")
def signal_overtaken(patch: Patch) -> None:
    patch(service.Coordinator, "_came_early", lambda self, batch, items: [])
    patch(work.Work, "take_early", lambda self, saga_id: [])


@mutant("[signals] nobody is told of one that its saga has not received", focus="signals")
def signal_unreceived(patch: Patch) -> None:
    patch(work.Work, "_drop", lambda self, saga_id, dropped: None)


@mutant("[signals] one to a saga that is over vanishes", focus="signals")
def signal_to_the_dead(patch: Patch) -> None:
    old = work.Work._dead

    def dead(self: Any, item: Any, reason: str, error: Any, **more: Any) -> None:
        if reason != "saga_ended":
            old(self, item, reason, error, **more)

    patch(work.Work, "_dead", dead)


@mutant("what came before its saga is told by its time, and a clock steps back", focus="early")
def parked_by_time(patch: Patch) -> None:
    def foldable(self: Any, coordinator: str, names: Any, limit: int) -> Any:
        return sorted(self._tables.foldable(coordinator, names), key=lambda row: (row.created_at, row.id))[:limit]

    patch(memory.MemoryBatch, "foldable", foldable)
