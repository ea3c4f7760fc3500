"""The worker's loop: a step function over ports, with no thread, sleep or clock of its own.

One step: hear what has ended, publish, read, start what may run. Kafka's offsets are committed up to the first record
that is not done, and a record is done once its transaction is committed (and its dead letter, if any, acknowledged).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from segue.activities.handlers import Prepared, Reader
from segue.activities.heartbeat import Beat, Heartbeats
from segue.activities.outcome import Answered, reply_to
from segue.activities.partitions import PartitionWork, Task
from segue.activities.publish import MemoryPublisher
from segue.activities.runner import Desk, Done, Runner
from segue.activities.unit import Handled, UnitOfWork
from segue.clock import Clock, to_micros
from segue.errors import ConfigError, EnvelopeError, Unavailable
from segue.failpoints import hit
from segue.observe import Observer
from segue.outbox.faults import is_transient_database
from segue.outbox.fences import store_details
from segue.outbox.relay import Relay
from segue.topics.broker import Consumer, Partition
from segue.topics.deadletter import dead_letter_record

#: Seconds for which a broker that could not be read from is left alone.
READ_PENALTY = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """Bounds and intervals of a worker's loop."""

    #: Commands that are handled at the same time.
    concurrency: int = 16
    #: Open records of one partition from which on it is paused; it is resumed at half of that.
    backlog: int = 1000
    #: Seconds between two commits of offsets.
    commit_interval: float = 1.0
    #: Seconds that a revoked partition waits for what is being handled.
    revoke_patience: float = 5.0
    #: Tries of a record that fails for a reason which is neither its own nor passes, before it is dead-lettered.
    tries: int = 5
    #: Seconds of the longest pause between two tries.
    longest_backoff: float = 30.0


class CommandLoop:
    """Consumes one command topic; drive it with `start`, `step` over and over, `drain`, `close`."""

    def __init__(
        self,
        *,
        name: str,
        topic: str,
        dead_letters: str,
        consumer: Consumer,
        publisher: MemoryPublisher,
        runner: Runner,
        reader: Reader,
        unit: UnitOfWork,
        heartbeats: Heartbeats,
        relay: Relay,
        clock: Clock,
        observer: Observer,
        options: LoopOptions,
    ) -> None:
        self._name = name
        self._topic = topic
        self._dead_letters = dead_letters
        self._consumer = consumer
        self._publisher = publisher
        self._runner = runner
        self._reader = reader
        self._unit = unit
        self._heartbeats = heartbeats
        self._relay = relay
        self._clock = clock
        self._observer = observer
        self._options = options
        self._work: dict[Partition, PartitionWork] = {}
        self._ended: deque[tuple[Task, Prepared, Done[Handled]]] = deque()
        self._paused: set[Partition] = set()
        self._running = 0
        self._committed: dict[Partition, int] = {}
        self._commit_at = 0.0
        self._read_at = 0.0
        self._joined = False

    # --- the driver's side

    def start(self) -> None:
        """Join the group."""
        self._consumer.subscribe([self._topic], starts=self._starts, revoked=self._on_revoked)

    def step(self, patience: float = 0.0) -> bool:
        """Do what can be done now; whether anything was. Waits only where nothing is open, up to `patience` seconds.

        Raises the broker's ConfigError (no such topic, no authorisation) until partitions were assigned for the first
        time; everything else is dealt with.
        """
        moved = self._hear()
        moved |= self._publisher.serve()
        moved |= self.serve_heartbeats()
        moved |= self._relay.step_when_due()
        moved |= self._read(0.0 if moved or self.busy else patience)
        moved |= self._start_ready()
        self._flow_control()
        self._commit(at_once=False)
        return moved

    @property
    def busy(self) -> bool:
        """Something is being handled, sent, or tried again soon."""
        return self._running > 0 or self._publisher.flying > 0 or any(self._work.values())

    def drain(self, timeout: float) -> None:
        """Take nothing new, finish what is being handled, send the replies, commit the offsets."""
        until = self._clock.monotonic() + timeout
        for work in self._work.values():
            work.drop_waiting()
        while self._running and self._clock.monotonic() < until:
            self._runner.wait(0.05)
            self._hear()
            self._publisher.serve()
        self._publisher.drain(max(0.1, until - self._clock.monotonic()))
        self._hear()
        self._commit(at_once=True)

    def shut(self) -> None:
        """After `drain`: give up the relay's lanes."""
        self._relay.shut()

    # --- reading

    def _starts(self, assigned: Sequence[Partition]) -> Mapping[Partition, int]:
        for partition in assigned:
            self._work.pop(partition, None)
            self._committed.pop(partition, None)
            self._paused.discard(partition)
        offsets = self._consumer.committed(assigned)
        self._joined = True
        return offsets

    def _read(self, patience: float) -> bool:
        if self._clock.monotonic() < self._read_at:
            self._runner.wait(patience)
            return False
        try:
            polled = self._consumer.poll(max(1, self._options.backlog // 2), patience)
        except (Unavailable, ConfigError) as error:
            if isinstance(error, ConfigError) and not self._joined:
                raise  # a setting was never right; one that went wrong later (an ACL, a topic) may be put right again
            self._observer.event("worker.read.failed", error=error)
            self._read_at = self._clock.monotonic() + READ_PENALTY
            return False
        for record in polled.records:
            self._work.setdefault(record.source, PartitionWork()).accept(record)
        return bool(polled.records)

    def _on_revoked(self, partitions: Sequence[Partition]) -> None:
        leaving = [self._work[partition] for partition in partitions if partition in self._work]
        for work in leaving:
            work.drop_waiting()
        until = self._clock.monotonic() + self._options.revoke_patience
        while any(work.running for work in leaving) and self._clock.monotonic() < until:
            self._runner.wait(0.05)
            self._hear()
        self._commit(at_once=True)
        for partition in partitions:
            self._work.pop(partition, None)
            self._committed.pop(partition, None)
            self._paused.discard(partition)

    # --- running

    def _start_ready(self) -> bool:
        moved = False
        now = self._clock.monotonic()
        for work in list(self._work.values()):
            while self._running < self._options.concurrency and (task := work.next_ready(now)) is not None:
                self._running += 1
                moved = True
                self._begin(task)
        return moved

    def _begin(self, task: Task) -> None:
        if task.dead is not None:
            self._send_dead_letter(task)
            return
        try:
            prepared = self._reader.prepare(task.record)
        except EnvelopeError as error:
            self._die(task, error.code, error, None)
            return
        except Exception as error:  # noqa: BLE001 - a bug in decoding must cost one record, not the process
            self._die(task, "undecodable", error, None)
            return

        def job(desk: Desk) -> Handled:
            return self._unit.run(desk, [prepared])[0]

        def done(result: Done[Handled]) -> None:
            self._ended.append((task, prepared, result))

        self._runner.submit(job, done)

    def _hear(self) -> bool:
        moved = False
        while self._ended:
            task, prepared, result = self._ended.popleft()
            moved = True
            self._heartbeats.forget(prepared.command.id)
            if result.value is not None:
                hit("worker.after_commit")
                self._settle(task, prepared, result.value)
            else:
                assert result.error is not None
                self._failed(task, prepared, result.error)
        return moved

    def _settle(self, task: Task, prepared: Prepared, handled: Handled) -> None:
        for reply in handled.replies:
            self._publisher.publish(reply)
        task.home.stalls = 0
        self._observer.count("worker.handled")
        if handled.dead is not None:
            self._die(task, *handled.dead, prepared.command.saga_id)
            return
        self._running -= 1
        task.home.finished(task)

    def _failed(self, task: Task, prepared: Prepared, error: BaseException) -> None:
        """The database (or our own code) failed: nothing was committed, or nobody knows."""
        task.tries += 1
        transient = is_transient_database(error)
        if not transient and task.tries >= self._options.tries:
            self._die(task, "handling_failed", error, prepared.command.saga_id)
            return
        pause = self._pause(task)
        if transient:
            task.home.stalled_until = self._clock.monotonic() + pause
        self._observer.event("worker.command.failed", id=prepared.command.id, pause=pause, error=f"{error!r:.300}")
        self._running -= 1
        task.home.again(task)

    def _pause(self, task: Task) -> float:
        pause = min(self._options.longest_backoff, 0.1 * 2.0 ** min(task.tries, 20))
        task.not_before = self._clock.monotonic() + pause
        return pause

    # --- dead letters

    def _die(self, task: Task, reason: str, error: BaseException, saga_id: str | None) -> None:
        self._observer.event("worker.dead", reason=reason, offset=task.record.offset, error=error)
        task.dead = dead_letter_record(
            task.record, self._dead_letters, reason, error, self._name, task.tries + 1, saga_id
        )
        self._send_dead_letter(task)

    def _send_dead_letter(self, task: Task) -> None:
        assert task.dead is not None
        self._publisher.send(task.dead, partial(self._dead_letter_landed, task))

    def _dead_letter_landed(self, task: Task, error: Exception | None) -> None:
        self._running -= 1
        if error is None:
            task.home.finished(task)
            return
        # Never skipped: a record that can't be put aside stops its partition, and somebody is told.
        task.tries += 1
        self._observer.event("worker.dead_letter.failed", topic=self._dead_letters, error=error)
        self._pause(task)
        task.home.again(task)

    # --- heartbeats

    def serve_heartbeats(self) -> bool:
        """Send and store the heartbeats that are due."""
        beats = self._heartbeats.due(self._clock.monotonic())
        for beat in beats:
            self._send_beat(beat)
        return bool(beats)

    def _send_beat(self, beat: Beat) -> None:
        command, now = beat.prepared.command, self._clock.now()
        answered = Answered(outcome="pending", body=beat.details)
        message = reply_to(command, answered, source=self._unit.source, now=now, sequence=to_micros(now))
        self._publisher.send(message.outgoing(), _not_needed)
        registration = beat.prepared.registration
        if registration is None or registration.transaction != "manual":
            return

        def store(desk: Desk) -> None:
            with desk.transaction() as sessions:
                store_details(sessions.session.connection(), self._name, command.key, command.id, beat.details)

        self._runner.submit(store, self._beat_stored)

    def _beat_stored(self, result: Done[Any]) -> None:
        if result.error is not None:
            self._observer.event("worker.heartbeat.failed", error=result.error)

    # --- flow control and offsets

    def _flow_control(self) -> None:
        assigned = self._consumer.assignment()
        full = {p for p, work in self._work.items() if len(work) >= self._options.backlog and p not in self._paused}
        free = {p for p in self._paused if len(self._work.get(p, ())) <= self._options.backlog // 2}
        if full & assigned:
            self._consumer.pause(full & assigned)
            self._paused |= full & assigned
        if free:
            self._consumer.resume(free & assigned)
            self._paused -= free

    def _commit(self, *, at_once: bool) -> None:
        now = self._clock.monotonic()
        if not at_once and now < self._commit_at:
            return
        self._commit_at = now + self._options.commit_interval
        offsets = {
            partition: work.watermark
            for partition, work in self._work.items()
            if work.watermark is not None and work.watermark != self._committed.get(partition)
        }
        if offsets:
            hit("worker.before_offsets")
            self._consumer.commit(offsets)
            self._committed.update(offsets)


def _not_needed(error: Exception | None) -> None:
    """A heartbeat that gets lost is followed by the next."""
