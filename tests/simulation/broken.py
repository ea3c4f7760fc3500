"""The mutants: each breaks one rule of the product by replacing a function, in tests only.

R1 to R6 are the rules of docs/reliability.md; numbers in brackets are the semantics of docs/architecture.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from msgspec.structs import replace as with_fields

import segue.activities.participant as participant
import segue.activities.partitions as partitions
import segue.activities.publish as publish
import segue.coordinator.cache as cache
import segue.coordinator.gate as gate
import segue.coordinator.memory as memory
import segue.coordinator.publisher as publisher
import segue.coordinator.requests as requests
import segue.coordinator.service as service
import segue.coordinator.work as work
import segue.outbox.inbox as inbox
import segue.outbox.relay as relay
import segue.saga.alarms as alarms
import segue.saga.fold_steps as fold_steps
import segue.saga.state as state
import segue.saga.transition as transition
import segue.saga.turn as turn
from segue.clock import to_micros
from segue.errors import Fenced
from segue.saga import events as e
from segue.saga.effects import Ignored
from segue.saga.reasons import failure_of
from tests.simulation import database, processes
from tests.simulation.patching import Patch, mutant

Turn: Any = transition._Turn


# --- dedupe


@mutant("a second success of a step counts again")
def reply_dedupe(patch: Patch) -> None:
    def success(self: Any, step: Any, output: Any) -> None:
        self.record(e.StepSucceeded(step=step.name, output=output, late=step.delivered))

    patch(Turn, "success", success)


@mutant("a second acknowledgement of an undo counts again")
def undo_dedupe(patch: Patch) -> None:
    old = Turn.undo_reply

    def undo_reply(self: Any, step: Any, attempt: int, reply: Any) -> Any:
        if reply.outcome == "success":
            self.record(e.StepUndone(step=step.name))
            return None
        return old(self, step, attempt, reply)

    patch(Turn, "undo_reply", undo_reply)


@mutant("a second `retry` of the same attempt counts again")
def attempt_check(patch: Patch) -> None:
    old = Turn.reply

    def reply(self: Any, reply: Any) -> Any:
        known = self.state.commands.get(reply.command_id)
        if known is not None and known[1] == "invoke" and reply.outcome == "retry":
            step = self.state.steps[known[0]]
            if step.status in ("waiting", "issued") and not self.state.undoing and not step.delivered:
                at = self.now + 300_000
                self.record(e.RetryPlanned(step=step.name, at=at, error=failure_of(reply)))
                return None
        return old(self, reply)

    patch(Turn, "reply", reply)


@mutant("a signal or cancel that comes twice is applied twice")
def request_dedupe(patch: Patch) -> None:
    patch(work.Work, "_seen_before", lambda self, item: False)
    patch(memory.MemoryBatch, "_check", _check_revisions_only)


def _check_revisions_only(self: Any, changes: Any, rows: Any) -> None:
    for _, row in rows.updates:
        stored = self._tables.sagas.get(row.id)
        if stored is None or stored.revision != changes.expected.get(row.id, row.revision - 1):
            raise Fenced("stale")


@mutant("a participant runs its handler for every delivery")
def participant_fence(patch: Patch) -> None:
    patch(participant, "decide", lambda fence, command, now, horizon: inbox.Handle())


@mutant("a participant does not store its replies")
def stored_reply(patch: Patch) -> None:
    patch(participant, "store_answer", lambda *args, **more: None)


@mutant("a participant takes a lower attempt after a higher one", focus="old_records")
def lower_attempt(patch: Patch) -> None:
    old = inbox.decide

    def decide(fence: Any, command: Any, now: Any, horizon: Any) -> Any:
        known = fence.answer_to(command)
        if command.attempt < known.attempt and known.outcome != "success":
            return inbox.Handle()
        return old(fence, command, now, horizon)

    patch(participant, "decide", decide)


@mutant("a start with another input is taken for the same start")
def start_conflict(patch: Patch) -> None:
    patch(work.Work, "_attach", lambda self, item: None)


# --- versions and fences


@mutant("[R3] a saga is written without looking at its revision", focus="zombies")
def revision_check(patch: Patch) -> None:
    patch(memory.MemoryBatch, "_check", lambda self, changes, rows: None)


@mutant("[R2] offsets are moved without looking where they stand", focus="zombies")
def offset_fence(patch: Patch) -> None:
    patch(memory.MemoryBatch, "_check_fence", lambda self, coordinator, move: None)


@mutant("[R2] offsets are stored before the work is")
def offsets_before_work(patch: Patch) -> None:
    old = service.Coordinator._apply

    def apply(self: Any, items: Any, ends: Any) -> None:
        with self._store.batch() as batch:
            batch.fence(self.name, [self._move(partition, end) for partition, end in sorted(ends.items())])
        self._positions.update(ends)
        old(self, items, ends)

    patch(service.Coordinator, "_apply", apply)


@mutant("an instance of another revision is taken from the cache")
def cache_revision(patch: Patch) -> None:
    patch(cache.InstanceCache, "take", lambda self, saga_id, revision: self._instances.pop(saga_id, None))


@mutant("a worker tells Kafka that a command is done when it has read it")
def worker_offset(patch: Patch) -> None:
    old = partitions.PartitionWork.accept

    def accept(self: Any, record: Any) -> Any:
        result = old(self, record)
        self._watermark = record.offset + 1
        return result

    patch(partitions.PartitionWork, "accept", accept)


@mutant("a worker tells Kafka that a command is done before Kafka has its reply")
def offset_before_reply(patch: Patch) -> None:
    old = partitions.PartitionWork.answered

    def answered(self: Any, task: Any) -> None:
        old(self, task)
        self.delivered(task)

    patch(partitions.PartitionWork, "answered", answered)


@mutant("a stored reply is not sent when its command comes once more")
def stored_reply_kept_back(patch: Patch) -> None:
    old = participant.Participant.decided

    def decided(self: Any, rows: Any, prepared: Any) -> Any:
        fence, now, handled = old(self, rows, prepared)
        known = fence.answer_to(prepared.command)
        if known.command_id == prepared.command.id and known.reply is not None:
            handled = participant.Handled()
        return fence, now, handled

    patch(participant.Participant, "decided", decided)


@mutant("a reply that the broker could not take counts as delivered")
def reply_ack_ignored(patch: Patch) -> None:
    old = publish.ReplyPublisher.landed
    patch(publish.ReplyPublisher, "landed", lambda self, flight, error: old(self, flight, None))


# --- outbox


@mutant("[R1] silence is noted, and nothing is sent again")
def resend(patch: Patch) -> None:
    old = Turn.fire

    def fire(self: Any, what: str, name: str, signs: Any) -> None:
        count = len(self.effects)
        old(self, what, name, signs)
        if what == "resend":
            del self.effects[count:]

    patch(Turn, "fire", fire)


@mutant("[R1] a command has no wake-up before its time is over")
def silence_alarm(patch: Patch) -> None:
    for module in (turn, alarms, fold_steps):
        patch(module, "resend_delay", lambda *_: 10**12)


@mutant("[R4] the relay goes on after the highest number it has seen")
def relay_cursor(patch: Patch) -> None:
    old = relay.Relay._take

    def take(self: Any, rows: Any) -> Any:
        seen = getattr(self, "_cursor", 0)
        fresh = [row for row in rows if row.seq > seen]
        self._cursor = max([seen, *(row.seq for row in fresh)])
        return old(self, fresh)

    patch(relay.Relay, "_take", take)


@mutant("the relay holds a row for ever that it has once held", focus="refusals")
def relay_holds(patch: Patch) -> None:
    old = relay.Relay._known

    def known(self: Any) -> Any:
        self._ever = getattr(self, "_ever", set()) | old(self)
        return self._ever

    patch(relay.Relay, "_known", known)


@mutant("a row counts as published when it is handed over")
def mark_before_publish(patch: Patch) -> None:
    old = publisher.Publisher.publish

    def publish(self: Any, messages: Any, seq: int) -> None:
        old(self, messages, seq)
        self._published.append(seq)
        self._since = self._since if self._since is not None else self._clock.monotonic()

    patch(publisher.Publisher, "publish", publish)


@mutant("a refused record counts as published")
def ack_ignored(patch: Patch) -> None:
    old = publisher.Publisher._acked
    patch(publisher.Publisher, "_acked", lambda self, batch, message_id, error: old(self, batch, message_id, None))


@mutant("a batch counts as published when one of its messages is")
def part_of_a_batch(patch: Patch) -> None:
    old = publisher.Publisher._acked

    def acked(self: Any, batch: Any, message_id: str, error: Any) -> None:
        batch.missing = 1 if batch.missing > 0 else batch.missing
        old(self, batch, message_id, error)

    patch(publisher.Publisher, "_acked", acked)


@mutant("the relay drops a message of a batch that it unpacks")
def unpack_drops(patch: Patch) -> None:
    def unpack(self: Any, age: Any) -> Any:
        old = [seq for seq, (written, _) in self.tables.batches.items() if written <= self._clock() - age]
        for seq in old:
            written, messages = self.tables.batches[seq]
            self.tables.batches[seq] = (written, messages[1:])
        memory.MemoryStore.unpack(self, age)

    patch(database.SimStore, "unpack", unpack)


@mutant("batches that nobody published are left to nobody")
def never_unpacked(patch: Patch) -> None:
    patch(database.SimStore, "unpack_old", lambda self, age: None)


@mutant("deadlines do not wait for batches")
def due_ignores_batches(patch: Patch) -> None:
    old = database.SimBatch.due

    def due(self: Any, coordinator: str, until: Any, limit: int, versions: Any) -> Any:
        counts, self._tables.unpublished = self._tables.unpublished, {}
        for message in self._tables.outbox.values():
            self._tables.unpublished[message.saga_id] = 1
        try:
            return old(self, coordinator, until, limit, versions)
        finally:
            self._tables.unpublished = counts

    patch(database.SimBatch, "due", due)


@mutant("an alarm stays where it is when its saga is to be woken earlier")
def alarm_too_late(patch: Patch) -> None:
    old = database.SimBatch._set_alarm

    def set_alarm(self: Any, row: Any) -> None:
        if row.wake_at is None or row.id not in self._tables.alarms or self._tables.alarms[row.id] <= self._now:
            old(self, row)

    patch(database.SimBatch, "_set_alarm", set_alarm)


@mutant("messages are published before the COMMIT")
def publish_before_commit(patch: Patch) -> None:
    old = database.SimBatch.write

    def write(self: Any, changes: Any) -> Any:
        self._process.coordinator._publisher.publish(changes.messages, -1)
        self._process.coordinator._publisher.poll()
        return old(self, changes)

    patch(database.SimBatch, "write", write)


@mutant("[R6] a start-up pass empties the outbox")
def recovery_pass(patch: Patch) -> None:
    old = service.Coordinator.start

    def start(self: Any) -> None:
        for seq, (_, messages) in list(self._store.tables.batches.items()):
            self._publisher.publish(messages, seq)
            self._store.forget_published([seq])
        old(self)

    patch(service.Coordinator, "start", start)


@mutant("the relay does not keep the order of a key", focus="refusals")
def relay_order(patch: Patch) -> None:
    patch(relay.Relay, "_line", staticmethod(lambda row: (row.topic, f"{row.key}#{row.seq}")))


# --- time


@mutant("[R5] wake-ups below the highest one seen are not looked for")
def timer_level(patch: Patch) -> None:
    old = database.SimStore.look

    def look(self: Any, coordinator: str, versions: Any, **how: Any) -> Any:
        seen = old(self, coordinator, versions, **how)
        wanted, level = seen.alarm_at, getattr(self, "_level", None)
        if wanted is not None and level is not None and wanted < level:
            return with_fields(seen, alarm_at=None)
        self._level = wanted or level
        return seen

    patch(database.SimStore, "look", look)


@mutant("a look never sees what people ask for")
def look_requests(patch: Patch) -> None:
    old = database.SimStore.look
    patch(database.SimStore, "look", lambda self, *args, **how: with_fields(old(self, *args, **how), requests=False))


@mutant("a look never sees parked records whose saga has come")
def look_parked(patch: Patch) -> None:
    old = database.SimStore.look
    patch(database.SimStore, "look", lambda self, *args, **how: with_fields(old(self, *args, **how), parked=False))


@mutant("[R5] deadlines are judged by the coordinator's clock")
def process_clock(patch: Patch) -> None:
    old = work.Work.__init__

    def init(self: Any, tools: Any, batch: Any, cache: Any, *args: Any) -> None:
        old(self, tools, batch, cache, *args)
        self.now = to_micros(batch._process.now())

    patch(work.Work, "__init__", init)


@mutant("alarms ring two seconds early")
def early_alarm(patch: Patch) -> None:
    old = Turn.wake

    def wake(self: Any, wake: Any) -> Any:
        self.now += 2_000_000
        result = old(self, with_fields(wake, gate=wake.gate + 2_000_000))
        self.now -= 2_000_000
        return result

    patch(Turn, "wake", wake)
    due = database.SimBatch.due
    patch(database.SimBatch, "due", lambda self, name, until, *rest: due(self, name, until + _TWO, *rest))
    following = database.SimStore.look

    def look(self: Any, coordinator: str, versions: Any, **how: Any) -> Any:
        seen = following(self, coordinator, versions, **how)
        return seen if seen.alarm_at is None else with_fields(seen, alarm_at=seen.alarm_at - _TWO)

    patch(database.SimStore, "look", look)


_TWO = processes.RELAY_AFTER


@mutant("[10] the drain gate is always open")
def gate_open(patch: Patch) -> None:
    patch(gate.DrainGate, "open_to", lambda self, wanted: True)
    patch(gate.DrainGate, "until", lambda self, now: now)


@mutant("[10] a partition counts as drained wherever its offset stands")
def drained_anyway(patch: Patch) -> None:
    patch(gate, "_read_to", lambda stored, partition, end: True)


@mutant("[10] a deadline fires while its command is unpublished")
def unpublished_deadline(patch: Patch) -> None:
    def due(self: Any, coordinator: str, until: Any, limit: int, versions: Any) -> Any:
        rows = [r for r in self._tables.sagas.values() if r.wake_at is not None and r.wake_at <= until]
        own = [r for r in rows if r.coordinator == coordinator and (r.definition, r.version) in versions]
        return sorted(own, key=lambda r: r.wake_at)[:limit]

    patch(database.SimBatch, "due", due)


# --- semantics


@mutant("[6] a late success is ignored")
def late_success(patch: Patch) -> None:
    old = Turn.success

    def success(self: Any, step: Any, output: Any) -> Any:
        return Ignored("late", "too late") if step.delivered else old(self, step, output)

    patch(Turn, "success", success)


@mutant("[4] silence of what can't be undone counts as a failure")
def pivot_timeout(patch: Patch) -> None:
    def unknown(self: Any, step: Any, failure: Any) -> None:
        kind = e.StepUnknown if step.compensate else e.StepFailed
        self.record(kind(step=step.name, error=failure))

    patch(Turn, "unknown", unknown)


@mutant("[4] silence of what can't be undone counts as unknown, as if it could be")
def doubt_as_unknown(patch: Patch) -> None:
    patch(Turn, "unknown", lambda self, step, failure: self.record(e.StepUnknown(step=step.name, error=failure)))


@mutant("[4] a step in doubt is skipped")
def doubt_skipped(patch: Patch) -> None:
    old = Turn.unknown

    def unknown(self: Any, step: Any, failure: Any) -> None:
        if not step.compensate and not step.readonly and not step.optional:
            self.record(e.StepSkipped(step=step.name, error=failure))
        else:
            old(self, step, failure)

    patch(Turn, "unknown", unknown)


@mutant("[4] a spent optional step fails")
def optional_fails(patch: Patch) -> None:
    old = Turn.spent

    def spent(self: Any, step: Any, failure: Any, unknown: bool) -> None:
        if step.optional and not unknown:
            self.record(e.StepFailed(step=step.name, error=failure))
        else:
            old(self, step, failure, unknown)

    patch(Turn, "spent", spent)


@mutant("[4] a spent step does not wait for the person that it should wait for")
def park_ignored(patch: Patch) -> None:
    old = Turn.spent

    def spent(self: Any, step: Any, failure: Any, unknown: bool) -> None:
        step.park = False
        old(self, step, failure, unknown)

    patch(Turn, "spent", spent)


@mutant("[4] a bug in saga code starts the undo", focus="bugs")
def bug_compensates(patch: Patch) -> None:
    def block(self: Any, failure: Any, delivery: Any) -> None:
        self.stop(e.StopRequested(cause="failure", error=failure))

    patch(Turn, "block", block)


@mutant("[5] all is undone at once, in no order")
def undo_order(patch: Patch) -> None:
    def undo(self: Any) -> None:
        for step in list(state.steps_to_undo(self.state)) if not self.state.ended else []:
            if step.undo.status == "none":
                self.send_undo(step, 1)

    patch(Turn, "undo", undo)


@mutant("[5] what is unknown is not undone")
def undo_of_unknown(patch: Patch) -> None:
    old = state.steps_to_undo
    patch(turn, "steps_to_undo", lambda s: (step for step in old(s) if step.status == "succeeded"))


@mutant("[5] what has failed is undone, too")
def undo_of_failed(patch: Patch) -> None:
    old = state.steps_to_undo

    def steps(s: Any) -> Any:
        yield from old(s)
        if s.stop is not None and s.stop.compensate == "all":
            for step in s.steps.values():
                if step.compensate and step.status == "failed" and step.undo.status not in ("done", "given_up"):
                    yield step

    patch(turn, "steps_to_undo", steps)


@mutant("[5] a call that the saga abandons is not undone", focus="abandoned")
def abandoned(patch: Patch) -> None:
    patch(fold_steps, "abandon", lambda s, step: None)


@mutant("[5] a saga ends over open commands")
def open_commands(patch: Patch) -> None:
    old = Turn.finish

    def finish(self: Any) -> None:
        kept = dict(self.state.open_steps)
        if self.state.stop is not None or self.state.returned:
            self.state.open_steps.clear()
        old(self)
        self.state.open_steps.update(kept)

    patch(Turn, "finish", finish)


@mutant("[5] a deferred compensation is forgotten")
def deferred(patch: Patch) -> None:
    old = state.steps_to_undo
    finish = Turn.finish

    def forgetful(self: Any) -> None:
        undos = dict(self.state.undos)
        for name in [name for name, step in undos.items() if step.undo.status == "deferred"]:
            del self.state.undos[name]
        finish(self)
        self.state.undos.update(undos)

    patch(Turn, "finish", forgetful)
    patch(turn, "steps_to_undo", lambda s: (step for step in old(s) if step.undo.status != "deferred"))


@mutant("[7] the pivot stops nothing", focus="abandoned")
def pivot(patch: Patch) -> None:
    old = Turn.requested

    def requested(self: Any, request: Any) -> None:
        if isinstance(request, e.StopRequested) and not self.state.undoing and not self.state.returned:
            self.stop(request)
        else:
            old(self, request)

    patch(Turn, "requested", requested)


@mutant("[7] the saga's deadline undoes past the pivot", focus="abandoned")
def pivot_deadline(patch: Patch) -> None:
    def deadline(self: Any) -> None:
        failure = e.Failure(code="deadline", message="late", kind="timeout")
        self.stop(e.StopRequested(cause="deadline", error=failure))

    patch(Turn, "deadline", deadline)


@mutant("[8] undo before do leaves no tombstone")
def tombstone(patch: Patch) -> None:
    old = inbox.decide

    def decide(fence: Any, command: Any, now: Any, horizon: Any) -> Any:
        if command.action == "invoke":
            fence = with_fields(fence, tombstone=False, compensate=inbox.Answer())
        return old(fence, command, now, horizon)

    patch(participant, "decide", decide)


@mutant("[2] a re-send has other bytes than the first copy")
def resend_bytes(patch: Patch) -> None:
    old = Turn.command
    patch(Turn, "command", lambda self, step, action: with_fields(old(self, step, action), sent_at=self.now))


@mutant("[2] silence makes a new attempt instead of a re-send")
def silence_new_attempt(patch: Patch) -> None:
    old = Turn.fire

    def fire(self: Any, what: str, name: str, signs: Any) -> None:
        if what == "resend":
            step = self.state.steps[name]
            self.send(step, step.attempt + 1)
        else:
            old(self, what, name, signs)

    patch(Turn, "fire", fire)


@mutant("[12] what can't be read is dropped")
def poison_dropped(patch: Patch) -> None:
    patch(work.Work, "_dead", lambda self, *args, **more: None)


@mutant("what a person did is not audited")
def audit(patch: Patch) -> None:
    old = requests.apply_request

    def apply_request(request: Any, batch: Any, work: Any, *args: Any) -> Any:
        result = old(request, batch, work, *args)
        work.changes.audits.clear()
        return result

    patch(service, "apply_request", apply_request)


@mutant("more signals wait than are allowed", focus="signals")
def signal_limit(patch: Patch) -> None:
    def signal(self: Any, signal: Any) -> Any:
        if self.state.undoing or self.state.returned:
            return Ignored("stopping", "")
        self.record(e.SignalReceived(signal=signal.name, payload=signal.payload))
        return None

    patch(Turn, "signal", signal)


@mutant("a saga's code goes on however long its history is", focus="bounds")
def history_limit(patch: Patch) -> None:
    old = Turn.drive

    def drive(self: Any) -> None:
        allowed, self.limits = self.limits, replace(self.limits, history_events=1_000_000)
        old(self)
        self.limits = allowed

    patch(Turn, "drive", drive)


@mutant("a saga has more commands outstanding than are allowed", focus="bounds")
def command_limit(patch: Patch) -> None:
    patch(Turn, "outstanding_after", lambda self, requests: 0)


@mutant("[11] a saga whose code is not here gets no wake-up")
def no_wake(patch: Patch) -> None:
    old = turn.wake_at
    patch(turn, "wake_at", lambda s: None if s.status == "compensating" else old(s))
    patch(work, "wake_at", turn.wake_at)
