"""The processes: coordinators with their relays, workers with their handlers. What runs in them is the product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent
from sqlalchemy.orm import sessionmaker

from segue.activities import Rejected, ReplyLater, RetryLater, Worker, WorkerOptions
from segue.activities.handlers import Prepared, Registration, TransactionMode
from segue.activities.loop import CommandLoop, LoopOptions
from segue.activities.runner import Desk
from segue.activities.unit import Result, UnitOfWork
from segue.coordinator.service import TOPICS_EVERY, Coordinator, Options
from segue.coordinator.store import DeadLetterRow
from segue.limits import Limits
from segue.outbox.relay import Relay, RelayOptions
from segue.topics import Codecs, TopicNames
from segue.topics import Converter as MsgspecConverter
from segue.topics.broker import Outgoing
from tests.simulation.broker import SESSION, Client, CountingObserver, SimConsumer, SimProducer
from tests.simulation.database import Books, Effect
from tests.simulation.line_invariants import LINES, JobSeen
from tests.simulation.oracles import Violation
from tests.simulation.sagas import CONTRACTS, RELEASES, Done, Job
from tests.simulation.staging import WatchedRows
from tests.simulation.world import NEVER, SECOND, Body

if TYPE_CHECKING:
    from tests.simulation.system import System

NAMES = TopicNames(coordinator="sim")
#: Of the coordinators that share the database with those, if there are any.
OTHERS = TopicNames(coordinator="too")
LIMITS = Limits(pending_signals=4)
CODECS = Codecs(limits=LIMITS)
CONVERTER = MsgspecConverter()
#: Age at which a relay takes over what was to be published from memory.
RELAY_AFTER = timedelta(seconds=2)
LEASE = timedelta(seconds=2)
#: Rows that a relay loads at a time: few, so that it loads more while it holds some.
RELAY_BATCH = 2
#: The default `call_timeout` of `SqlStore`.
STORE_TIMEOUT = timedelta(seconds=15)
#: How often a coordinator looks for requests: each look is a transaction with all of its boundaries.
REQUESTS_US = 2 * SECOND
#: How often it looks for parked records whose saga has come.
FOLD_US = 3 * SECOND
#: How long records that came before their sagas are kept: as in production, or till the next look after this time.
A_DAY, PARKED_FOR = timedelta(days=1), timedelta(seconds=5)
#: How often a coordinator looks for those that were kept for too long.
SWEEP_US = 61 * SECOND
#: How soon after its last message a coordinator deletes what Kafka has.
FORGET_US = 500_000
#: How soon at the earliest a worker's relay looks again while there are rows.
RELAY_US = 100_000
#: How soon, and how late, a coordinator looks again whether deadlines may fire: a look between two ticks finds nothing.
TICK_US, LONGEST_TICK_US = 100_000, 2 * SECOND
#: Turns that find nothing to read, in which its relay may still read and send.
RESTS = 3
#: Seconds that a turn would wait if there were anything to wait for; simulated calls return at once.
WAIT = 0.005
#: A relay looks at once when it has just found something; a look that finds nothing is as dear as one that does, so
#: that two of them are as far apart as the rows that it takes over are old.
RELAY_OPTIONS = RelayOptions(
    older_than=RELAY_AFTER,
    lease=LEASE,
    patience=WAIT,
    batch=RELAY_BATCH,
    shortest_pause=RELAY_AFTER.total_seconds() / 2,
    longest_pause=RELAY_AFTER.total_seconds(),
)


class SimProcess(Client):
    """What coordinators and workers have in common: a consumer, a producer, a session with the broker."""

    def __init__(self, system: System, name: str) -> None:
        super().__init__(system.world, name)
        self.system = system
        self.world_observer: CountingObserver = system.observer
        self.consumer: SimConsumer | None = None
        self.producer: SimProducer | None = None
        #: The record that has lingered for longest, and turns since then that found nothing to do.
        self._waiting: Outgoing | None = None
        self._rested = 0

    def rests(self) -> None:
        waiting = self.producer.oldest if self.producer is not None else None
        self._rested = self._rested + 1 if waiting is not None and waiting is self._waiting else 0
        self._waiting = waiting
        if self._rested > RESTS:
            raise Violation("IDLE", f"{self.name} finds nothing to do, and what it sent still waits for company")

    @property
    def lingers(self) -> bool:
        """What it sent waits for company: the next turn tells whether there is any."""
        return self.producer is not None and self.producer.lingering and not self.hurt

    def latency(self) -> int:
        jitter = self.system.plan.jitter_us
        return self.stream.pick(jitter) if jitter and not self.world.healed else 0

    def connect(self, group: str) -> tuple[SimConsumer, SimProducer]:
        consumer = self.consumer = SimConsumer(self.system.broker, group, self)
        self.given.clear()
        self.producer = SimProducer(self.system.broker, self, self.system.plan.linger_us)
        return consumer, self.producer

    def died(self) -> None:
        consumer, self.consumer = self.consumer, None
        self.producer = None
        if self.system.over:
            return
        world = self.world
        world.note(world.now, "died", self.name)
        if consumer is not None:
            world.at(world.now + SESSION, lambda: self.buried(consumer))
        world.at(world.now + self.system.plan.restart_us, self.restart)

    def buried(self, consumer: SimConsumer) -> None:
        consumer.expelled()
        if consumer in self.system.broker.members:
            self.system.broker.members.remove(consumer)

    def restart(self) -> None:
        if not self.alive:
            self.start()

    def stop(self) -> None:
        """A deploy: leave the group, then end."""
        consumer = self.consumer
        self.kill()
        if consumer is not None:
            self.buried(consumer)

    def latest_rejoin(self) -> int:
        """A member whose partitions are somebody else's learns that only by polling."""
        consumer = self.consumer
        if consumer is None:
            return NEVER
        if consumer.stubborn_until > self.world.now:
            return consumer.stubborn_until + 1_000
        return self.backoff() if consumer.outdated or consumer.behind or consumer.stopped else NEVER


class CoordinatorProcess(SimProcess):
    """`segue coordinator run`: the coordinator's step, with the relay of its database inside."""

    def __init__(self, system: System, name: str, names: TopicNames) -> None:
        super().__init__(system, name)
        self.names = names
        self.release = "older" if system.plan.older and name == "c0" else "one"
        self.call_timeout = STORE_TIMEOUT
        self.coordinator: Coordinator | None = None

    def boot(self) -> None:
        database, plan = self.system.database, self.system.plan
        consumer, producer = self.connect(self.names.coordinator)
        store, outbox = database.open(self)
        relay = Relay(
            outbox,
            producer,
            options=RELAY_OPTIONS,
            owner=f"{self.name}/{self.incarnation}",
            clock=self,
            observer=self.world_observer,
        )
        self.coordinator = Coordinator(
            self.names,
            RELEASES[self.release],
            store,
            consumer,
            producer,
            converter=CONVERTER,
            codecs=CODECS,
            clock=self,
            observer=self.world_observer,
            limits=_limits(plan.history_events, plan.pending_commands),
            options=_options(plan.batch, plan.cache, plan.undos_per_minute, PARKED_FOR if plan.names > 1 else A_DAY),
            relay=relay,
        )

    def turn(self) -> bool:
        assert self.coordinator is not None
        return self.coordinator.step(WAIT)

    def more(self) -> bool:
        return self.consumer is not None and self.consumer.behind

    def next_time(self) -> int:
        now = self.world.now
        if self.lingers:
            return now + 1_000
        if self.hurt:
            return self.backoff()
        when = self.latest_rejoin()
        tables = self.system.database.tables
        for request in tables.requests.values():
            when = min(when, max(now + REQUESTS_US, self.system.world_time(request.not_before)))
        if self._has_due():
            when = min(when, self.backoff(TICK_US, LONGEST_TICK_US))
        assert self.coordinator is not None
        if self.coordinator.busy:
            when = min(when, now + FORGET_US)
        if tables.letters and self._has_parked():
            when = min(when, now + FOLD_US)
        if self.system.plan.names > 1 and any(letter.state == "parked" for letter in self._own_letters()):
            when = min(when, now + SWEEP_US)
        if self.consumer is not None and self.consumer.mistaken(tables.offsets):
            when = min(when, now + round(TOPICS_EVERY * SECOND))
        return when

    def _has_parked(self) -> bool:
        """Whether a record is parked whose saga is there by now, or whose saga's type is here."""
        tables = self.system.database.tables
        names = {name for name, _ in RELEASES[self.release].versions}
        for letter in self._own_letters():
            saga = tables.sagas.get(letter.saga_id or "")
            there = saga is not None and saga.coordinator == self.names.coordinator
            if letter.state == "parked" and (there or letter.definition in names):
                return True
        return False

    def _own_letters(self) -> Iterator[DeadLetterRow]:
        letters = self.system.database.tables.letters.values()
        return (letter for letter in letters if letter.coordinator == self.names.coordinator)

    def _has_due(self) -> bool:
        """Whether there is a saga to be woken; of what is not due yet the alarms tell."""
        tables, now = self.system.database.tables, self.world.db_now()
        versions = RELEASES[self.release].versions
        for row in tables.sagas.values():
            if row.coordinator != self.names.coordinator:
                continue
            due = row.wake_at is not None and row.wake_at <= now
            if due and (row.definition, row.version) in versions and not tables.unpublished.get(row.id):
                return True
        return False

    def died(self) -> None:
        self.coordinator = None
        super().died()


@cache
def _limits(history_events: int, pending_commands: int) -> Limits:
    return replace(LIMITS, history_events=history_events, pending_commands=pending_commands)


@cache
def _options(batch: int, cache: int, undos_per_minute: int | None, parked_for: timedelta) -> Options:
    return Options(
        batch_size=batch,
        cache_size=cache,
        undos_per_minute=undos_per_minute,
        requests_every=REQUESTS_US / SECOND,
        fold_every=FOLD_US / SECOND,
        parked_for=parked_for,
    )


class WorkerProcess(SimProcess):
    """`segue worker run` of one service."""

    def __init__(self, system: System, name: str, books: Books) -> None:
        super().__init__(system, name)
        self.books = books
        #: Activities that its build does not have.
        self.lacks: frozenset[str] = frozenset()
        self.loop: CommandLoop | None = None
        self.lines = next(oracle for oracle in system.oracles.every if isinstance(oracle, LINES))
        #: The job of the loop that has just been done, and that nobody has been told of.
        self.job: JobSeen | None = None

    @property
    def slots(self) -> int:
        """How many jobs it may have under way: few where they take long, so that there is a want of them."""
        return SLOTS if self.system.plan.busy else WORKER_LOOP.concurrency

    def boot(self) -> None:
        worker = Worker(
            self.books.name,
            sessions=_NO_SESSIONS,
            options=_worker_options(self.system.plan.commit_s, self.slots),
            codecs=CODECS,
            clock=self,
            observer=self.world_observer,
        )
        worker._converter = CONVERTER  # it keeps a decoder for each type, which no restart changes
        worker._registrations = registrations(self.books.name, self.lacks)
        consumer, producer = self.connect(self.books.name)
        runner, store = self.books.open(self)
        topic = NAMES.commands_of(self.books.name)
        self.loop = worker.loop(consumer, producer, topic=topic, runner=runner, store=store)
        self.loop._unit = WatchedUnit(self.loop._unit, self)
        self.loop._relay._options = WORKER_RELAY
        self.loop.start()

    def turn(self) -> bool:
        assert self.loop is not None
        worked = self.loop.step(WAIT)
        if not worked and not self.hurt and not self.told:
            self.lines.idle(self)
        return worked

    def rests(self) -> None:
        if (
            self.loop is None or not self.loop.handling
        ):  # else the client sends when what lingers has done so long enough
            super().rests()

    @property
    def lingers(self) -> bool:
        return super().lingers and self.loop is not None and not self.loop.handling

    def finish(self, end: Callable[[], None]) -> None:
        """What a handler did stands, and its thread is not done yet: meanwhile the loop goes on with the others."""
        job, self.job = self.job, None
        if job is None:
            end()
            return
        plan, incarnation = self.system.plan, self.incarnation
        span = SPANS[self.stream.pick(len(SPANS))] if plan.busy and not self.world.healed else 0

        def ended() -> None:
            if self.alive and self.incarnation == incarnation:
                self.lines.ended(self, job)
                end()

        if not span:
            ended()
            return

        def later() -> None:
            ended()
            self.world.wake(self, self.world.now)

        self.world.at(self.world.now + span, later)

    def more(self) -> bool:
        assert self.loop is not None
        return self.loop.busy or (self.consumer is not None and self.consumer.behind)

    def next_time(self) -> int:
        assert self.loop is not None
        if self.lingers:
            return self.world.now + 1_000
        if self.hurt or self.loop.busy:
            return self.backoff()
        when = self.latest_rejoin()
        if self.books.outbox.rows:
            when = min(when, max(self.world.now + RELAY_US, self._due_in_outbox(), self._relay_looks_at()))
        if self._uncommitted:
            when = min(when, max(self.world.now + 1_000, self.world_at(self.loop._commit_at)))
        return when

    @property
    def _uncommitted(self) -> bool:
        """It has done more than it has told the broker; what is told and lost is told again with the next."""
        assert self.loop is not None
        told = self.loop._committed
        return any(work.watermark not in (None, told.get(at)) for at, work in self.loop._work.items())

    def _relay_looks_at(self) -> int:
        """World time of the next look of its relay that could find something."""
        assert self.loop is not None
        relay = self.loop._relay
        when = max(relay._next_look, relay._paused_until, 0.0 if relay._lanes else relay._renew_at)
        return self.world_at(when)

    def _due_in_outbox(self) -> int:
        """When the relay may take the first row: answers are left to who wrote them till they are old."""
        after = round(RELAY_AFTER.total_seconds() * SECOND) + 1_000
        return min(
            0 if row.saga_action is None or row.saga_outcome else self.system.world_time(row.created_at) + after
            for row in self.books.outbox.rows.values()
        )

    def died(self) -> None:
        loop, self.loop = self.loop, None
        if loop is not None:
            vars(loop).clear()  # else only the garbage collector would find it, and its handlers
        self.job = None
        super().died()


class WatchedUnit(UnitOfWork):
    """The product's, with somebody who sees what it is given, and when."""

    def __init__(self, unit: UnitOfWork, process: WorkerProcess) -> None:
        vars(self).update(vars(unit))
        self._staged = WatchedRows
        self._process = process

    def run(self, desk: Desk, batch: Sequence[Prepared]) -> Sequence[Result]:
        process = self._process
        for prepared in batch:
            process.system.oracles.begun[prepared.command.id].add((process.name, process.incarnation))
        job = process.lines.begun(process, batch)
        results = super().run(desk, batch)
        process.job = job
        return results


_NO_SESSIONS: Any = sessionmaker()
#: Slots of a busy worker, and how long, in microseconds, its jobs take besides what their handlers do.
SLOTS = 2
SPANS = (0, 0, 30_000, 400_000, 3_000_000, 9_000_000)
#: Looks as rarely as it is given a turn for.
WORKER_RELAY = RelayOptions(older_than=RELAY_AFTER, patience=0.0, shortest_pause=RELAY_US / SECOND)
WORKER_LOOP = LoopOptions(concurrency=4, longest_backoff=2.0, revoke_patience=0.0)
WORKER_OPTIONS = WorkerOptions(relay_after=RELAY_AFTER)


@cache
def _worker_options(commit_s: float, slots: int) -> WorkerOptions:
    return replace(WORKER_OPTIONS, loop=replace(WORKER_LOOP, commit_interval=commit_s, concurrency=slots))


# --- handlers: they book, and do what the schedule says


def here() -> WorkerProcess:
    """The process that is running."""
    body = getcurrent()
    assert isinstance(body, Body)
    assert isinstance(body.process, WorkerProcess)
    return body.process


def book(process: WorkerProcess, ctx: Any, amount: int) -> None:
    process.books.add(ctx.session, Effect(ctx.command.key, ctx.command.action, amount))
    if process.system.plan.late_trouble:
        process.system.write_ledger(process.books, ctx)


def do(ctx: Any, job: Job) -> Done:
    process = here()
    plan = process.system.plan
    try:
        misbehave(process, ctx)
    except Rejected:
        if plan.late_trouble:
            book(process, ctx, job.amount)  # it says no to what it has begun
        raise
    book(process, ctx, job.amount)
    if plan.late_trouble:
        misbehave(process, ctx, after=True)
    if plan.later_rate and process.stream.chance(plan.later_rate):
        process.system.answer_later(process, ctx, Done(job.amount))
        raise ReplyLater
    return Done(job.amount)


def hard(ctx: Any, job: Job) -> None:
    process = here()
    misbehave(process, ctx)
    book(process, ctx, job.amount)


def look(ctx: Any, job: Job) -> Done:
    misbehave(here(), ctx)
    return Done(job.amount)


def undo(ctx: Any, what: Any) -> None:
    process = here()
    misbehave(process, ctx, undo=True)
    book(process, ctx, what.input.amount)


def long(ctx: Any, job: Job) -> Done:
    process = here()
    process.system.told(process, ctx)
    beat(process, ctx)
    misbehave(process, ctx)
    process.system.third_party(process.books, ctx, job.amount)
    misbehave(process, ctx, after=True)
    return Done(job.amount)


def unlong(ctx: Any, what: Any) -> None:
    process = here()
    process.system.told(process, ctx)
    beat(process, ctx)
    misbehave(process, ctx, undo=True)
    process.system.third_party(process.books, ctx, what.input.amount)


HANDLERS: Mapping[str, Any] = {"do": do, "hard": hard, "read": look, "undo": undo, "long": long, "unlong": unlong}


def beat(process: WorkerProcess, ctx: Any) -> None:
    """Long work, which says that it goes on; the worker's own thread sends it meanwhile."""
    system = process.system
    if not system.plan.beats or system.world.healed:
        return
    for n in range(process.stream.pick(1 + system.plan.most_beats)):
        system.world.faults["service.beats"] += 1
        ctx.heartbeat([ctx.command.id, n])
        if process.loop is not None:
            process.loop._publisher.serve(WAIT)  # the client's own thread sends what has lingered
        process.sleep(SLOW[process.stream.pick(len(SLOW))])


#: How long a slow handler takes.
SLOW = (100_000, 1_000_000, 5_000_000, 15_000_000)


def misbehave(process: WorkerProcess, ctx: Any, *, after: bool = False, undo: bool = False) -> None:
    """Refuse, be slow, ask to come back later, or break, as the schedule has it."""
    stream, system = process.stream, process.system
    plan = system.plan
    if system.world.healed:
        if not undo and not after and system.refuses(ctx.command.key):
            raise Rejected("refused")
        return
    if not after and not undo and system.refuses(ctx.command.key):
        system.world.faults["service.refuse"] += 1
        raise Rejected("refused")
    if not stream.chance(plan.service_rate):
        return
    match stream.pick(6):
        case 0 | 1:
            system.world.faults["service.slow"] += 1
            process.sleep(SLOW[stream.pick(len(SLOW))])
        case 2 if not after:
            system.world.faults["service.later"] += 1
            raise RetryLater(timedelta(milliseconds=200))
        case 3 if undo:
            system.world.faults["service.refuse_undo"] += 1
            raise Rejected("cannot_undo")
        case _:
            system.world.faults["service.broken"] += 1
            raise (Panic if ctx.command.attempt % 2 else RuntimeError)("broken")


class Panic(BaseException):
    """What a library in another language raises where it gives up."""


@cache
def registrations(service: str, lacks: frozenset[str]) -> dict[str, Registration]:
    """What a worker of this service has registered, but for what its build lacks; it is the same in every schedule."""
    worker: Worker[Any] = Worker(service, sessions=_NO_SESSIONS)
    for name, contract in CONTRACTS.items():
        if name.startswith(service + "."):
            mode: TransactionMode = "manual" if name.endswith(".long") else "joined"
            worker.handle(contract.activity, transaction=mode)(HANDLERS[name.partition(".")[2]])
            if contract.undo is not None:
                worker.handle(contract.undo, transaction=mode)(HANDLERS[contract.undo.name.partition(".")[2]])
    return {name: registration for name, registration in worker._registrations.items() if name not in lacks}
