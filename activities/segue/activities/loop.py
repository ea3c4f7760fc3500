"""The worker's loop: a step function over ports, with no thread, sleep or clock of its own.

One step: hear what has ended, publish, read, start what may run. Kafka's offsets are committed up to the first record
that is not done, and a record is done once its transaction is committed and Kafka has acknowledged its reply (and its
dead letter, if any). The next command of its key need not wait for that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from segue.activities.handlers import Prepared, Reader
from segue.activities.heartbeat import Beat, Heartbeats
from segue.activities.outcome import Answered, reply_to
from segue.activities.pace import Pace
from segue.activities.participant import Handled
from segue.activities.partitions import PartitionWork, Task
from segue.activities.publish import ReplyPublisher
from segue.activities.runner import Desk, Done, Runner
from segue.activities.unit import Result, UnitOfWork
from segue.clock import Clock, to_micros
from segue.errors import ConfigError, DecodeError, EnvelopeError, Unavailable
from segue.failpoints import hit
from segue.ids import derive
from segue.observe import Observer
from segue.outbox.faults import DatabaseFault, fault_of
from segue.outbox.message import Message, raw_message
from segue.outbox.relay import Relay
from segue.topics.broker import Consumer, Partition, Producer, Record, Unreadable
from segue.topics.deadletter import dead_letter_record
from segue.topics.obstacles import REASON, TRIES, Obstacles

Batch = Sequence[tuple[Task, Prepared]]

#: Seconds for which a broker that could not be read from is left alone.
READ_PENALTY = 1.0
#: Seconds that an idle step gives the client to send what lingers. Acknowledgements that take longer are heard by the
#: way: who waited for them would let new commands wait.
SEND_PATIENCE = 0.002
#: Seconds that a step waits for commands while replies are not acknowledged, or commands are to be tried again.
OPEN_PATIENCE = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """Bounds and intervals of a worker's loop."""

    #: Transactions that are run at the same time; of handlers that run alone, so many commands.
    concurrency: int = 16
    #: Commands that may share a transaction; 1: none do. No command waits for such a group to fill.
    group: int = 100
    #: Groups that are handled at the same time: one computes while the other one's database does.
    groups: int = 2
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
        producer: Producer,
        runner: Runner,
        reader: Reader,
        unit: UnitOfWork,
        pace: Pace,
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
        self._publisher = ReplyPublisher(f"/{name}", producer, self._shelve, clock, observer)
        self._runner = runner
        self._reader = reader
        self._unit = unit
        self._pace = pace
        self._heartbeats = heartbeats
        self._relay = relay
        self._clock = clock
        self._observer = observer
        self._options = options
        self._work: dict[Partition, PartitionWork] = {}
        self._ended: deque[tuple[Batch, bool, Done[Sequence[Result]]]] = deque()
        #: Dead letters that the database was to keep, and how that went.
        self._kept: deque[tuple[Task, BaseException | None]] = deque()
        self._obstacles = Obstacles(consumer, clock, observer)
        self._paused: set[Partition] = set()
        #: Commands that may share a transaction, taken in their order, for the next group.
        self._gathered: deque[tuple[Task, Prepared]] = deque()
        self._turn = 0
        #: Records that were taken and are not finished; jobs of the runner; those of them that are groups.
        self._running = self._jobs = self._groups = 0
        self._committed: dict[Partition, int] = {}
        self._commit_at = 0.0
        self._read_at = 0.0
        self._joined = False

    # --- the driver's side

    def start(self) -> None:
        """Join the group."""
        self._consumer.subscribe([self._topic], starts=self._starts, revoked=self._on_revoked)

    def step(self, patience: float = 0.0) -> bool:
        """Do what can be done now; whether anything was. Waits for commands where nothing is being handled, up to
        `patience` seconds, and shortly where replies are on their way.

        Raises the broker's ConfigError (no such topic, no authorisation) until partitions were assigned for the first
        time; everything else is dealt with.
        """
        moved = self._hear() | self._hear_kept()
        moved |= self._publisher.serve()
        moved |= self.serve_heartbeats()
        moved |= self._relay.step_when_due()
        moved |= self._read(0.0 if moved or self._running or self._publisher.lingering else self._patience(patience))
        moved |= self._start_ready()
        if not moved and not self._running and self._publisher.lingering:
            # Nothing will join these replies soon: they need not linger.
            moved = self._publisher.serve(min(patience, SEND_PATIENCE))
        self._flow_control()
        self._commit(at_once=False)
        return moved

    def _patience(self, patience: float) -> float:
        return min(patience, OPEN_PATIENCE) if self.busy else patience

    @property
    def handling(self) -> bool:
        """Commands are being handled: their end is what comes next."""
        return self._running > 0

    @property
    def busy(self) -> bool:
        """Something is being handled, sent, or tried again soon."""
        return self._running > 0 or self._publisher.flying > 0 or any(self._work.values())

    def drain(self, timeout: float) -> None:
        """Take nothing new, finish what is being handled, send the replies, commit the offsets."""
        until = self._clock.monotonic() + timeout
        self._disperse(list(self._work.values()))
        while self._running and self._clock.monotonic() < until:
            self._runner.wait(0.05)
            self._hear()
            self._publisher.serve()
            self._hear_kept()
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
        for partition, unreadable in polled.unreadable.items():
            if self._obstacles.met(partition, unreadable):
                self._step_over(partition, unreadable)
        return bool(polled.records)

    def _step_over(self, partition: Partition, unreadable: Unreadable) -> None:
        """Go on behind a batch that nobody can read, with a dead letter in its place; once an hour, else it stands."""
        try:
            behind = self._obstacles.behind(partition, unreadable, unreadable.offset)
        except (Unavailable, ConfigError) as error:
            self._observer.event("worker.read.failed", error=error)
            return
        if behind is None:
            return
        if behind > unreadable.offset:
            if not self._obstacles.may_step_over(partition):
                self._obstacles.tell(partition, unreadable, "another one was stepped over within the last hour")
                return
            # It stands for all records of the batch: once it is done, the next owner begins behind them.
            place = Record(topic=partition.topic, partition=partition.number, offset=behind - 1)
            problem = DecodeError(f"offsets {unreadable.offset} to {behind - 1}: {unreadable.problem}")
            dead = dead_letter_record(place, self._dead_letters, REASON, problem, self._name, TRIES, None)
            self._work.setdefault(partition, PartitionWork()).accept(place, dead=dead)
            self._observer.event(
                "skip.alert",
                topic=partition.topic,
                partition=partition.number,
                start=unreadable.offset,
                end=behind,
            )
        self._obstacles.passed(partition)
        self._consumer.seek({partition: behind})

    def _on_revoked(self, partitions: Sequence[Partition]) -> None:
        leaving = [self._work[partition] for partition in partitions if partition in self._work]
        self._disperse(leaving)
        until = self._clock.monotonic() + self._options.revoke_patience
        while any(work.running for work in leaving) and self._clock.monotonic() < until:
            self._runner.wait(0.05)
            self._hear()
        # Whoever takes over answers the commands once more whose replies are not acknowledged by now.
        self._publisher.drain(max(0.0, until - self._clock.monotonic()))
        self._commit(at_once=True)
        for partition in partitions:
            self._work.pop(partition, None)
            self._committed.pop(partition, None)
            self._paused.discard(partition)

    # --- running

    def _start_ready(self) -> bool:
        """Take what may run, partition by partition in turns: what runs alone at once, the rest in groups."""
        moved = False
        now = self._clock.monotonic()
        works = list(self._work.values())
        self._turn += 1
        for number in range(len(works)):
            work = works[(self._turn + number) % len(works)]
            while self._has_room and (task := work.next_ready(now)) is not None:
                moved = True
                task.since = now
                shares = self._take(task, first=True)
                while shares and self._has_room:
                    following = work.next_after(task, now)
                    shares = following is not None and self._take(following, first=False)
            while self._has_room and (task := work.next_behind(self._is_silent, now)) is not None:
                moved = True
                task.since = now
                self._observer.event("worker.taken_over", partition=task.record.source, offset=task.record.offset)
                self._take(task, first=True)
        return self._start_groups() or moved

    def _is_silent(self, running: Task, again: Task) -> bool:
        """Whether a handler has said nothing for as long as its command allows, and the command has come again."""
        prepared = running.prepared
        if prepared is None or prepared.command.heartbeat is None:
            return False
        registration = prepared.registration
        if registration is None or registration.transaction != "manual":
            return False  # it holds its fence row, and whoever came next would only wait for that
        heard = max(running.since, self._heartbeats.last(prepared.command.id))
        if self._clock.monotonic() - heard < prepared.command.heartbeat:
            return False
        try:
            again.prepared = again.prepared or self._reader.prepare(again.record)
        except Exception:  # noqa: BLE001 - said when its turn comes
            return False
        return again.prepared.command.id == prepared.command.id

    @property
    def _has_room(self) -> bool:
        return self._jobs < self._options.concurrency and len(self._gathered) < self._options.group

    def _take(self, task: Task, *, first: bool) -> bool:
        """Begin a task, or gather it for a group; whether the next one of its key may be taken already.

        `first`: no earlier one of its key is under way.
        """
        self._running += 1
        prepared = self._prepared(task)
        if prepared is None:
            return False
        if self._may_share(prepared):
            self._gathered.append((task, prepared))
            return True
        if first:
            self._submit([(task, prepared)], group=False)
        else:
            self._put_back(task)
        return False

    def _prepared(self, task: Task) -> Prepared | None:
        if task.dead is not None:
            self._send_dead_letter(task)
            return None
        if task.prepared is not None:
            return task.prepared  # it was put back: a group that took it ended early, or failed
        try:
            task.prepared = self._reader.prepare(task.record)
            return task.prepared
        except EnvelopeError as error:
            self._die(task, error.code, error, None)
        except (KeyboardInterrupt, SystemExit):
            raise  # of the thread that drives the loop, not of a record
        except BaseException as error:  # noqa: BLE001 - a bug in decoding (Rust panics, too) must cost one record
            self._die(task, "undecodable", error, None)
        return None

    def _may_share(self, prepared: Prepared) -> bool:
        registration = prepared.registration
        joined = registration is None or registration.transaction == "joined"
        return joined and min(self._options.group, self._pace.length(prepared.command.activity)) > 1

    def _start_groups(self) -> bool:
        moved = False
        options = self._options
        at_once = self._pace.at_once(options.groups)
        while self._gathered and self._groups < at_once and self._jobs < options.concurrency:
            batch = [self._gathered.popleft()]
            room = self._pace.length(batch[0][1].command.activity)
            while self._gathered and len(batch) < room:
                room = min(room, self._pace.length(self._gathered[0][1].command.activity))
                if len(batch) < room:
                    batch.append(self._gathered.popleft())
            while self._gathered and self._gathered[0][0].follows(batch[-1][0]):
                self._put_back(self._gathered.popleft()[0])  # another group might overtake this one
            self._submit(batch, group=True)
            moved = True
        return moved

    def _submit(self, batch: Batch, *, group: bool) -> None:
        self._jobs += 1
        self._groups += group
        commands = [prepared for _, prepared in batch]

        def job(desk: Desk) -> Sequence[Result]:
            return self._unit.run(desk, commands)

        def done(result: Done[Sequence[Result]]) -> None:
            self._ended.append((batch, group, result))

        self._runner.submit(job, done)

    def _disperse(self, works: Sequence[PartitionWork]) -> None:
        """Begin nothing more of these partitions."""
        gathered, self._gathered = self._gathered, deque()
        for task, prepared in gathered:
            if task.home in works:
                self._put_back(task)
            else:
                self._gathered.append((task, prepared))
        for work in works:
            work.drop_waiting()

    def _put_back(self, task: Task) -> None:
        self._running -= 1
        task.home.again(task)

    def _hear(self) -> bool:
        moved = False
        while self._ended:
            batch, group, done = self._ended.popleft()
            moved = True
            self._jobs -= 1
            self._groups -= group
            results = [done.error, *[None] * (len(batch) - 1)] if done.value is None else done.value
            for (task, prepared), result in zip(batch, results, strict=True):
                self._heartbeats.forget(prepared.command.id)
                self._ended_with(task, prepared, result)
        return moved

    def _ended_with(self, task: Task, prepared: Prepared, result: Result) -> None:
        if isinstance(result, Handled):
            hit("worker.after_commit")
            self._settle(task, prepared, result)
        elif result is None:
            self._put_back(task)
        else:
            self._failed(task, prepared, result)

    def _settle(self, task: Task, prepared: Prepared, handled: Handled) -> None:
        task.home.stalls = 0
        self._observer.count("worker.handled")
        if handled.dead is None:
            self._running -= 1
            task.home.overtake(task)
            task.home.answered(task)
        if handled.reply is None:
            self._delivered(task, prepared, handled)
        else:
            self._publisher.publish(prepared.command, handled.reply, partial(self._delivered, task, prepared, handled))

    def _delivered(self, task: Task, prepared: Prepared, handled: Handled) -> None:
        if handled.dead is None:
            task.home.delivered(task)
        else:
            self._die(task, *handled.dead, prepared.command.saga_id)

    def _shelve(self, reply: Message, stored: Callable[[BaseException | None], None]) -> None:
        """Leave a reply to the outbox: its relay tries on, and puts it aside in the end, while the partition moves."""

        def job(desk: Desk) -> None:
            with desk.transaction() as sessions:
                sessions.rows.insert_messages([reply])

        self._runner.submit(job, lambda done: stored(done.error))

    def _failed(self, task: Task, prepared: Prepared, error: BaseException) -> None:
        """The database (or our own code) failed: nothing was committed, or nobody knows."""
        if task.overtaken:
            self._put_back(task)
            return
        task.tries += 1
        fault = fault_of(error)
        waits = fault in (DatabaseFault.PASSES, DatabaseFault.UNFIT)
        if not waits and task.tries >= self._options.tries:
            self._die(task, "handling_failed", error, prepared.command.saga_id)
            return
        pause = self._pause(task)
        if waits:
            task.home.stalled_until = self._clock.monotonic() + pause
        if fault is DatabaseFault.UNFIT:
            # Nothing is wrong with the command, and trying does not help: what is missing, a migration brings.
            self._observer.event("worker.database.alert", topic=self._topic, error=error)
        self._observer.event("worker.command.failed", id=prepared.command.id, pause=pause, error=error)
        self._put_back(task)

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
        task.tries += 1
        self._observer.event("worker.dead_letter.failed", topic=self._dead_letters, error=error)
        if isinstance(error, Unavailable):
            self._pause(task)
            task.home.again(task)
            return
        # The topic is too small, or is not there: the service's own database keeps it, and its relay tries on.
        assert task.dead is not None
        record = task.record
        place = (record.topic, str(record.partition), str(record.offset), str(record.timestamp_ms))
        message = raw_message(derive("dead letter of", self._name, *place), task.dead, self._clock.now())
        self._running += 1
        self._shelve(message, lambda failed: self._kept.append((task, failed)))

    def _hear_kept(self) -> bool:
        """Go on behind dead letters that the database has; never behind one that is nowhere."""
        moved = bool(self._kept)
        while self._kept:
            task, error = self._kept.popleft()
            self._running -= 1
            if error is None:
                self._observer.count("worker.dead_letter.kept")
                task.home.finished(task)
            else:
                self._observer.event("worker.dead_letter.failed", topic="outbox", error=error)
                self._pause(task)
                task.home.again(task)
        return moved

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
        message = reply_to(command, answered, source=f"/{self._name}", now=now, sequence=to_micros(now))
        registration = beat.prepared.registration
        if registration is None or registration.transaction != "manual":
            self._publisher.send(message.outgoing(), _not_needed)
            return

        def store(desk: Desk) -> bool:
            with desk.transaction() as sessions:
                return sessions.rows.store_details(self._name, command.key, command.id, beat.details, beat.lease)

        self._runner.submit(store, partial(self._beat_stored, message))

    def _beat_stored(self, message: Message, result: Done[bool]) -> None:
        """Say that work goes on, unless another delivery has taken it over."""
        if result.error is not None:
            self._observer.event("worker.heartbeat.failed", error=result.error)
        if result.error is not None or result.value:
            self._publisher.send(message.outgoing(), _not_needed)

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
