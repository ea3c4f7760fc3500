"""Invariants of a step's time: what gives it more, what must not, and who gets back what nobody could use."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from segue.clock import to_micros
from segue.saga import events as e
from segue.topics.broker import Record
from tests.simulation.oracles import Commit, Oracle, Oracles, header
from tests.simulation.shadow import NEVER, SagaSeen, StepSeen
from tests.simulation.world import SECOND

if TYPE_CHECKING:
    from tests.simulation.system import System


class SIGNS(Oracle):
    """A sign of life counts once, and only if none that counted is younger; one that is new always counts."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        #: (saga, step, action, attempt) → ids of the signs that counted, and the time of the newest.
        self.counted: dict[tuple[str, str, str, int], set[str]] = {}
        self.newest: dict[tuple[str, str, str, int], int] = {}

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        if isinstance(event, e.StepUnknown | e.StepInDoubt | e.StepFailed | e.StepSkipped | e.UndoDeferred):
            self._silent(saga, event, at)
        if not isinstance(event, e.ProgressReported):
            return
        step = saga.steps[event.step]
        command = _command(saga, step, event.action)
        counted, said = self.counted.setdefault(command, set()), min(event.said, at)
        if not event.message:
            self._extended(saga, step, event, at)
            return
        if command in self.newest:
            self.fail(f"{saga.id}: a further sign of life of {step.name} fills the history")
        if event.message in counted:
            self.fail(f"{saga.id}: {step.name} shows that it lives by {event.message!r}, which is nothing new")
        if said < self.newest.get(command, 0):
            self.fail(f"{saga.id}: {step.name} shows that it lived at {said}, and lived later")
        counted.add(event.message)
        self.newest[command] = said

    def _silent(
        self,
        saga: SagaSeen,
        event: e.StepUnknown | e.StepInDoubt | e.StepFailed | e.StepSkipped | e.UndoDeferred,
        at: int,
    ) -> None:
        """Silence ends a step only if it was silent for its whole time."""
        assert saga.started is not None
        step, undo = saga.steps[event.step], isinstance(event, e.UndoDeferred)
        heard = step.heard.get("compensate" if undo else "invoke")
        span = saga.started.compensation_timeout if undo else step.timeout
        out = (step.undo if undo else step.status) == "issued"
        if self.all.crossed(step, "compensate" if undo else "invoke"):
            return
        if out and event.error.code == "timeout" and heard is not None and at < heard + span:
            self.fail(f"{saga.id}: silence ends {step.name}, which was heard of {(at - heard) / SECOND:g} s ago")

    def _extended(self, saga: SagaSeen, step: StepSeen, event: e.ProgressReported, at: int) -> None:
        """A deadline moves because of signs beside the history: by as much as the newest of them gives."""
        assert saga.started is not None
        span = step.timeout if event.action == "invoke" else saga.started.compensation_timeout
        was = step.due if event.action == "invoke" else step.undo_due
        heard = step.heard.get(event.action)
        self.all.system.world.points["deadline_extended"] += 1
        if self.all.crossed(step, event.action):
            return
        if event.due not in (at + span, None if heard is None else heard + span) or event.due <= was:
            self.fail(f"{saga.id}: {step.name} gets time till {event.due}; it was last heard of at {heard}")

    def _kept(self, commit: Commit) -> None:
        """What is kept beside the history is of a message that is new."""
        for row in (row for changes in commit.changes for row in changes.heartbeats):
            saga, step, action, _ = self.all.shadow.commands[row.command_id]
            command = _command(saga, step, action)
            counted = self.counted.setdefault(command, set())
            said = {
                header(record.headers, "ce_id"): min(_said(record), to_micros(row.at))
                for record, _ in commit.read
                if header(record.headers, "ce_causationid") == row.command_id
                and header(record.headers, "ce_sagaoutcome") == "pending"
            }
            new = [when for message, when in said.items() if message not in counted]
            if not self._replaced() and not any(when >= self.newest.get(command, 0) for when in new):
                self.fail(f"{saga.id}: {step.name} is kept as alive, and has said nothing new")
            counted |= {message for message in said if message is not None}
            self.newest[command] = max(self.newest.get(command, 0), row.newest)

    def commit(self, commit: Commit) -> None:
        self._kept(commit)
        if self._replaced():
            return
        for record, before in commit.read:
            known = self.all.shadow.commands.get(header(record.headers, "ce_causationid") or "")
            if before is None or known is None or header(record.headers, "ce_sagaoutcome") != "pending":
                continue
            saga, step, action, attempt = known
            was = (before[0], before[1]) if action == "invoke" else (before[2], before[3])
            now = (step.status, step.attempt) if action == "invoke" else (step.undo, step.undo_attempt)
            if was == now == ("issued", attempt) and not saga.ended and not self.all.system.forged(record):
                self._counts(saga, step, action, record)

    def _replaced(self) -> bool:
        """What stands in a topic now may not be what was read."""
        faults = self.all.system.world.faults
        return bool(faults["topic.truncated"] or faults["topic.recreated"])

    def end(self, system: System) -> None:
        """What is settled has no signs left; only a person's decision and a sign of life may cross."""
        if system.world.faults["person.acts"]:
            return
        for row in system.database.tables.heartbeats.values():
            saga, step, action, attempt = self.all.shadow.commands[row.command_id]
            out = (step.status, step.attempt) if action == "invoke" else (step.undo, step.undo_attempt)
            if out[1] != attempt or out[0] not in ("issued", "parked", "in_doubt"):
                self.fail(f"{saga.id}: {step.name} is {out[0]}, and its signs of life are kept")

    def _counts(self, saga: SagaSeen, step: StepSeen, action: str, record: Record) -> None:
        command, message = _command(saga, step, action), header(record.headers, "ce_id")
        said = _said(record)
        if said < self.newest.get(command, 0):
            self.all.system.world.points["older_sign"] += 1
        elif message not in self.counted.get(command, ()):
            self.fail(f"{saga.id}: {step.name} shows that it lives by {message}, and that does not count")


def _said(record: Record) -> int:
    """When a message was written, by the participant's clock."""
    return to_micros(datetime.fromisoformat(header(record.headers, "ce_time") or ""))


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
                step = saga.steps[event.step]
                if not self.all.crossed(step, event.action):
                    self._left(saga, event, at, saga.resend_of(step, event.action), due + event.shift)
            case e.StepFailed() | e.StepSkipped() | e.StepParked() if event.error.code == "expired":
                step = saga.steps[event.step]
                waited_for = saga.stop is None and not step.left  # for others nothing new is tried
                if step.status == "issued" and step.sent_due < step.due and at < step.due and waited_for:
                    self.fail(f"{saga.id}: {step.name} has time till {step.due}, and an older deadline ends it")
            case e.RetryPlanned():
                resend = saga.resend_of(saga.steps[event.step], event.action)
                # A sign that the same transaction has read counts, unless it was a copy or older than the last.
                lost = {max(0, at - resend), max(0, at - max(resend, self._said_now(saga, event)))}
                if event.error.code == "attempt_timeout":
                    lost = {max(0, at - self._of(saga, event, "attempt_due"))}
                if event.shift not in lost and not self.all.crossed(saga.steps[event.step], event.action):
                    self.fail(f"{saga.id}: {event.step} gets back {event.shift} of {at - resend} us that were lost")
                if event.error.code == "expired":
                    self.all.system.world.points["deadline_renewed"] += 1
            case _:
                pass

    def _said_now(self, saga: SagaSeen, event: e.RetryPlanned) -> int:
        """What answers silence where the same transaction has read a sign of life before the answer."""
        commit, step = self.all.commit, saga.steps[event.step]
        assert commit is not None
        for record, before in commit.read:
            pending = header(record.headers, "ce_sagaoutcome") == "pending"
            known = self.all.shadow.commands.get(header(record.headers, "ce_causationid") or "")
            if pending and before is not None and known is not None and known[1:3] == (step, event.action):
                return commit.at + saga.silence_of(step, event.action)
        return 0

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
                latest = saga.wake_at_the_latest
                if written is not None and wanted is not None and latest is not None and wanted < written <= latest:
                    self.all.system.world.points["silence_put_off"] += 1
                elif wanted != written:
                    self.fail(f"{row.id} ({row.status}) is woken at {written}, its history asks for {wanted}")


class ATTEMPTS(Oracle):
    """A hung attempt is given up within its bound and asked again while its step's time lasts, and ends nothing before.

    That no attempt is given up too early is S9's, that its alarm is set is WAKE's.
    """

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        match event:
            case e.RetryPlanned(action="invoke") if event.error.code == "attempt_timeout":
                self.all.system.world.points["attempt_again"] += 1
                if not event.unknown:
                    self.fail(f"{saga.id}: a hung attempt of {event.step} counts as one that had no effect")
            case e.StepUnknown() | e.StepInDoubt() | e.StepFailed() | e.StepSkipped() | e.StepParked():
                self._over(saga, saga.steps[event.step], event.error, at)
            case _:
                pass

    def _over(self, saga: SagaSeen, step: StepSeen, error: e.Failure, at: int) -> None:
        if step.status != "issued" or step.attempt_due >= NEVER:
            return
        if error.kind == "timeout" and error.code == "timeout" and step.attempt_due < step.due:
            self.fail(f"{saga.id}: {step.name} hung for its whole time, and was not asked again")
        if error.code != "attempt_timeout" or step.left or saga.stop is not None or saga.returned:
            return
        self.all.system.world.points["attempts_over"] += 1
        if step.attempt < step.retry.attempts and at + _LONGEST_PAUSE < step.due:
            self.fail(f"{saga.id}: {step.name} is over after {step.attempt} hung attempts, and there was time for more")


#: Longer than any pause between two attempts of the sagas here.
_LONGEST_PAUSE = 3 * SECOND
