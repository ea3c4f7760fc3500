"""Invariants of a step's time: what gives it more, what must not, and who gets back what nobody could use."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from segue.clock import to_micros
from segue.saga import events as e
from segue.topics.broker import Record
from tests.simulation.oracles import Commit, Oracle, Oracles, header
from tests.simulation.shadow import NEVER, SagaSeen, StepSeen
from tests.simulation.world import SECOND


class SIGNS(Oracle):
    """A sign of life counts once, and only if none that counted is younger; one that is new always counts."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        #: (saga, step, action, attempt) → ids of the signs that counted, and the time of the newest.
        self.counted: dict[tuple[str, str, str, int], set[str]] = {}
        self.newest: dict[tuple[str, str, str, int], int] = {}

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        if not isinstance(event, e.ProgressReported):
            return
        step = saga.steps[event.step]
        command = _command(saga, step, event.action)
        counted, said = self.counted.setdefault(command, set()), min(event.said, at)
        if not event.message or event.message in counted:
            self.fail(f"{saga.id}: {step.name} shows that it lives by {event.message!r}, which is nothing new")
        if said < self.newest.get(command, 0):
            self.fail(f"{saga.id}: {step.name} shows that it lived at {said}, and lived later")
        counted.add(event.message)
        self.newest[command] = said

    def commit(self, commit: Commit) -> None:
        faults = self.all.system.world.faults
        if faults["topic.truncated"] or faults["topic.recreated"]:
            return  # what stands there now is not what was read
        for record, before in commit.read:
            known = self.all.shadow.commands.get(header(record.headers, "ce_causationid") or "")
            if before is None or known is None or header(record.headers, "ce_sagaoutcome") != "pending":
                continue
            saga, step, action, attempt = known
            was = (before[0], before[1]) if action == "invoke" else (before[2], before[3])
            now = (step.status, step.attempt) if action == "invoke" else (step.undo, step.undo_attempt)
            if was == now == ("issued", attempt) and not saga.ended and not self.all.system.forged(record):
                self._counts(saga, step, action, record)

    def _counts(self, saga: SagaSeen, step: StepSeen, action: str, record: Record) -> None:
        command, message = _command(saga, step, action), header(record.headers, "ce_id")
        said = to_micros(datetime.fromisoformat(header(record.headers, "ce_time") or ""))
        if said < self.newest.get(command, 0):
            self.all.system.world.points["older_sign"] += 1
        elif message not in self.counted.get(command, ()):
            self.fail(f"{saga.id}: {step.name} shows that it lives by {message}, and that does not count")


def _command(saga: SagaSeen, step: StepSeen, action: str) -> tuple[str, str, str, int]:
    return saga.id, step.name, action, step.attempt if action == "invoke" else step.undo_attempt


class TIME(Oracle):
    """What goes out too late takes nothing from its step: as much is left as there was when it should have gone out."""

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        match event:
            case e.CommandSent() if event.attempt > 1 and not event.by:
                self._left(saga, event, at, self._of(saga, event, "retry_at"), event.due)
            case e.CommandResent():
                due = self._of(saga, event, "due")
                self._left(saga, event, at, self._of(saga, event, "resend"), due + event.shift)
            case e.StepFailed() | e.StepSkipped() | e.StepParked() if event.error.code == "expired":
                step = saga.steps[event.step]
                waited_for = saga.stop is None and not step.left  # for others nothing new is tried
                if step.status == "issued" and step.sent_due < step.due and at < step.due and waited_for:
                    self.fail(f"{saga.id}: {step.name} has time till {step.due}, and an older deadline ends it")
            case e.RetryPlanned():
                resend = self._of(saga, event, "resend")
                if event.shift != max(0, at - resend):
                    self.fail(f"{saga.id}: {event.step} gets back {event.shift} of {at - resend} us that were lost")
                if event.error.code == "expired":
                    self.all.system.world.points["deadline_renewed"] += 1
            case _:
                pass

    def _of(self, saga: SagaSeen, event: e.CommandSent | e.CommandResent | e.RetryPlanned, name: str) -> int:
        found: Any = getattr(saga.steps[event.step], name if event.action == "invoke" else f"undo_{name}")
        return int(found)

    def _left(self, saga: SagaSeen, event: e.CommandSent | e.CommandResent, at: int, planned: int, due: int) -> None:
        was = self._of(saga, event, "due")
        if NEVER in (was, planned):
            self.fail(f"{saga.id}: {type(event).__name__} of {event.step}, which waits for nothing")
        if due - at != was - planned:
            kind = type(event).__name__
            self.fail(f"{saga.id}: {kind} of {event.step} has {due - at} us left, and was to have {was - planned}")
        if at - planned > SECOND:
            self.all.system.world.points["time_given_back"] += 1


class WAKE(Oracle):
    """A row's next wake-up is, in every commit, what the history asks for: by a reckoning that is not the engine's."""

    def commit(self, commit: Commit) -> None:
        for changes in commit.changes:
            for row in (*changes.started, *changes.updated):
                saga = self.all.shadow.of(row.id)
                if row.revision != saga.revision:
                    continue  # the same transaction has moved it on since
                wanted, written = saga.wake_at, None if row.wake_at is None else to_micros(row.wake_at)
                if wanted != written:
                    self.fail(f"{row.id} ({row.status}) is woken at {written}, its history asks for {wanted}")
