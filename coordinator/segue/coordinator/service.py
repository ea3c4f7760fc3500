"""The coordinator: consume a batch, move its sagas in one transaction, publish what they ask for.

`step` is one turn of the loop: no thread, no sleep, no clock of its own; `run` drives it. Any number of coordinators
may run on one database. Nothing relies on who owns a partition: a batch begins by moving the stored offsets, and fails
if they do not stand where it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from segue.clock import SYSTEM_CLOCK, Clock, SystemClock, spread, to_micros
from segue.coordinator.alone import NOBODYS_FAULT, deal
from segue.coordinator.breaker import Breaker
from segue.coordinator.cache import InstanceCache
from segue.coordinator.claims import Claims
from segue.coordinator.gate import DrainGate
from segue.coordinator.intake import Intake, Item
from segue.coordinator.publisher import Publisher
from segue.coordinator.requests import apply_request, refuse_request, replay
from segue.coordinator.skipping import note_standing, step_over
from segue.coordinator.store import (
    AuditEntry,
    Batch,
    DeadLetterRow,
    Look,
    OffsetMove,
    OperatorRequest,
    SagaRow,
    Store,
    StoredOffset,
)
from segue.coordinator.work import Tools, Work
from segue.errors import ConfigError, Fenced, SegueError, Unavailable
from segue.failpoints import hit
from segue.limits import DEFAULT_LIMITS, Limits
from segue.observe import SILENT, Observer
from segue.outbox import Relay
from segue.saga.busy import Watchdog
from segue.saga.definition import Converter, Registry
from segue.saga.events import Failure
from segue.topics import Codecs, TopicNames
from segue.topics import Converter as MsgspecConverter
from segue.topics.broker import Consumer, Partition, Producer, Unreadable
from segue.topics.obstacles import ONE_IN, Obstacles

#: Seconds that a turn with nothing to read gives the client to send what lingers. Acknowledgements that take longer are
#: heard by the way: who waited for them would let records wait.
SEND_PATIENCE = 0.002
#: Seconds that a turn waits for records while something it published is not acknowledged.
FLIGHT_PATIENCE = 0.02
#: Seconds between two looks whether a topic was created again. Kafka tells a reader only if its offset is out of range,
#: and the new topic may have grown beyond it before the reader, frozen meanwhile, asks for the next record.
TOPICS_EVERY = 5.0
#: Requests of people that are dealt with in one transaction.
REQUESTS_AT_ONCE = 20
#: How long a due saga whose history can't be read here is left to processes that can.
UNREADABLE_FOR = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a coordinator works; the defaults suit a small and a busy one alike."""

    #: Records of one batch, and sagas woken in one transaction.
    batch_size: int = 500
    #: Live sagas kept in memory.
    cache_size: int = 10_000
    #: Seconds between two looks for due sagas and for requests of people.
    tick: float = 0.1
    #: Seconds at least between two transactions that deal with requests of people.
    requests_every: float = 0.3
    #: Seconds between two looks for parked records whose saga has come.
    fold_every: float = 1.0
    #: Seconds between two commits of Kafka's own offsets, which only lag tools read.
    commit_every: float = 5.0
    #: How long a record that came before its saga is kept parked.
    parked_for: timedelta = timedelta(days=1)
    #: Undos per minute and saga type that may begin without a person asking for them; more are held. None: no limit.
    undos_per_minute: int | None = None
    #: Refuse to start if a live saga needs a version that this process lacks.
    require_all_versions: bool = False
    #: Seconds for the last acknowledgements when draining.
    drain_timeout: float = 10.0


@dataclass(slots=True)
class _Timer:
    every: float
    at: float = 0.0

    def due(self, now: float) -> bool:
        if now < self.at:
            return False
        self.at = now + self.every
        return True


class Coordinator:
    """One coordinator process. All its calls are made from one thread."""

    def __init__(
        self,
        names: TopicNames,
        registry: Registry,
        store: Store,
        consumer: Consumer,
        producer: Producer,
        *,
        converter: Converter | None = None,
        codecs: Codecs | None = None,
        clock: Clock = SYSTEM_CLOCK,
        observer: Observer = SILENT,
        limits: Limits = DEFAULT_LIMITS,
        options: Options | None = None,
        broker_id: str = "",
        relay: Relay | None = None,
    ) -> None:
        """A coordinator over these ports.

        `relay` publishes what a crash left in the outbox; it shares the producer. `broker_id` stands in for topic ids
        where the broker tells none: it changes when the broker is a new one.
        """
        self.name = names.coordinator
        self.options = options or Options()
        self._store = store
        self._consumer = consumer
        self._clock = clock
        self._observer = observer
        self._topics = [names.replies, names.requests]
        self._broker_id = broker_id
        self._relay = relay
        self._registry = registry
        self._topic_ids: dict[str, str] = {}
        self._tools = Tools(
            coordinator=self.name,
            registry=registry,
            converter=converter or MsgspecConverter(limits),
            codecs=codecs or Codecs(limits=limits),
            names=names,
            limits=limits,
            topic_ids=self._topic_ids,
        )
        self._breaker = Breaker(self.options.undos_per_minute)
        self._intake = Intake(names=names, codecs=self._tools.codecs)
        self._cache = InstanceCache(self.options.cache_size)
        self._publisher = Publisher(producer, clock, observer)
        self._gate = DrainGate(store, consumer, self.name, self._topics, observer, clock)
        self._obstacles = Obstacles(consumer, clock, observer)
        #: Partitions of which the database says that they stand, and where.
        self._standing: dict[Partition, int] = {}
        self._positions: dict[Partition, int] = {}
        #: The topic's id beside the stored offset from which a position was counted.
        self._counted_in: dict[Partition, str] = {}
        self._lost_track = False
        self._tick = _Timer(self.options.tick)
        self._requests = _Timer(self.options.requests_every)
        self._fold = _Timer(self.options.fold_every)
        self._commit = _Timer(self.options.commit_every)
        self._sweep = _Timer(60.0)
        self._topics_again = _Timer(TOPICS_EVERY, at=clock.monotonic() + TOPICS_EVERY)
        self._started = False
        #: Partitions were assigned once.
        self._joined = False

    # --- the loop

    def start(self) -> None:
        """Register the definitions and join the group."""
        while self._store.assign(self.options.batch_size, live=True) == self.options.batch_size:
            pass
        for definition in self._registry:
            known = self._store.register(self.name, definition.name, definition.version, definition.fingerprint)
            if known != definition.fingerprint:
                self._observer.event(
                    "definition.alert",
                    definition=definition.name,
                    version=definition.version,
                    hint="its code changed under the same version; live sagas whose history does not fit will block",
                )
        self._check_versions()
        self._consumer.subscribe(self._topics, starts=self._starts, revoked=self._revoked)
        self._started = True

    def _check_versions(self) -> None:
        missing = sorted(set(self._store.live_versions(self.name)) - self._registry.versions)
        if not missing:
            return
        listed = ", ".join(f"{name} version {version}" for name, version in missing)
        if self.options.require_all_versions:
            raise ConfigError(f"live sagas need {listed}: deploy this code, too, or start without require_all_versions")
        self._observer.event("versions.alert", missing=listed, hint="their sagas wait for a coordinator that has them")

    def step(self, wait: float = 0.0) -> bool:
        """One turn; waits at most `wait` seconds for records. True if there was something to do.

        Raises nothing that passes: an unavailable broker or database is counted, and the next turn finds its way back.
        ConfigError is raised until partitions were assigned for the first time.
        """
        try:
            if not self._started:
                self.start()
            if self._lost_track:
                self._find_back()
            lingering = self._publisher.lingering
            worked = self._consume(0.0 if lingering else self._patience(wait))
            # Nothing to read: what was published last need not wait for company.
            self._publisher.poll(min(wait, SEND_PATIENCE) if lingering and not worked else 0.0)
            worked = self._look_after(reading=worked) or worked
            self._forget()
            if self._relay is not None:
                self._relay.step_when_due()
            return worked
        except Unavailable as error:
            self._stumble(error)
            return False
        except ConfigError as error:
            if not self._joined:
                raise
            # What was right once may be put right again, or was never wrong: a restarting broker knows no partitions.
            self._stumble(error)
            return False

    def _patience(self, wait: float) -> float:
        return min(wait, FLIGHT_PATIENCE) if self._publisher.in_flight else wait

    @property
    def busy(self) -> bool:
        """What it published is not acknowledged yet, or not deleted yet: that takes another `step` soon."""
        return self._publisher.busy or (self._relay is not None and not self._relay.idle)

    def run(self, stop: Callable[[], bool], clock: SystemClock = SYSTEM_CLOCK) -> None:
        """Drive `step` until `stop()` is true, then drain. Blocks; a watchdog looks at the code of sagas meanwhile."""
        watchdog = Watchdog(lambda saga, line: self._observer.event("saga.busy.alert", saga=saga, line=line))
        with watchdog.thread(clock.monotonic):
            self._drive(stop, clock)
        self.close()

    def _drive(self, stop: Callable[[], bool], clock: SystemClock) -> None:
        failures = 0
        while not stop():
            try:
                busy = self.step(min(self.options.tick, 0.05))
                failures = failures + 1 if self._lost_track and not busy else 0
            except ConfigError:
                self.close()
                raise
            if failures:
                clock.sleep(spread(min(0.05 * 2 ** min(failures, 6), 2.0)))
        self.drain()

    def drain(self) -> None:
        """Wait for acknowledgements and delete their outbox rows; what is missing is the relay's."""
        missing = self._publisher.flush(self.options.drain_timeout)
        try:
            self._forget(everything=True)
        except Unavailable as error:
            self._observer.event("drain.failed", error=error)
        if self._relay is not None:
            self._relay.shut(self.options.drain_timeout)
        if self._positions:
            self._consumer.commit(self._positions)
        self._observer.event("coordinator.drained", unacknowledged=missing)

    def close(self) -> None:
        """Leave the group; idempotent."""
        self._cache.clear()
        self._consumer.close()

    # --- records

    def _consume(self, wait: float) -> bool:
        polled = self._consumer.poll(self.options.batch_size, wait)
        records = [r for r in polled.records if r.offset >= self._positions.get(r.source, r.offset + 1)]
        if records:
            self._commit_items([self._intake.item(record) for record in records])
        ends = {p: end for p, end in polled.ended.items() if p in self._positions and end > self._positions[p]}
        if ends:
            self._apply([], ends)
        for partition, unreadable in polled.unreadable.items():
            if partition in self._positions and self._obstacles.met(partition, unreadable):
                self._face(partition, unreadable)
        return bool(records)

    def _face(self, partition: Partition, unreadable: Unreadable) -> None:
        """Step over a batch that nobody can read, once an hour; else say that the partition stands."""
        move = self._move(partition, self._positions[partition])
        stored = self._store.offsets(self.name).get(partition)
        if stored is None or stored.next != move.start:
            raise Fenced(f"{partition} does not stand at {move.start} any more")
        if self._standing.get(partition) != move.start:
            self._transact(lambda work, batch: note_standing(work, self.name, move, unreadable))
            self._standing[partition] = move.start
        behind = self._obstacles.behind(partition, unreadable, move.start)
        if behind is None:
            return
        if behind > move.start:
            if stored.skipped_at is not None and self._store.now() - stored.skipped_at < ONE_IN:
                self._obstacles.tell(partition, unreadable, "another one was stepped over within the last hour")
                return
            move = self._move(partition, behind)
            self._transact(lambda work, batch: step_over(work, batch, self.name, move, unreadable))
            self._observer.event(
                "skip.alert", topic=partition.topic, partition=partition.number, start=move.start, end=behind
            )
            self._positions[partition] = behind
        self._obstacles.passed(partition)
        self._consumer.seek({partition: behind})

    def _commit_items(self, items: Sequence[Item]) -> None:
        """Apply these in one transaction; if that fails for good, in halves: one record can't hurt the others."""
        ends: dict[Partition, int] = {}
        for item in items:
            ends[item.record.source] = item.record.offset + 1
        try:
            self._apply(items, ends)
        except NOBODYS_FAULT:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a record does to us, its partition goes on
            if len(items) == 1:
                self._poison(items[0], error)
                return
            middle = len(items) // 2
            self._observer.count("batch.bisected")
            self._commit_items(items[:middle])
            self._commit_items(items[middle:])

    def _apply(self, items: Sequence[Item], ends: Mapping[Partition, int]) -> None:
        def work_on(work: Work, batch: Batch) -> None:
            batch.fence(self.name, [self._move(partition, end) for partition, end in sorted(ends.items())])
            ids = {item.saga_id for item in items if item.saga_id}
            requests = [item for item in items if item.request is not None]
            messages = {
                (item.saga_id, item.request.id)
                for item in requests
                if item.request is not None and item.saga_id is not None
            }
            early = self._came_early(batch, requests)
            if ids:
                work.prepare(sorted(ids), messages=messages)
            work.hear({i.reply.command_id for i in items if i.reply is not None and i.reply.outcome == "pending"})
            for item in items:
                if item.request is None:
                    work.item(item)
                else:
                    self._apply_in_order(work, item, early)
            hit("batch.moved")

        self._transact(work_on)
        self._positions.update(ends)

    def _came_early(self, batch: Batch, items: Sequence[Item]) -> list[tuple[DeadLetterRow, Item]]:
        """What is parked for sagas that these records are signals and cancels for: it came first."""
        later = {x.request.saga_id for x in items if x.request is not None and x.request.action != "start"}
        letters = batch.parked(self.name, sorted(later)) if later else ()
        return [(letter, self._intake.item(letter.record)) for letter in letters]

    def _apply_in_order(self, work: Work, item: Item, early: list[tuple[DeadLetterRow, Item]]) -> None:
        """Apply a record; before a signal or cancel, what was parked for its saga."""
        request = item.request
        if request is not None and request.action != "start" and work.knows(request.saga_id):
            for letter, parked in [x for x in early if x[1].saga_id == request.saga_id]:
                early.remove((letter, parked))
                self._fold_letter(work, letter)
            for parked in work.take_early(request.saga_id):
                work.item(parked)
        work.item(item)

    def _fold_letter(self, work: Work, letter: DeadLetterRow) -> None:
        if replay(letter, letter.record, work, self._intake, actor=self.name) != "done":
            work.changes.settled[letter.id] = "dead"

    def _move(self, partition: Partition, end: int) -> OffsetMove:
        return OffsetMove(
            partition=partition, start=self._positions[partition], end=end, topic_id=self._counted_in[partition]
        )

    def _poison(self, item: Item, error: Exception) -> None:
        """A record that can't be applied however often: dead, or kept for its saga, which is then blocked."""
        reason = error.code if isinstance(error, SegueError) else "internal_error"
        self._observer.event("record.failed", topic=item.record.topic, offset=item.record.offset, error=error)
        problem = error if isinstance(error, SegueError) else SegueError(f"{type(error).__name__}: {error}")
        move = self._move(item.record.source, item.record.offset + 1)

        def keep(work: Work, batch: Batch) -> None:
            batch.fence(self.name, [move])
            if item.command_id is not None and item.saga_id:
                work.prepare([item.saga_id])
                if work.knows(item.saga_id):
                    work.keep(item.record, item.saga_id, reason, problem)
                    return
            work.letter(item.record, reason, problem, saga_id=item.saga_id)

        def bury(work: Work, batch: Batch) -> None:
            batch.fence(self.name, [move])
            work.letter(item.record, reason, problem, saga_id=None)

        try:
            self._transact(keep)
        except NOBODYS_FAULT:
            raise
        except Exception:  # noqa: BLE001 - the saga itself can't be loaded or written: the record alone is kept
            self._transact(bury)
        self._positions[move.partition] = move.end

    def _transact(self, work_on: Callable[[Work, Batch], None]) -> None:
        """One transaction: only after its COMMIT is confirmed is anything cached or published."""
        work: Work | None = None
        published = self._publisher.take_published()
        try:
            with self._store.batch() as batch:
                work = Work(self._tools, batch, self._cache, Claims(self._observer, self._breaker))
                hit("batch.begun")
                work_on(work, batch)
                changes = work.finish()
                changes.published.extend(published)
                written = batch.write(changes)
                hit("batch.before_commit")
        except BaseException:
            self._publisher.give_back(published)
            if work is not None:
                work.abort()
            raise
        hit("batch.after_commit")
        work.confirm()
        self._observer.count("commits")
        if written is not None:
            self._publisher.publish(changes.messages, written)
        hit("publish.after_send")

    # --- time and people

    def _look_after(self, *, reading: bool) -> bool:
        now = self._clock.monotonic()
        worked = False
        if self._tick.due(now):
            look = self._store.look(self.name, self._registry.versions, parked=now >= self._fold.at)
            worked = self._wake_due(look, reading=reading) or worked
            if look.requests and self._requests.due(now):
                worked = self._serve_requests() or worked
            if self._fold.due(now) and look.parked:
                worked = self._fold_parked() or worked
        if self._commit.due(now) and self._positions:
            self._consumer.commit(self._positions)
        if self._topics_again.due(now) and self._positions:
            self._find_new_topics()
        if self._sweep.due(now):
            self._store.sweep(self.name, self._store.now() - self.options.parked_for, self.options.batch_size)
            self._store.assign(self.options.batch_size, live=False)
        return worked

    def _wake_due(self, look: Look, *, reading: bool) -> bool:
        versions, wanted = self._registry.versions, look.alarm_at
        now = self._gate.time(look.now)
        if wanted is None or wanted > now:
            return False
        if not self._gate.open_to(wanted):
            if not reading:
                # Soon again: only somebody else's reading is missing. Amid a backlog asking would slow down our own.
                self._tick.at = self._clock.monotonic() + min(self.options.tick, 0.02)
            return False
        rows: list[SagaRow] = []

        def wake(work: Work, batch: Batch) -> None:
            rows.clear()
            until = self._gate.until(batch.now)
            if until is None:
                return
            rows.extend(batch.due(self.name, until, self.options.batch_size, versions))
            due = work.put_early_alarms_right(rows, until)
            work.prepare([], rows=due)
            readable = [row.id for row in due if self._can_be_read(work, row)]
            work.hear_of(readable)
            for saga_id in readable:
                work.wake(saga_id, to_micros(until), self._gate.lost_at)
            hit("wake.before_commit")

        try:
            self._transact(wake)
        except NOBODYS_FAULT:
            raise
        except Exception as error:  # noqa: BLE001 - one saga must not keep the others from waking
            self._wake_one_by_one(rows, error)
        if len(rows) >= self.options.batch_size:
            # There may be more, for the next turn: however many are due, records are read between.
            self._tick.at = self._clock.monotonic()
        return bool(rows)

    def _can_be_read(self, work: Work, row: SagaRow) -> bool:
        """Whether the history is one that this process can fold; else its row is left to others for a while.

        A newer version of Segue may have written it, in a deploy that is under way, or was taken back.
        """
        try:
            work.instance(row.id)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the others are woken
            self._observer.event("wake.failed", saga=row.id, error=error)
            work.put_off(row, UNREADABLE_FOR)
            return False
        return True

    def _wake_one_by_one(self, rows: Sequence[SagaRow], error: Exception) -> None:
        for row in list(rows):

            def wake(work: Work, batch: Batch, row: SagaRow = row) -> None:
                until = self._gate.until(batch.now)
                if until is not None:
                    work.prepare([row.id])
                    work.wake(row.id, to_micros(until), self._gate.lost_at)

            def give_up(work: Work, batch: Batch, row: SagaRow = row, error: Exception = error) -> None:
                work.prepare([row.id])
                failure = Failure(
                    code="internal_error", message=repr(error)[:900], kind="saga", class_name=type(error).__name__
                )
                work.block(row.id, failure)

            def put_off(work: Work, batch: Batch, row: SagaRow = row) -> None:
                for found in batch.lock([row.id]).values():
                    work.put_off(found, UNREADABLE_FOR)

            try:
                self._transact(wake)
            except NOBODYS_FAULT:
                raise
            except Exception as failed:  # noqa: BLE001 - this is the one: it waits for a person
                error = failed
                self._observer.event("wake.failed", saga=row.id, error=failed)
                try:
                    self._transact(give_up)
                except NOBODYS_FAULT:
                    raise
                except Exception:  # noqa: BLE001 - not even that can be read or written
                    self._transact(put_off)

    def _serve_requests(self) -> bool:
        def take(work: Work, batch: Batch, most: int) -> Sequence[OperatorRequest]:
            requests = batch.requests(self.name, most)
            work.prepare([request.saga_id for request in requests if request.saga_id])
            return requests

        def serve(work: Work, batch: Batch, request: OperatorRequest) -> None:
            apply_request(request, batch, work, self._intake)

        def refuse(work: Work, request: OperatorRequest, error: Exception) -> None:
            self._observer.event("request.failed", saga=request.saga_id, kind=request.kind, error=error)
            refuse_request(request, work, f"failed: {error!r}")

        return deal(self._transact, take, serve, refuse, most=REQUESTS_AT_ONCE)

    def _fold_parked(self) -> bool:
        def take(work: Work, batch: Batch, most: int) -> Sequence[DeadLetterRow]:
            return batch.foldable(self.name, {name for name, _ in self._registry.versions}, most)

        def fold(work: Work, batch: Batch, letter: DeadLetterRow) -> None:
            self._fold_letter(work, letter)

        def bury(work: Work, letter: DeadLetterRow, error: Exception) -> None:
            record = letter.record
            self._observer.event("record.failed", topic=record.topic, offset=record.offset, error=error)
            work.changes.settled[letter.id] = "dead"

        return deal(self._transact, take, fold, bury, most=self.options.batch_size)

    def _forget(self, *, everything: bool = False) -> None:
        published = self._publisher.take_published(all=everything)
        if not published:
            return
        hit("publish.before_forget")
        try:
            self._store.forget_published(published)
            hit("publish.after_forget")
        except Unavailable:
            self._publisher.give_back(published)
            raise

    # --- offsets and trouble

    def _starts(self, assigned: Sequence[Partition]) -> Mapping[Partition, int]:
        """Where to read on: the stored offsets, or the earliest record of what is new, re-created or truncated."""
        stored = self._store.offsets(self.name)
        begins = self._consumer.begin_offsets(assigned)
        ends = self._consumer.end_offsets(sorted({p.topic for p in assigned}))
        self._topic_ids.update(
            {topic: identity or self._broker_id for topic, identity in self._consumer.topic_ids(self._topics).items()}
        )
        fresh: dict[Partition, StoredOffset] = {}
        starts: dict[Partition, StoredOffset] = {}
        problems: dict[str, list[Partition]] = {}
        for partition in assigned:
            begin, end = begins.get(partition, 0), ends.get(partition, 0)
            topic_id = self._topic_ids.get(partition.topic, "")
            known = stored.get(partition)
            if known is None:
                fresh[partition] = starts[partition] = StoredOffset(next=begin, topic_id=topic_id)
            elif problem := _problem(known, begin, end, topic_id):
                starts[partition] = StoredOffset(next=begin, topic_id=topic_id)
                self._restart(partition, known, starts[partition], problem)
                problems.setdefault(problem, []).append(partition)
            else:
                starts[partition] = known
        self._tell_restarts(problems)
        if fresh:
            self._store.seed_offsets(self.name, fresh)
            starts.update({p: o for p, o in self._store.offsets(self.name).items() if p in fresh})
        self._joined = True
        return self._stand(starts)

    def _stand(self, at: Mapping[Partition, StoredOffset]) -> Mapping[Partition, int]:
        """Count from here."""
        positions = {partition: offset.next for partition, offset in at.items()}
        self._positions.update(positions)
        self._counted_in.update({partition: offset.topic_id for partition, offset in at.items()})
        return positions

    def _find_new_topics(self) -> None:
        """Begin anew where a topic was created again; a position in the old one means nothing in it."""
        ids = self._consumer.topic_ids(self._topics)
        if any(_another(self._counted_in[partition], ids.get(partition.topic, "")) for partition in self._positions):
            self._consumer.seek(self._starts(sorted(self._consumer.assignment())))

    def _restart(self, partition: Partition, known: StoredOffset, offset: StoredOffset, problem: str) -> None:
        entry = AuditEntry(
            at=self._store.now(),
            actor=self.name,
            action="offset.reset",
            subject=f"{partition.topic}[{partition.number}]",
            reason=problem,
        )
        self._store.reset_offset(self.name, partition, known, offset, entry)

    def _tell_restarts(self, problems: Mapping[str, Sequence[Partition]]) -> None:
        """One event for all partitions; a broker that forgets its records is expected to have none of them."""
        for problem, partitions in problems.items():
            topics = sorted({partition.topic for partition in partitions})
            what = {"topics": ", ".join(topics), "partitions": len(partitions), "problem": problem}
            if self._broker_id:
                self._observer.event("offset.restarted", **what)
            else:
                self._observer.event("offset.alert", **what)

    def _revoked(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            self._positions.pop(partition, None)
            self._counted_in.pop(partition, None)

    def _stumble(self, error: Unavailable | ConfigError) -> None:
        """Something did not answer, or somebody else was faster: what is in memory is not trusted until read again."""
        self._lost_track = True
        self._observer.count(f"trouble.{error.code}")
        self._observer.event("fenced" if isinstance(error, Fenced) else "coordinator.failed", error=error)
        self._consumer.pause(self._consumer.assignment())

    def _find_back(self) -> None:
        try:
            stored = self._store.offsets(self.name)
        except Unavailable:
            # Nothing can come, all is paused; but a member that does not poll is taken for dead by its group.
            self._consumer.poll(1, 0.0)
            raise
        assigned = self._consumer.assignment()
        # Where it was never said where to begin, `_starts` has failed, and the consumer asks for that again.
        stood = {p: stored[p] for p in assigned if p in self._positions and p in stored}
        self._positions.clear()
        self._consumer.seek(self._stand(stood))
        self._consumer.resume(assigned)
        self._lost_track = False


def _another(known: str, topic_id: str) -> bool:
    """Whether these are two topics; "" is one that no broker tells apart, or that is not there just now."""
    return bool(known and topic_id and known != topic_id)


def _problem(known: StoredOffset, begin: int, end: int, topic_id: str) -> str | None:
    if _another(known.topic_id, topic_id):
        return "the topic was created again"
    if known.next > end:
        return f"the stored offset {known.next} lies beyond the end {end}: the topic was truncated or created again"
    if known.next < begin:
        return f"the stored offset {known.next} lies before the first record {begin}: retention has passed it"
    return None
