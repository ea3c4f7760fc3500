"""The invariants, one class each. Numbers are those of docs/reliability.md: S for safety, L for liveness.

An oracle watches one mechanism, because retries mask broken mechanisms from anything that only looks at how sagas end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from segue.ids import command_id
from segue.saga import events as e
from segue.topics.broker import Record
from tests.simulation.broker_invariants import LEAPS, LOST, STRANGERS
from tests.simulation.claim_invariants import CLAIMS
from tests.simulation.folding import difference
from tests.simulation.header_invariants import ADVICE
from tests.simulation.input_invariants import INPUTS
from tests.simulation.key_invariants import FENCEKEY
from tests.simulation.line_invariants import LINES
from tests.simulation.mismatch_invariants import UNFIT
from tests.simulation.oracles import Commit, Oracle, Oracles, header
from tests.simulation.owner_invariants import OWNERS
from tests.simulation.person_invariants import CAUSE, STILL
from tests.simulation.plan import NEVER
from tests.simulation.run_invariants import S23Runs
from tests.simulation.scope_invariants import GIVEBACK, SCOPES
from tests.simulation.shadow import SagaSeen, StepSeen
from tests.simulation.signal_invariants import S24Signals
from tests.simulation.time_invariants import ATTEMPTS, SIGNS, TIME, WAKE
from tests.simulation.told_invariants import TOLD
from tests.simulation.worker_invariants import BEATS, BREAKER, KEYS, LATER, LEASES

if TYPE_CHECKING:
    from tests.simulation.database import Books, BookSession
    from tests.simulation.system import System

# --- safety


class S1StartOnce(Oracle):
    """An acknowledged start makes exactly one saga; the same id with another input never changes it."""

    def end(self, system: System) -> None:
        for saga_id, (definition, body) in system.started.items():
            row = system.database.tables.sagas.get(saga_id)
            if row is None:
                self.fail(f"start of {saga_id} was acknowledged, and there is no such saga")
            elif (row.definition, row.input) != (definition, body) and not self._was_kept(system, saga_id):
                self.fail(f"{saga_id} runs as {row.definition} with another input than the one that was first")

    def _was_kept(self, system: System, saga_id: str) -> bool:
        """Its start came where nobody had the type, and another one came first where somebody had: it was refused."""
        letters = [x for x in system.database.tables.letters.values() if x.saga_id == saga_id and x.state == "dead"]
        return any(x.reason == "unknown_saga_type" and not system.conflicting(x.record) for x in letters)


class S2Fold(Oracle):
    """A saga's row is the fold of its events, and so is the time of its next wake-up."""

    def end(self, system: System) -> None:
        for row in system.database.tables.sagas.values():
            problem = difference(row, system.database.tables.events.get(row.id, []))
            if problem:
                self.fail(f"{row.id}: {problem}")


class S3Legal(Oracle):
    """A terminal state is final, and a step is decided once."""

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        if saga.ended is not None:
            self.fail(f"{saga.id} is {saga.status}, then {type(event).__name__}")
        if isinstance(event, e.StepFailed | e.StepSkipped | e.StepUnknown):
            step = saga.steps[event.step]
            if not step.open and step.status != "unknown" and not (isinstance(event, e.StepFailed) and event.by):
                self.fail(f"{saga.id}: {step.name} is {step.status}, then {type(event).__name__}")


class S4Serial(Oracle):
    """One transition per saga and number; nobody writes on stale ground."""

    def commit(self, commit: Commit) -> None:
        for changes in commit.changes:
            for row in (*changes.started, *changes.updated):
                if row.revision != self.all.shadow.of(row.id).revision:
                    self.fail(
                        f"{row.id} has revision {row.revision}, and {self.all.shadow.of(row.id).revision} transitions"
                    )


class L5Alone(Oracle):
    """A coordinator that is alone is never fenced: by whom?"""

    def end(self, system: System) -> None:
        fenced = system.world.points["trouble.fenced"]
        if system.world.points["commit_unanswered"]:
            return  # by what it sent itself, and gave up
        if fenced and system.plan.instances == 1:
            self.fail(f"the only coordinator was fenced {fenced} times")


class S5Outbox(Oracle):
    """Nothing is published that was not committed; nothing committed is lost; no command without its row."""

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        if isinstance(event, e.CommandSent | e.CommandResent):
            assert saga.started is not None
            step = saga.steps[event.step]
            if isinstance(event, e.CommandSent):
                attempt = event.attempt
            else:
                attempt = step.attempt if event.action == "invoke" else step.undo_attempt
            identity = command_id(saga.started.coordinator, saga.id, event.step, event.action, attempt)
            if identity not in self.all.writing:
                self.fail(f"{saga.id}: {type(event).__name__} of {event.step}, and nothing is in the outbox")

    def append(self, record: Record, message_id: str | None) -> None:
        if record.topic.endswith(".requests") or self.all.system.forged(record):
            return
        if record.topic.endswith(".dlq"):
            if record.topic == "sim.dlq" and (record.value, record.headers) not in self.all.raw:
                self.fail(f"a dead letter on {record.topic} that nobody committed")
            return
        if message_id in self.all.replies or _refuses(record) or self._heartbeat(record):
            return
        if message_id is None or message_id not in self.all.promised:
            self.fail(f"{message_id} on {record.topic} was published and never committed")

    def _heartbeat(self, record: Record) -> bool:
        """Nobody commits them: one that gets lost is followed by the next."""
        command = header(record.headers, "ce_causationid")
        return header(record.headers, "ce_sagaoutcome") == "pending" and command in self.all.published

    def end(self, system: System) -> None:
        for message_id, message in self.all.promised.items():
            if message_id != "raw" and message_id not in self.all.published:
                self.fail(f"{message_id} ({message.type} of {message.saga_id}) was committed and never published")


def _refuses(record: Record) -> bool:
    """A refusal that is derived from the fence row, and not stored in it."""
    refusals = ("superseded", "compensated")
    # Where headers are odd the code is in the body alone.
    return header(record.headers, "ce_sagaerror") in refusals or any(
        (record.value or b"").startswith(b'{"code":"' + code.encode() + b'"') for code in refusals
    )


class S6SameBytes(Oracle):
    """All copies of a message have the same bytes, until a person asks for the same command with a new deadline."""

    def __init__(self, all: Oracles) -> None:
        super().__init__(all)
        self.first: dict[tuple[str, str], Record] = {}
        #: Commands that a person has asked for again.
        self.renewed: set[str] = set()

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        if isinstance(event, e.CommandSent) and event.by and saga.steps[event.step].attempt == event.attempt:
            assert saga.started is not None
            self.renewed.add(command_id(saga.started.coordinator, saga.id, event.step, event.action, event.attempt))

    def append(self, record: Record, message_id: str | None) -> None:
        if message_id is None or record.topic.endswith(".dlq") or self.all.system.forged(record):
            return
        first = self.first.setdefault((message_id, record.topic), record)
        body = record.value or b""
        refused_again = b'"superseded"' in body or b'"compensated"' in body  # nothing of that answer is stored
        same = (first.value, first.headers, first.key) == (record.value, record.headers, record.key)
        if not same and not refused_again and message_id not in self.renewed:
            pairs = [pair for pair in zip(first.headers, record.headers, strict=False) if pair[0] != pair[1]]
            bodies = f"{first.value!r} {record.value!r}"
            self.fail(f"{message_id} on {record.topic} differs from its first copy: {pairs} {bodies}")


class S7EffectOnce(Oracle):
    """An effect happens at most once per key and action; a success has its effect, a proven failure has none."""

    def booked(self, books: Books, session: BookSession) -> None:
        for effect in session.staged:
            if len(books.effects[(effect.key, effect.action)]) > 1:
                self.fail(f"{effect.action} of {effect.key} was done twice")

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        if isinstance(event, e.StepSucceeded) and not event.by:
            step = saga.steps[event.step]
            if not step.readonly and not self.all.system.done(saga.id, step.name, "invoke"):
                self.fail(f"{saga.id}: {step.name} counts as succeeded, and was never done")
        if isinstance(event, e.StepUndone) and not event.by:
            step = saga.steps[event.step]
            done = self.all.system.done(saga.id, step.name, "invoke")
            if done and not self.all.system.done(saga.id, step.name, "compensate"):
                self.fail(f"{saga.id}: {step.name} counts as undone, and is not")


class S8Replies(Oracle):
    """Every record below the stored offset was applied, known already, or kept as a dead letter; and applied once."""

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        if isinstance(event, e.StepSucceeded) and not event.by and saga.steps[event.step].status == "succeeded":
            self.fail(f"{saga.id}: {event.step} succeeded twice")
        if isinstance(event, e.StepUndone) and saga.steps[event.step].undo == "done":
            self.fail(f"{saga.id}: {event.step} was undone twice")
        if isinstance(event, e.RetryPlanned):
            step = saga.steps[event.step]
            attempt = step.attempt if event.action == "invoke" else step.undo_attempt
            key = (event.step, event.action, attempt)
            if key in saga.planned:
                self.fail(f"{saga.id}: attempt {attempt} of {event.step} was answered `retry` twice")
            saga.planned.add(key)

    def commit(self, commit: Commit) -> None:
        faults = self.all.system.world.faults
        replaced = faults["topic.truncated"] or faults["topic.recreated"]
        for record, before in commit.read:
            if replaced and not record.topic.endswith(".requests"):
                continue  # other records have their offsets now; re-sends make up for it, and S13 sees if they do not
            problem = self._unaccounted(record, before)
            if problem is not None and not self._kept(record):
                where = f"{record.topic}[{record.partition}]@{record.offset}"
                self.fail(f"{where} is below the stored offset, but {problem}")

    def _kept(self, record: Record) -> bool:
        letters = self.all.system.database.tables.letters
        return any(letter.record is record or letter.record == record for letter in letters.values())

    def _unaccounted(self, record: Record, before: Any) -> str | None:
        if self.all.system.forged(record):
            return "it is damaged"
        if record.topic.endswith(".requests"):
            return self._request(record)
        known = self.all.shadow.commands.get(header(record.headers, "ce_causationid") or "")
        if known is None or record.value is None:
            return "nobody knows its command, and it is no dead letter"
        saga, step, action, attempt = known
        outcome = header(record.headers, "ce_sagaoutcome") or "success"
        if outcome == "success":
            return self._success(saga, step, action, before)
        if outcome in ("failure", "retry") and before is not None:
            same = (before[0], before[1]) if action == "invoke" else (before[2], before[3])
            now = (step.status, step.attempt) if action == "invoke" else (step.undo, step.undo_attempt)
            if same == now == ("issued", attempt) and not before[4]:
                return f"{step.name} of {saga.id} is {now}, as if it had never come"
        return None

    def _success(self, saga: SagaSeen, step: StepSeen, action: str, before: Any) -> str | None:
        if action == "compensate":
            return None if step.undo in ("done", "given_up") or saga.ended else f"the undo of {step.name} is not done"
        if step.successes or step.undo == "done":
            return None
        return f"{step.name} of {saga.id} is {step.status}"

    def _request(self, record: Record) -> str | None:
        tables = self.all.system.database.tables
        action = header(record.headers, "ce_sagaaction")
        saga_id = header(record.headers, "ce_sagaid") or ""
        saga = self.all.shadow.sagas.get(saga_id)
        if saga is None:
            return f"there is no saga {saga_id}"
        if (saga_id, header(record.headers, "ce_id")) in tables.seen or saga.ended or saga.stop or saga.returned:
            return None
        if action == "start" and not self.all.system.conflicting(record):
            return None
        return f"{action} of {saga_id} left no trace"


class S9Timers(Oracle):
    """An alarm rings once, not before its time by the database's clock, and never after it was cancelled."""

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        match event:
            case e.TimerFired():
                if event.n in saga.fired:
                    self.fail(f"{saga.id}: timer {event.n} rings twice")
                if event.n not in saga.timers:
                    self.fail(f"{saga.id}: timer {event.n} rings, and is not set")
                self._not_before(saga, f"timer {event.n}", saga.timers[event.n], at)
            case e.CommandResent():
                step = saga.steps[event.step]
                if not self.all.crossed(step, event.action):
                    self._not_before(saga, f"re-send of {event.step}", saga.resend_of(step, event.action), at)
            case e.CommandSent():
                step = saga.steps[event.step]
                if event.attempt > 1 and not event.by:
                    when = step.retry_at if event.action == "invoke" else step.undo_retry_at
                    self._not_before(saga, f"retry of {event.step}", when, at)
            case _:
                due = alarm_of(saga, event)
                if due is not None:
                    self._not_before(saga, type(event).__name__, due, at)

    def _not_before(self, saga: SagaSeen, what: str, due: int, at: int) -> None:
        if at < due:
            self.fail(f"{saga.id}: {what} rings {(due - at) / 1e6:g} s too early")


def alarm_of(saga: SagaSeen, event: e.AnyEvent) -> int | None:
    """The deadline that made this happen, if a deadline did."""
    match event:
        case e.StepUnknown() | e.StepInDoubt() | e.StepFailed() | e.StepSkipped():
            if event.error.kind == "timeout" and event.error.code == "timeout":
                return saga.steps[event.step].due
            if event.error.code == "attempt_timeout" and saga.steps[event.step].status == "issued":
                return saga.steps[event.step].attempt_due
        case e.RetryPlanned(action="invoke") if event.error.code == "attempt_timeout":
            return saga.steps[event.step].attempt_due
        case e.UndoDeferred():
            if event.error.kind == "timeout" and event.error.code == "timeout":
                return saga.steps[event.step].undo_due
        case e.StopRequested():
            if event.cause == "deadline":
                return saga.deadline
        case e.TimerFired():
            return saga.timers.get(event.n)
        case _:
            pass
    return None


class GATE(Oracle):
    """No deadline fires while its command is unpublished, or while an answer that came before it is unread."""

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        due = alarm_of(saga, event)
        if due is None:
            return
        commit = self.all.commit
        if commit is not None and saga.id in commit.unpublished:
            self.fail(f"{saga.id}: {type(event).__name__}, and its command is not published yet")
        system = self.all.system
        # What comes after the clock has stepped back comes after whoever had asked it what the time was.
        back_at = system.world.db_back_at
        asked_before = commit is not None and commit.began <= back_at
        assert saga.started is not None
        for (reader, partition), stored in system.database.tables.offsets.items():
            if reader != saga.started.coordinator:
                continue
            log = system.broker.log(partition)
            for record in log.unread(stored.next):
                by_database, by_world = self.all.appended_at[id(record)]
                if (
                    id(record) not in self.all.applied
                    and record.key == saga.id.encode()
                    and by_database < due
                    and not system.forged(record)
                    and not (asked_before and by_world >= back_at)
                ):
                    self.fail(f"{saga.id}: {type(event).__name__}, and {partition}@{record.offset} came before")


class S10Compensated(Oracle):
    """Undone is exactly what succeeded or may have; the end comes when nothing is open and nothing left to undo."""

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        if isinstance(event, e.CommandSent) and event.action == "compensate":
            step = saga.steps[event.step]
            if not step.compensate or step.status not in ("succeeded", "unknown"):
                self.fail(f"{saga.id}: {step.name} is {step.status}, and is to be undone")
            if step.undo in ("done", "given_up"):
                self.fail(f"{saga.id}: the undo of {step.name} is {step.undo}, and starts again")
        if isinstance(event, e.Ended):
            for step in saga.steps.values():
                if step.open:
                    self.fail(f"{saga.id} ends {event.status}, and {step.name} is {step.status}")
                if self._must_be_undone(saga, step) and step.undo not in ("done", "given_up"):
                    self.fail(f"{saga.id} ends {event.status}, and {step.name} ({step.status}) is not undone")

    def _must_be_undone(self, saga: SagaSeen, step: StepSeen) -> bool:
        if not step.compensate or step.status not in ("succeeded", "unknown"):
            return False
        if step.abandoned:
            return True
        if saga.stop is None or saga.stop.compensate == "none":
            return False
        if saga.stop.compensate.startswith("to:"):
            target = saga.steps.get(saga.stop.compensate[3:])
            return target is None or step.issued_at > target.issued_at or step.settled_at > target.settled_at
        return True


class S11Order(Oracle):
    """A step is undone only after all that happened because of it."""

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        if not isinstance(event, e.CommandSent) or event.action != "compensate" or event.attempt > 1:
            return
        if saga.stop is None:
            return
        step = saga.steps[event.step]
        for later in saga.steps.values():
            if (
                later is not step
                and later.issued_at > step.settled_at
                and S10Compensated._must_be_undone(self, saga, later)  # type: ignore[arg-type]
                and later.undo not in ("done", "given_up", "deferred")
            ):
                self.fail(f"{saga.id}: {step.name} is undone before {later.name}, which came after it")


class S12UndoBeforeDo(Oracle):
    """Once a step is compensated, it is never done."""

    def booked(self, books: Books, session: BookSession) -> None:
        undone: set[str] = set()
        for effect in session.staged:
            before, row = session.before.get(effect.key), books.inbox.get(effect.key)
            undone_before = before is not None and (before["tombstone"] or before["compensate_attempt"])
            # Do and undo may share a transaction, in this order; what has a tombstone was never done.
            if effect.action == "invoke" and (undone_before or effect.key in undone or (row and row["tombstone"])):
                self.fail(f"{effect.key} is done after it was undone")
            if effect.action == "compensate":
                undone.add(effect.key)
            if effect.action == "compensate" and not books.effects.get((effect.key, "invoke")):
                self.fail(f"{effect.key} is undone by its handler, and was never done")


class S13LateSuccess(Oracle):
    """When all is over, what counts as done is done, and what counts as undone or failed leaves nothing behind."""

    def end(self, system: System) -> None:
        for saga in self.all.shadow.sagas.values():
            for step in saga.every_step:
                if step.by_person or step.readonly:
                    continue
                done = system.done(saga.id, step.name, "invoke") and not system.done(saga.id, step.name, "compensate")
                if step.undo == "done" and done:
                    self.fail(f"{saga.id}: {step.name} counts as undone, and stands")
                if step.undo == "none" and step.status == "succeeded" and not done:
                    self.fail(f"{saga.id}: {step.name} counts as done, and is not")
                if step.undo == "none" and step.status == "failed" and done:
                    self.fail(f"{saga.id}: {step.name} counts as failed, and stands")


class S14Pivot(Oracle):
    """After the pivot nothing is undone by itself; what can't be undone is never guessed."""

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        match event:
            case e.StopRequested() if saga.pivot and event.cause != "cancel":
                self.fail(f"{saga.id} is past its pivot, and is stopped by a {event.cause}")
            case e.CommandSent(action="compensate") if saga.pivot and not saga.steps[event.step].abandoned:
                self.fail(f"{saga.id} is past its pivot, and {event.step} is undone")
            case e.StepUnknown():
                step = saga.steps[event.step]
                if not step.compensate:
                    self.fail(f"{saga.id}: {event.step} can't be undone, and is given up as unknown")
                if saga.pivot and saga.stop is None:
                    self.fail(f"{saga.id} is past its pivot, and {event.step} is given up as unknown")
            case e.StepFailed():
                step = saga.steps[event.step]
                if event.error.kind == "timeout" and not step.readonly:
                    self.fail(f"{saga.id}: silence of {event.step} counts as a failure")
            case _:
                pass


class KINDS(Oracle):
    """What becomes of a spent step is what the step is: optional, parked, in doubt; what stops a saga is no bug."""

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        match event:
            case e.StepFailed() if not event.by and saga.stop is None and not saga.returned:
                step = saga.steps[event.step]
                spent = event.error.kind in ("rejected", "spent") and event.error.code not in ("abandoned", "stopped")
                spent = spent and not step.left and step.status != "unknown"
                if spent and step.optional:
                    self.fail(f"{saga.id}: {step.name} is optional, and failed")
                if spent and (step.park or saga.pivot):
                    self.fail(f"{saga.id}: {step.name} waits for a person when it is spent, and failed")
            case e.StepSkipped() if not event.by and event.error.kind == "timeout":
                step = saga.steps[event.step]
                if not step.optional:
                    self.fail(f"{saga.id}: silence of {step.name} counts as skipped")
            case e.StopRequested(cause="failure") if event.error.class_name not in _FAILURES:
                self.fail(f"{saga.id} is undone because of {event.error.class_name}")
            case e.CommandSent() if event.attempt > 1 and not event.by:
                step = saga.steps[event.step]
                if (step.status if event.action == "invoke" else step.undo) != "waiting":
                    self.fail(f"{saga.id}: attempt {event.attempt} of {event.step}, and nobody has answered `retry`")
            case e.CommandSent(attempt=1) if not event.by and event.resend >= event.due:
                self.fail(f"{saga.id}: nothing answers the silence of {event.step} before its time is over")
            case _:
                pass


#: What may start an undo: Segue's own failures.
_FAILURES = frozenset(
    ("SagaFailed", "SagaError", "ActivityError", "ActivityRejected", "ActivityTimeout", "TimeoutError")
)


class S15OneOutcome(Oracle):
    """A saga ends once, and its row says how."""

    def commit(self, commit: Commit) -> None:
        for changes in commit.changes:
            for row in (*changes.started, *changes.updated):
                saga = self.all.shadow.of(row.id)
                if row.status != saga.status or (row.ended_at is not None) != (saga.ended is not None):
                    self.fail(f"{row.id}: the row says {row.status}, the history {saga.status}")


class S16Conservation(Oracle):
    """What the services have booked is what the sagas say they did."""

    def end(self, system: System) -> None:
        if any(s.by_person for saga in self.all.shadow.sagas.values() for s in saga.every_step):
            return
        booked = sum(
            effect.amount if effect.action == "invoke" else 0
            for books in system.books.values()
            for effects in books.effects.values()
            for effect in effects
            if not books.effects.get((effect.key, "compensate"))
        )
        known = uncertain = 0
        for saga in self.all.shadow.sagas.values():
            for step in saga.every_step:
                amount = system.amount(saga.id, step.name)
                if step.readonly or step.undo in ("done",):
                    continue
                if step.status == "succeeded":
                    known += amount
                elif step.open or step.status in ("skipped", "unknown"):
                    uncertain += amount
        if not known <= booked <= known + uncertain:
            self.fail(f"booked {booked}, the sagas know of {known} and are unsure of {uncertain}")


class S18Version(Oracle):
    """A run has one version from its beginning to its end."""

    def commit(self, commit: Commit) -> None:
        for changes in commit.changes:
            for row in changes.updated:
                started = self.all.shadow.of(row.id).started
                if started is None or (row.definition, row.version) != (started.definition, started.version):
                    self.fail(f"{row.id} is now {row.definition} version {row.version}")


class S19Order(Oracle):
    """First copies of one key's events are published in the order in which they were written."""

    def append(self, record: Record, message_id: str | None) -> None:
        if not record.topic.startswith("ledger.") or message_id is None or message_id in self.all.published:
            return
        written = self.all.system.ledger.get((record.topic, record.key), {})
        numbered, _ = written[message_id]
        for earlier, (_, committed) in written.items():
            if committed < numbered and earlier not in self.all.published:
                self.fail(f"{message_id} is published before {earlier}, which was written before it")

    def booked(self, books: Books, session: BookSession) -> None:
        for message in session.messages:
            if message.aggregatetype.startswith("ledger."):
                key = (message.aggregatetype, message.aggregateid.encode())
                line = self.all.system.ledger.setdefault(key, {})
                line.setdefault(message.id, (books.outbox.seq_of(message.id), books.outbox.tick()))


class S20Audit(Oracle):
    """What a person did is in the audit, in the same transaction."""

    def commit(self, commit: Commit) -> None:
        for changes in commit.changes:
            audited = [entry.request_id for entry in changes.audits]
            if sorted(changes.requests_done) != sorted(n for n in audited if n is not None):
                self.fail(f"requests {changes.requests_done} are done, the audit has {audited}")


class S21Bounds(Oracle):
    """Limits hold."""

    def event(self, saga: SagaSeen, event: e.AnyEvent, at: int) -> None:
        if isinstance(event, e.SignalReceived) and len(saga.waiting) >= self.all.system.signal_limit:
            self.fail(f"{len(saga.waiting) + 1} signals wait for {saga.id}")

    def commit(self, commit: Commit) -> None:
        plan = self.all.system.plan
        if plan.history_events == plan.pending_commands == NEVER:
            return
        for changes in commit.changes:
            for row in changes.events:
                if not any(isinstance(event, e.StepScheduled) for event in e.decode_events(row.payload)):
                    continue
                first = max(first for first in self.all.shadow.of(row.saga_id).firsts if first <= row.seq)
                if row.seq - first >= plan.history_events:
                    self.fail(
                        f"{row.saga_id} calls in transition {row.seq}, {plan.history_events} are allowed in a run"
                    )
                outstanding = sum(step.open for step in self.all.shadow.of(row.saga_id).steps.values())
                if outstanding > plan.pending_commands:
                    self.fail(f"{outstanding} commands of {row.saga_id} are outstanding")


class S22Poison(Oracle):
    """A bad record stops nothing and does not vanish.

    One that was produced where an unclean election had cut off another one, which is still in somebody's hands, is lost
    with the election: its offset counts as read, and no reader is given it.
    """

    def end(self, system: System) -> None:
        kept = {letter.record for letter in system.database.tables.letters.values()}
        for record in system.poison:
            if id(record) in self.all.applied & self.all.met and record not in kept:
                self.fail(f"{record.topic}[{record.partition}]@{record.offset} vanished")


# --- liveness


class L1Witness(Oracle):
    """Whatever is not over has something that will move it; when the faults are over, all comes to an end."""

    def commit(self, commit: Commit) -> None:
        tables = self.all.system.database.tables
        for changes in commit.changes:
            for row in (*changes.started, *changes.updated):
                stored = tables.sagas[row.id]
                if stored.revision != row.revision or row.ended_at is not None:
                    continue
                saga = self.all.shadow.of(row.id)
                if (
                    row.wake_at is None
                    and row.attention == "none"
                    and not tables.unpublished.get(row.id)
                    and not saga.receives
                ):
                    self.fail(f"{row.id} is {row.status} at {row.step}, and nothing will ever move it")
                alarm = tables.alarms.get(row.id)
                if row.wake_at is not None and (alarm is None or alarm > row.wake_at):
                    self.fail(f"{row.id} is to be woken at {row.wake_at}, and its alarm rings at {alarm}")

    def end(self, system: System) -> None:
        for row in system.database.tables.sagas.values():
            if row.ended_at is None:
                trouble = f"{row.error_code} {row.error_message}"
                self.fail(f"{row.id} is still {row.status} ({row.attention}) at {row.step}: {trouble}")


class L2Outbox(Oracle):
    """Outboxes run empty."""

    def end(self, system: System) -> None:
        for name, rows in system.outboxes():
            if rows:
                self.fail(f"{len(rows)} rows are left in the outbox of {name}: {next(iter(rows.values())).type}")


class L4Overdue(Oracle):
    """Nothing that is due is left: no parked record whose saga is there, no request, no wake-up."""

    def end(self, system: System) -> None:
        tables = system.database.tables
        for letter in tables.letters.values():
            saga = tables.sagas.get(letter.saga_id or "")
            if letter.state == "parked" and saga is not None and saga.coordinator == letter.coordinator:
                self.fail(f"dead letter {letter.id} is parked, and {letter.saga_id} is there")
        for request in tables.requests.values():
            self.fail(f"request {request.id} ({request.kind}) was never dealt with")


class L3Lag(Oracle):
    """Everything is read, and the broker has been told so; every reply has arrived."""

    def end(self, system: System) -> None:
        for worker in system.workers:
            if worker.loop is not None and worker.loop.busy:
                self.fail(f"{worker.name} has not done with what it took, or still sends a reply")
        for partition, stored, end in system.lag():
            if stored < end:
                self.fail(f"{partition} is read to {stored}, and ends at {end}")
        for (_, partition), offset in system.database.tables.offsets.items():
            here = system.broker.topic(partition.topic).id
            if offset.topic_id != here:
                self.fail(f"{partition} is read as a part of {offset.topic_id}, and the topic is {here} now")


ORACLES: Sequence[type[Oracle]] = (
    S1StartOnce, S2Fold, S3Legal, S4Serial, S5Outbox, S6SameBytes, S7EffectOnce, S8Replies, S9Timers, GATE,
    S10Compensated, S11Order, S12UndoBeforeDo, S13LateSuccess, S14Pivot, KINDS, S15OneOutcome, S16Conservation,
    S18Version, S19Order, S20Audit, S21Bounds, S22Poison, L1Witness, L2Outbox, L3Lag, L4Overdue, L5Alone,
    S23Runs, KEYS, BEATS, LATER, BREAKER, SIGNS, TIME, WAKE,
    CLAIMS, TOLD, STILL, CAUSE, SCOPES, ADVICE, STRANGERS, LEAPS, LOST, FENCEKEY, LEASES, S24Signals,
    # One line each from here on.
    UNFIT,
    OWNERS,
    ATTEMPTS,
    LINES,
    INPUTS,
    GIVEBACK,
)  # fmt: skip
