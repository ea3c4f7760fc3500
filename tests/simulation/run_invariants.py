"""Sagas of several runs: what lasts, what must not be forgotten, and that nothing older than the run is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from segue.coordinator.store import EventRow, SagaRow
from segue.ids import command_id
from segue.saga import events as e
from tests.simulation.oracles import Commit, Oracle, Violation
from tests.simulation.shadow import NEVER, SagaSeen, StepSeen


class S23Runs(Oracle):
    """A run ends with nothing open and no undo forgotten; the next begins with what lasts, in the same transaction."""

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        match event:
            case e.CommandSent():
                self._new_id(saga, event)
            case e.RunEnded():
                for step in saga.steps.values():
                    self._may_be_left(saga, step)
            case e.Continued():
                self._begins(saga, event)
            case _:
                pass

    def _new_id(self, saga: SagaSeen, event: e.CommandSent) -> None:
        assert saga.started is not None
        identity = command_id(saga.started.coordinator, saga.id, event.step, event.action, event.attempt)
        known = self.all.shadow.commands.get(identity)
        if known is not None and known[1] is not saga.steps[event.step]:
            self.fail(f"{saga.id}: {event.action} of {event.step} in run {saga.run} has the id of an earlier run")
        if event.step in saga.past:
            self.fail(f"{saga.id}: {event.step} in run {saga.run} has the key of an earlier run")

    def _may_be_left(self, saga: SagaSeen, step: StepSeen) -> None:
        if step.open and not step.left:
            self.fail(f"run {saga.run} of {saga.id} ends, and {step.name} is {step.status}")
        covered = step.compensate and step.status in ("succeeded", "unknown") and not step.abandoned
        if covered and not saga.pivot and step.undo not in ("done", "given_up"):
            self.fail(f"run {saga.run} of {saga.id} ends, and the undo of {step.name} is forgotten")

    def _begins(self, saga: SagaSeen, event: e.Continued) -> None:
        if not saga.run_is_over or saga.next is None or saga.started is None:
            self.fail(f"{saga.id} begins run {event.run}, and run {saga.run} is not over")
            return
        started_with = bytes(event.started_with) or bytes(event.input)
        deadline = None if saga.deadline >= NEVER else saga.deadline
        carried = [bytes(payload) for waiting in event.signals.values() for payload in waiting]
        expected = {
            "run": (event.run, saga.run + 1),
            "transitions": (event.transitions, saga.revision - 1),
            "previous": (event.previous, saga.first),
            "input": (bytes(event.input), bytes(saga.next.input)),
            "started_with": (started_with, bytes(saga.started.input)),
            "deadline": (event.deadline, deadline),
            "deadline_missed": (event.deadline_missed, saga.deadline_missed),
            "trace": (event.trace, saga.started.trace),
            "attributes": ({name: bytes(value) for name, value in event.attributes.items()}, saga.attributes),
            # Signals that were on their way to code that did not look any more come before those that waited.
            "signals": (carried[len(carried) - len(saga.waiting) :], saga.waiting),
        }
        for name, (found, wanted) in expected.items():
            if found != wanted:
                self.fail(f"{saga.id} begins run {event.run} with {name} {found!r}, expected {wanted!r}")
        if event.version < saga.started.version:
            self.fail(f"{saga.id} goes back to version {event.version}")

    def commit(self, commit: Commit) -> None:
        for changes in commit.changes:
            for row in (*changes.started, *changes.updated):
                saga = self.all.shadow.of(row.id)
                if saga.next is not None:
                    self.all.system.world.points["run_ending"] += 1
                if saga.run_is_over:
                    self.fail(f"run {saga.run} of {row.id} is over, and the next one has not begun")
                if (row.run, row.first_seq) != (saga.run, saga.first):
                    self.fail(f"{row.id}: the row says run {row.run} from {row.first_seq}, the history {saga.run}")


def check_read(sagas: Mapping[str, SagaRow], found: Mapping[str, Sequence[EventRow]]) -> None:
    """What a coordinator reads to bring sagas back is their present run, whole, and nothing older."""
    for saga_id, events in found.items():
        row = sagas.get(saga_id)
        read = [event.seq for event in events]
        if row is not None and read != list(range(row.first_seq, row.revision + 1)):
            raise Violation("S23Runs", f"{saga_id} is in a run from {row.first_seq} to {row.revision}; read is {read}")
