"""One schedule: the system that a tape describes, run through its faults, healed, run to rest, and judged."""

from __future__ import annotations

import gc
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec

from segue import ids
from segue.clock import to_micros
from segue.coordinator.store import Changes
from segue.ids import derive
from segue.outbox.message import Message, message_of
from segue.topics import TopicNames
from segue.topics.broker import Outgoing, Partition, Record
from segue.topics.envelope import Request, RequestAction, encode_headers
from segue.topics.memory import MemoryTransaction
from tests.simulation import people
from tests.simulation.answers import ANSWERS, AnswerProcess
from tests.simulation.broker import CountingObserver, SimBroker, damaged
from tests.simulation.database import Books, Database, Effect
from tests.simulation.focus import focused, number_of
from tests.simulation.oracles import Oracles, Violation, header
from tests.simulation.plan import Plan
from tests.simulation.plan import draw as draw_plan
from tests.simulation.processes import (
    CONVERTER,
    LIMITS,
    NAMES,
    OTHERS,
    CoordinatorProcess,
    SimProcess,
    WorkerProcess,
)
from tests.simulation.sagas import SERVICES, Node
from tests.simulation.sagas import draw as draw_saga
from tests.simulation.sql import SqlBooks, SqlDatabase
from tests.simulation.tape import Tape
from tests.simulation.world import EPOCH_US, SECOND, Restless, World

#: Virtual time after the last fault in which all must come to an end.
PATIENCE = 900 * SECOND
#: From one coordinator's look for what is due to the next one's.
TICK = 20_000
#: Age of a message, in microseconds, at which somebody looks whether its writer has forgotten it.
LEFT_OVER = 2_300_000
#: Seconds of CPU after which a schedule is in a loop that no turn ends; the longest ones take a few.
ENDLESS = 30.0


@dataclass(slots=True)
class Outcome:
    """How a schedule went."""

    seed: int
    violation: Violation | None
    digest: int
    tape: Tape
    plan: Plan
    points: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    endings: dict[str, int] = field(default_factory=dict)
    turns: int = 0


@dataclass(frozen=True, slots=True)
class Tier:
    """What the databases are."""

    database: Callable[[World, Oracles], Database]
    books: Callable[[World, Oracles, str], Books]


#: The product's store in memory and its like: fast, and others commit in the middle of anybody's transaction.
MEMORY = Tier(Database, Books)
#: The product's SQL on SQLite in memory.
SQL = Tier(SqlDatabase, SqlBooks)
TIERS = {"memory": MEMORY, "sql": SQL}


class System:
    """Everything in one schedule."""

    signal_limit = LIMITS.pending_signals

    def __init__(self, tape: Tape, tier: Tier = MEMORY, plan: Plan | None = None, focus: str | None = None) -> None:
        self.tape = tape
        self.world = World(tape)
        self.observer = CountingObserver(self.world)
        drawn = focused(draw_plan(tape.stream("plan")), tape.told("focus", number_of(tape.seed, focus)))
        self.plan = plan or drawn
        self.oracles = Oracles()
        self.oracles.system = self
        self.broker = SimBroker(self.world, self.oracles, partitions=self.plan.partitions)
        self.broker.lost = self.lost
        self.database = tier.database(self.world, self.oracles)
        self.database.moved = self.moved
        self.books = {name: tier.books(self.world, self.oracles, name) for name in SERVICES}
        self.services = tape.stream("services")
        self.over = False
        #: There has been another build than the first.
        self.deployed = False
        #: World times at which an alarm is set, and how many have rung.
        self._armed: set[int] = set()
        self._rung = 0
        #: Somebody will look whether messages are left over.
        self._watched = False
        #: Topic of commands → workers that begin with the first one.
        self._asleep: dict[str, list[WorkerProcess]] = {}
        self.started: dict[str, tuple[str, bytes]] = {}
        self.poison: list[Record] = []
        self.forging = False
        self._forged: set[int] = set()
        #: Fence rows that their services have lost.
        self.forgotten: set[str] = set()
        #: Records that nobody can read.
        self.damaged: list[Record] = []
        #: Records that nobody must be given: of transactions that are open, or were aborted.
        self.unread: set[int] = set()
        self._conflicts: set[bytes | None] = set()
        self._refusals: dict[str, bool] = {}
        self._mutable: set[str] = set()
        self.third: dict[str, set[str]] = {}
        self.ledger: dict[tuple[str, bytes | None], dict[str, tuple[int, int]]] = {}
        self.names = (NAMES, OTHERS)[: self.plan.names]
        own = [topic for names in self.names for topic in (names.replies, names.requests, names.dlq)]
        for topic in (*own, *(NAMES.commands_of(service) for service in SERVICES)):
            self.broker.create_topic(topic)
        self.coordinators = [
            CoordinatorProcess(self, f"c{n}", self.names[n % len(self.names)]) for n in range(self.plan.instances)
        ]
        self.workers = [
            WorkerProcess(self, f"{b.name}{n}", b) for b in self.books.values() for n in range(self.plan.workers)
        ]

        self.desks = {
            books.name: AnswerProcess(self, f"{books.name}.desk", books)
            for books in self.books.values()
            if self.plan.later_rate
        }

    @property
    def processes(self) -> list[SimProcess]:
        return [*self.coordinators, *self.workers]

    # --- the schedule

    def run(self) -> None:
        """Faults, then heal, then rest, then judgement. Raises Violation."""
        world, plan = self.world, self.plan
        world.enabled = plan.enabled
        world.interleave = plan.interleave
        world.wire_rate = plan.wire_rate
        for process in self.processes:
            process.stream.arm(plan.rate)
        for coordinator in self.coordinators:
            coordinator.start()
        for worker in self.workers:
            self._asleep.setdefault(NAMES.commands_of(worker.books.name), []).append(worker)
        for desk in self.desks.values():
            desk.stream.arm(plan.rate)
            desk.start()
        people.client(self)
        people.nemesis(self)
        people.operators(self)
        people.deploys(self)
        people.rolling(self)
        try:
            world.run(plan.horizon_us)
            people.heal(self)
            self.rest()
        except Restless as restless:
            raise Violation("L1Witness", str(restless)) from None
        self.oracles.end(self)

    def rest(self) -> None:
        """Run to rest; where only people can help, they do."""
        world = self.world
        for n in range(16):
            until = world.now + PATIENCE
            while (at := world.next_at) is not None and at <= until:
                world.run(at)
            if not people.help(self, n):
                return
        raise Violation("L1Witness", "people have helped for 16 rounds, and it is not over")

    def close(self) -> None:
        """Let go of everything."""
        self.over = True
        for process in (*self.processes, *self.desks.values()):
            process.kill()

    def dissolve(self) -> None:
        """Take apart what refers to each other, which else the garbage collector has to find out."""
        for part in (
            *self.world.processes,
            *self.broker.joined,
            *self.oracles.every,
            self.oracles,
            self.broker,
            self.world,
        ):
            vars(part).clear()
        vars(self).clear()

    # --- what happens in the world

    def moved(self, changes: Changes) -> None:
        """A batch was committed: whoever polls the database would find out."""
        for rows in (changes.started, changes.updated):
            for row in rows:
                if row.wake_at is not None:
                    self.arm(row.wake_at)
        if changes.messages and not self._watched:
            self._watched = True
            self.world.at(self.world.now + LEFT_OVER, self.left_over)

    def arm(self, wake_at: datetime) -> None:
        """Somebody will look when the database's clock shows `wake_at`."""
        when = max(self.world.now + 2_000, self.world_time(wake_at) + self.database.resolution)
        if when not in self._armed:
            self._armed.add(when)
            self.world.at(when, lambda: self.ring(when))

    def ring(self, when: int) -> None:
        self._armed.discard(when)
        self._rung += 1
        self.look(0)

    def look(self, n: int) -> None:
        """Coordinators look one after the other, as their ticks come, while there is something due."""
        tables, now = self.database.tables, self.world.db_now()
        count = len(self.coordinators)
        if n < count and any(
            row.wake_at is not None and row.wake_at <= now and not tables.unpublished.get(row.id)
            for row in tables.sagas.values()
        ):
            self.world.wake(self.coordinators[(self._rung + n) % count], self.world.now)
            self.world.at(self.world.now + TICK, lambda: self.look(n + 1))

    def left_over(self) -> None:
        """Rows that nobody has published for long are the relays', which look while there are any."""
        oldest = min((message.created_at for message in self.database.tables.waiting()), default=None)
        self._watched = oldest is not None
        if oldest is None:
            return
        when, now = self.world_time(oldest) + LEFT_OVER, self.world.now
        if when <= now:
            for coordinator in self.coordinators:
                self.world.wake(coordinator, now)
            when = now + 2 * SECOND
        self.world.at(when, self.left_over)

    def world_time(self, moment: datetime) -> int:
        """World time at which the database's clock shows `moment`."""
        return to_micros(moment) - EPOCH_US - self.world.db_skew

    def lost(self, record: Outgoing) -> None:
        """Acknowledged, and gone."""
        message_id = header(record.headers, "ce_id")
        if message_id is not None:
            stored = Record(
                topic=record.topic, partition=0, offset=-1, key=record.key, value=record.value, headers=record.headers
            )
            self.oracles.published.setdefault(message_id, stored)

    def names_of(self, saga_id: str) -> TopicNames:
        """Of the coordinators whose saga it is."""
        return self.names[int(saga_id[1:]) % len(self.names)]

    def send(self, action: RequestAction, saga_id: str, name: str, body: bytes, message_id: str) -> Outgoing:
        """A request on its way, at least once."""
        request = Request(id=message_id, action=action, saga_id=saga_id, name=name)
        return Outgoing(
            topic=self.names_of(saga_id).requests, key=saga_id.encode(), value=body, headers=request.headers()
        )

    def forge(self, record: Record, how: int) -> None:
        """A damaged copy of `record` arrives."""
        self.forging = True
        self.broker.append(damaged(record, how))
        self.forging = False
        forged = self.oracles.kept[-1]
        self._forged.add(id(forged))
        self.poison.append(forged)
        self.world.faults["poison"] += 1

    def strange(self, records: Sequence[Record]) -> None:
        """These are in somebody else's transaction, which is open."""
        self._forged.update(id(record) for record in records)
        self.unread.update(id(record) for record in records)

    def settle_strange(self, transaction: MemoryTransaction, records: Sequence[Record], *, commits: bool) -> None:
        """Somebody else's transaction ends: these records count from now on, or never."""
        if commits:
            self.unread.difference_update(id(record) for record in records)
            self.poison += records
            transaction.commit()
        else:
            transaction.abort()

    def forged(self, record: Record) -> bool:
        return self.forging or id(record) in self._forged

    def conflict(self, body: bytes) -> None:
        self._conflicts.add(body)

    def conflicting(self, record: Record) -> bool:
        return record.value in self._conflicts

    def conflict_with(self, body: bytes) -> bool:
        """Whether a saga that runs with this input was begun by the rival of its start."""
        return body in self._conflicts

    # --- services

    def refuses(self, key: str) -> bool:
        """Whether the business says no to this step: it says so every time."""
        known = self._refusals.get(key)
        if known is None:
            known = self._refusals[key] = self.services.chance(self.plan.refuse_rate)
        return known

    def commanded(self, record: Record) -> None:
        """A command has arrived: its workers are there from the first one on."""
        for worker in self._asleep.pop(record.topic, ()):
            worker.start(self.world.now + 1_000 + worker.latency())
        self._maybe_mute(record)

    def _maybe_mute(self, record: Record) -> None:
        """Decide once for each step whether its service is silent till all is healed."""
        if not self.plan.mute_rate or self.world.healed:
            return
        key = header(record.headers, "ce_sagakey")
        if key is not None and key not in self._mutable:
            self._mutable.add(key)
            if self.services.chance(self.plan.mute_rate):
                self.broker.muted.add(key)
                self.world.faults["service.silent"] += 1

    def answer_later(self, process: WorkerProcess, ctx: Any, output: Any) -> None:
        """Another process will answer, now and then twice; or what it had to answer is lost."""
        stream = process.stream
        self.world.faults["service.answers_later"] += 1
        if self.plan.never_rate and not self.world.healed and stream.chance(self.plan.never_rate):
            self.world.faults["service.never_answers"] += 1
            return
        for _ in range(1 + stream.pick(2)):
            self.desks[process.books.name].expect(ANSWERS[stream.pick(len(ANSWERS))], ctx.token, output)

    def told(self, process: WorkerProcess, ctx: Any) -> None:
        """A handler that runs in no transaction finds what its fence row keeps of heartbeats."""
        row = process.books.inbox[ctx.command.key]
        kept = None if row["details"] is None else msgspec.json.decode(row["details"])
        if ctx.details != kept and self.plan.workers == 1:
            raise Violation("BEATS", f"{ctx.command.key} is told {ctx.details}, its row keeps {kept}")
        if kept is not None:
            self.world.points["details_kept"] += 1
            if not kept[0] == ctx.command.id and ctx.command.action == "compensate" and ctx.command.attempt == 1:
                raise Violation("BEATS", f"the undo of {ctx.command.key} is told where its invoke ended")

    def third_party(self, books: Books, ctx: Any, amount: int) -> None:
        """Somebody else's API, with an idempotency key that can be cancelled."""
        key, action = ctx.command.key, ctx.command.action
        known = self.third.setdefault(key, set())
        if action == "invoke" and "compensate" in known:
            raise RuntimeError("cancelled")
        if action not in known:
            known.add(action)
            books.effects[(key, action)] = [Effect(key, action, amount)]

    def write_ledger(self, books: Books, ctx: Any) -> None:
        """An event about what was done, in the handler's transaction."""
        command = ctx.command
        topic = f"ledger.{books.name}"
        identity = derive("ledger", command.key, command.action)
        headers = encode_headers((("ce_id", identity), ("ce_type", "booked"), ("content-type", "application/json")))
        message: Message = message_of(topic, command.saga_id, headers, b"1", self.world.db_now())
        books.send(ctx.session, message)

    # --- what oracles ask

    def done(self, saga_id: str, step: str, action: str) -> bool:
        started = self.oracles.shadow.of(saga_id).started
        assert started is not None
        key = (ids.saga_key(started.coordinator, saga_id, step), action)
        return any(key in books.effects for books in self.books.values())

    def amount(self, saga_id: str, step: str) -> int:
        _, bracket, index = step.partition("[")
        return int(index[:-1]) + 1 if bracket else 1 + len(saga_id)

    def outboxes(self) -> Iterator[tuple[str, dict[str, Message]]]:
        yield "the coordinators", {message.id: message for message in self.database.tables.waiting()}
        for name, books in self.books.items():
            yield name, books.outbox.rows

    def lag(self) -> Iterator[tuple[Partition, int, int]]:
        for names in self.names:
            for partition in self.broker.partitions((names.replies, names.requests)):
                stored = self.database.tables.offsets.get((names.coordinator, partition))
                yield partition, stored.next if stored else -1, self.broker.log(partition).end
        for name in SERVICES:
            committed = self.broker.committed(name)
            if self.world.faults["offsets.lost"] or self.world.points["offsets_back"]:
                continue  # Kafka's own offset is a hint whose loss nobody repairs till the next one
            for partition in self.broker.partitions((NAMES.commands_of(name),)):
                yield partition, committed.get(partition, 0), self.broker.log(partition).end


def draw_input(system: System, n: int) -> tuple[str, bytes]:
    """(definition, input) of saga number `n`."""
    stream = system.tape.stream(f"saga{n}")
    name = ("free", "free", "timed")[stream.pick(3)]
    plan = system.plan
    node: Node = draw_saga(stream, plan.features, plan.pieces, plan.endings)
    return name, CONVERTER.to_bytes(node, Node)


def run(tape: Tape, tier: Tier = MEMORY, plan: Plan | None = None, focus: str | None = None) -> Outcome:
    """Run the schedule of a tape: by `plan`, if given, instead of the one that it draws, or with this focus."""
    random.seed(tape.seed)  # what the product spreads in time, it spreads by this
    Violation.raised.clear()
    system = System(tape, tier, plan, focus)
    violation: Violation | None = None
    try:
        with bounded(ENDLESS):
            system.run()
    except Violation as found:
        violation = found
    finally:
        system.close()
    endings: dict[str, int] = {}
    for row in system.database.tables.sagas.values():
        endings[row.status] = endings.get(row.status, 0) + 1
    outcome = Outcome(
        seed=tape.seed,
        violation=violation,
        digest=system.world.digest,
        tape=tape,
        plan=system.plan,
        points=dict(system.world.points),
        faults=dict(system.world.faults),
        endings=endings,
        turns=system.world.turns,
    )
    system.dissolve()
    return outcome


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Object to what takes more CPU than this: a loop in which no process comes to a boundary."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    def endless(number: int, frame: object) -> None:
        raise Violation("L1Witness", f"a turn has not come to its end after {seconds:g} s of CPU")

    before = signal.signal(signal.SIGVTALRM, endless)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def settle() -> None:
    """Prepare to run thousands of schedules: ids that repeat are derived once, garbage is collected rarely."""
    ids.derive = lru_cache(1 << 16)(ids.derive)
    gc.collect()
    gc.freeze()
    gc.disable()
