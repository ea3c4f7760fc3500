"""Mutants of sagas that go on in new runs."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace as with_fields

import segue.coordinator.memory as memory
import segue.coordinator.work as work
import segue.saga.context as context
import segue.saga.program as program
import segue.saga.runs as runs
import segue.saga.state as state
import segue.saga.transition as transition
from segue.saga import events as e
from segue.saga.effects import Ignored
from tests.simulation.patching import Patch, mutant

Turn: Any = transition._Turn


def _without(patch: Patch, **fields: Any) -> None:
    old = runs.continued
    patch(transition, "continued", lambda *args: with_fields(old(*args), **fields))


@mutant("[runs] signals that nobody has received are lost with their run")
def run_signals_lost(patch: Patch) -> None:
    _without(patch, signals={})


@mutant("[runs] attributes are lost with their run")
def run_attributes_lost(patch: Patch) -> None:
    _without(patch, attributes={})


@mutant("[runs] the saga's deadline is lost with its run")
def run_deadline_lost(patch: Patch) -> None:
    _without(patch, deadline=None)


@mutant("[runs] a saga counts as started with the input of its newest run")
def run_started_with(patch: Patch) -> None:
    _without(patch, started_with=e.NOTHING)


@mutant("[runs] a run ends although the undo of its steps is forgotten")
def run_undo_forgotten(patch: Patch) -> None:
    patch(program.Program, "why_not_continue", lambda self: "")


@mutant("[runs] steps have the same names in every run")
def run_ids_collide(patch: Patch) -> None:
    patch(context.Saga, "_of_run", lambda self: "")


@mutant("[runs] a run begins while something of the last one is open or being undone")
def run_begins_early(patch: Patch) -> None:
    over = property(lambda self: self.next is not None and self.stop is None and not self.ended and not self.undriven)
    patch(state.SagaState, "run_is_over", over)


@mutant("[runs] a run that is over is left to the next wake-up")
def run_left_over(patch: Patch) -> None:
    patch(work.Work, "_go_on", lambda self, saga_id, instance: None)


@mutant("[runs] signals that come while a run is ending are refused", focus="runs")
def run_ending_deaf(patch: Patch) -> None:
    old = Turn.signal

    def signal(self: Any, signal: Any) -> Any:
        return Ignored("stopping", "") if self.state.returned else old(self, signal)

    patch(Turn, "signal", signal)


@mutant("[runs] all runs are read to bring a saga back")
def run_reads_all(patch: Patch) -> None:
    patch(memory.MemoryBatch, "_of_run", lambda self, saga_id: list(self._tables.events.get(saga_id, ())))


@mutant("[runs] a reply to the last run is dropped, whatever it says", focus="runs")
def run_late_dropped(patch: Patch) -> None:
    patch(work.Work, "_after_its_run", lambda self, item, reply: None)
