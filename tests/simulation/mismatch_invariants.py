"""Rolling deploys: nothing is undone, given up or lost as a process of an older build met what it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.outbox.message import Message, unpack
from segue.saga import events as e
from segue.topics.envelope import MISMATCH
from tests.simulation.oracles import Commit, Oracle, Oracles, header
from tests.simulation.shadow import SagaSeen, StepSeen
from tests.simulation.world import SECOND

if TYPE_CHECKING:
    from tests.simulation.database import Books, BookSession
    from tests.simulation.system import System

#: The code with which a worker says that it lacks the activity.
LACKING = "unknown_activity"
#: What a fence says for itself, before anybody asks whether there is a handler.
_FENCES = frozenset(("superseded", "compensated", "expired", "forgotten"))
#: Longer than any pause between two attempts of the sagas here.
_LONGEST_PAUSE = 3 * SECOND


class UNFIT(Oracle):
    """A worker that lacks an activity refuses nothing and spends no attempt; in the end a person is asked.

    A start of a type that its reader lacks is kept till somebody has it.
    """

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        #: (saga, run, step, action) → attempts that no worker which fits has got; None: a person has begun anew.
        self.missed: dict[tuple[str, int, str, str], int | None] = {}
        #: (saga, run, step, attempt) of commands that were sent again after silence.
        self.asked_again: set[tuple[str, int, str, int]] = set()

    # --- workers

    def booked(self, books: Books, session: BookSession) -> None:
        name = session.who and session.who[0]
        lacks = next((worker.lacks for worker in self.all.system.workers if worker.name == name), frozenset())
        if not lacks:
            return
        for key in session.rows:
            row, before = books.inbox.get(key), session.before.get(key) or {}
            for action in ("invoke", "compensate"):
                stored = row and row[f"{action}_reply"]
                if row is not None and stored and stored != before.get(f"{action}_reply"):
                    self._answered(key, row[f"{action}_id"], unpack(stored), lacks)

    def _answered(self, key: str, command: str, reply: Message, lacks: frozenset[str]) -> None:
        record = self.all.published.get(command)
        activity = "" if record is None else header(record.headers, "ce_type") or ""
        if activity not in lacks or reply.saga_error in _FENCES:
            return
        if reply.saga_outcome == "failure":
            self.fail(f"{key}: a worker that lacks {activity} refuses it")
        if reply.saga_outcome == "retry" and reply.saga_error != LACKING:
            return  # of a build that had it, and whose answer stays
        if reply.saga_outcome == "retry" and MISMATCH not in reply.headers:
            self.fail(f"{key}: a worker that lacks {activity} says it as if a handler had")
        self.all.system.world.points["lacking"] += 1

    # --- sagas

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        match event:
            case e.RetryPlanned():
                self._planned(saga, event)
            case e.CommandResent(action="invoke"):
                self.asked_again.add((saga.id, saga.run, event.step, saga.steps[event.step].attempt))
            case e.CommandSent() if event.by:
                self.missed[(saga.id, saga.run, event.step, event.action)] = None
            case e.StepFailed() | e.StepSkipped() | e.StepUnknown() | e.StepParked() | e.StepInDoubt():
                self._over(saga, event, at)
            case e.UndoDeferred() if event.error.code == LACKING:
                step = saga.steps[event.step]
                if at + _LONGEST_PAUSE < step.undo_due:
                    self.fail(f"{saga.id}: the undo of {step.name} found no worker, and is given up before its time")
            case e.StopRequested(cause="failure") if event.error.code == LACKING:
                self.fail(f"{saga.id} is undone as a worker lacks an activity")
            case _:
                pass

    def _planned(self, saga: SagaSeen, event: e.RetryPlanned) -> None:
        if event.error.code != LACKING:
            return
        if not event.mismatch:
            self.fail(f"{saga.id}: an attempt of {event.step} that no worker had counts as one")
        key = (saga.id, saga.run, event.step, event.action)
        known = self.missed.get(key, 0)
        self.missed[key] = None if known is None else known + 1

    def _over(
        self,
        saga: SagaSeen,
        event: e.StepFailed | e.StepSkipped | e.StepUnknown | e.StepParked | e.StepInDoubt,
        at: int,
    ) -> None:
        step = saga.steps[event.step]
        waited_for = saga.stop is None and not saga.returned and not step.left
        by_person = isinstance(event, e.StepFailed | e.StepSkipped) and event.by
        if not waited_for or step.status not in ("issued", "waiting") or by_person:
            return
        if event.error.code == LACKING:
            self._parks(saga, step, event, at)
            return
        missed = self.missed.get((saga.id, saga.run, step.name, "invoke"), 0)
        asked_again = (saga.id, saga.run, step.name, step.attempt) in self.asked_again
        silent = isinstance(event, e.StepUnknown) and event.error.code == "timeout" and not asked_again
        if silent and missed and missed == step.attempt - 1 and step.status == "issued":
            self.fail(f"{saga.id}: no worker had {step.name} but one that had no time to answer, and it is undone")
        if event.error.kind != "spent" or not missed:
            return
        self.all.system.world.points["spent_after_mismatch"] += 1
        tries = step.attempt - missed
        if tries < step.retry.attempts and at + _LONGEST_PAUSE < step.due:
            self.fail(
                f"{saga.id}: {step.name} is spent after {tries} of {step.retry.attempts} attempts, "
                f"and {missed} that no worker had"
            )

    def _parks(self, saga: SagaSeen, step: StepSeen, event: e.AnyEvent, at: int) -> None:
        if not isinstance(event, e.StepParked | e.StepInDoubt):
            self.fail(f"{saga.id}: {step.name} found no worker that has it, and is {type(event).__name__}")
        if at + _LONGEST_PAUSE < step.due:
            self.fail(f"{saga.id}: {step.name} found no worker that has it, and waits for a person before its time")
        self.all.system.world.points["parked_after_mismatch"] += 1

    # --- starts

    def commit(self, commit: Commit) -> None:
        for changes in commit.changes:
            for letter in changes.dead_letters:
                known = letter.saga_id in self.all.system.started and not self.all.system.forged(letter.record)
                if known and letter.reason == "unknown_saga_type":
                    self.all.system.world.points["start_kept"] += 1
                    if letter.state == "dead":
                        self.fail(f"the start of {letter.saga_id} is dead, and others have its type")

    def end(self, system: System) -> None:
        for letter in system.database.tables.letters.values():
            record = letter.record
            known = letter.saga_id in system.started and not system.forged(record) and not system.conflicting(record)
            wanted = letter.reason == "unknown_saga_type" and letter.state != "replayed"
            row = system.database.tables.sagas.get(letter.saga_id or "")
            if known and wanted and (row is None or not system.conflict_with(row.input)):
                self.fail(f"the start of {letter.saga_id} is {letter.state}, and its type is here")
