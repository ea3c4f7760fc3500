"""The databases: what is committed is there for all, a COMMIT has three outcomes, numbers are taken before it.

The coordinators' is the store in memory of the product with boundaries around it; a service's is a fence, an outbox and
the effects of handlers behind the same ports that SQLAlchemy is behind in production.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec

from segue.activities.later import settle
from segue.activities.outcome import Answered, Rejected
from segue.coordinator.memory import MemoryBatch, MemoryStore, Tables
from segue.coordinator.store import (
    AuditEntry,
    Changes,
    EventRow,
    Look,
    OffsetMove,
    OperatorRequest,
    SagaRow,
    StoredOffset,
)
from segue.errors import StoreUnavailable
from segue.outbox.message import LANES, Message, lane_of
from segue.outbox.store import Exclusion, PendingRow
from segue.topics.broker import Partition, Record
from tests.simulation.calls import commit, read
from tests.simulation.oracles import Oracles, Violation
from tests.simulation.run_invariants import check_read
from tests.simulation.runner import SimRunner
from tests.simulation.staging import Staged
from tests.simulation.world import Process, World


class Database:
    """What the coordinators share."""

    #: Microseconds after which its clock shows another time.
    resolution = 1

    def __init__(self, world: World, oracles: Oracles) -> None:
        self.world = world
        self.oracles = oracles
        self.tables = Tables()
        self.outbox = Outbox(world, self.tables.outbox)
        #: Told of every commit: the earliest wake-up that it wrote, in microseconds of the database's clock.
        self.moved: Callable[[Changes], None] = lambda changes: None

    def open(self, process: Process) -> tuple[Any, Any]:
        """(store, outbox) of a coordinator."""
        store = SimStore(process, self)
        return store, SimOutboxStore(process, self.outbox, store.forget_raw, store.unpack_old)

    def ask(self, request: OperatorRequest) -> None:
        """Queue what a person asks for."""
        n = self.tables.next_id()
        self.tables.requests[n] = replace(request, id=n)


class SimStore(MemoryStore):
    """The store of one coordinator process."""

    def __init__(self, process: Process, database: Database) -> None:
        super().__init__(database.world.db_now)
        self.tables = database.tables
        self._process = process
        self._database = database

    @contextmanager
    def batch(self) -> Iterator[SimBatch]:
        read(self._process)
        batch = SimBatch(self._database, self._clock(), self._process)
        yield batch
        self._process.give_way()
        batch.given = dict(self._process.given)
        commit(self._process, batch.commit)

    def now(self) -> datetime:
        read(self._process)
        return super().now()

    def look(self, coordinator: str, versions: Collection[tuple[str, int]], *, parked: bool = True) -> Look:
        read(self._process)
        look = super().look(coordinator, versions, parked=parked)
        mine = [self.tables.alarms[row.id] for row in self.tables.sagas.values() if self._is_alarm_of(coordinator, row)]
        if look.alarm_at is not None and look.alarm_at not in mine:
            raise Violation("OWNERS", f"{coordinator} is told of an alarm at {look.alarm_at}, which is another's")
        return look

    def _is_alarm_of(self, coordinator: str, row: SagaRow) -> bool:
        return row.coordinator == coordinator and row.id in self.tables.alarms

    def offsets(self, coordinator: str) -> dict[Partition, StoredOffset]:
        read(self._process)
        offsets = super().offsets(coordinator)
        for partition in offsets:
            if (coordinator, partition) not in self.tables.offsets:
                raise Violation("OWNERS", f"{coordinator} is told how far another one has read {partition}")
        return offsets

    def sweep(self, coordinator: str, parked_before: datetime, limit: int) -> int:
        before = dict(self.tables.letters)
        swept = super().sweep(coordinator, parked_before, limit)
        for n, letter in self.tables.letters.items():
            if letter.state != before[n].state and letter.coordinator != coordinator:
                raise Violation("OWNERS", f"{coordinator} gives up what another one has parked for {letter.saga_id}")
        self._process.world.points["swept"] += swept
        return swept

    def reset_offset(
        self, coordinator: str, partition: Partition, known: StoredOffset, offset: StoredOffset, audit: AuditEntry
    ) -> None:
        set_back = super().reset_offset

        def apply() -> None:
            stood = self.tables.offsets.get((coordinator, partition))
            set_back(coordinator, partition, known, offset, audit)
            self._database.oracles.reset(partition, known, stood)

        commit(self._process, apply)

    def forget_published(self, batches: Sequence[int]) -> None:
        forget = super().forget_published

        def apply() -> None:
            gone = self.tables.lost(batches)
            forget(batches)
            self._database.oracles.forgotten(gone)

        commit(self._process, apply)

    def forget_raw(self, message_ids: Sequence[str]) -> None:
        """The relay has them in Kafka."""
        self._database.oracles.forgotten(message_ids)
        self.forget_messages(message_ids)

    def unpack_old(self, age: timedelta) -> None:
        """The relay makes rows of what nobody has published."""
        if self._older(age):
            commit(self._process, lambda: self._unpack_now(age))

    def _unpack_now(self, age: timedelta) -> None:
        # Looked at once more: until the COMMIT is sent others work, and further batches grow old.
        messages = self._older(age)
        self._database.outbox.number(messages)
        self.unpack(age)
        gone = [message.id for message in messages if message.id not in self.tables.outbox]
        self._database.oracles.forgotten(gone)
        self._process.world.points["unpacked"] += 1

    def _older(self, age: timedelta) -> list[Message]:
        before = self._clock() - age
        return [m for written, messages in self.tables.batches.values() if written <= before for m in messages]


class SimBatch(MemoryBatch):
    """An open transaction, with a boundary at every call."""

    def __init__(self, database: Database, now: datetime, process: Process) -> None:
        super().__init__(database.tables, now)
        self._database = database
        self._process = process
        #: What the process had been given to read when it sent the COMMIT.
        self.given: Mapping[tuple[Partition, int], Record] = {}
        self._began = database.world.now

    def fence(self, coordinator: str, moves: Sequence[OffsetMove]) -> None:
        read(self._process)
        super().fence(coordinator, moves)

    def revisions(self, saga_ids: Collection[str]) -> dict[str, int]:
        read(self._process)
        return super().revisions(saga_ids)

    def lock(self, saga_ids: Collection[str]) -> dict[str, SagaRow]:
        read(self._process)
        return super().lock(saga_ids)

    def history(self, saga_ids: Collection[str]) -> dict[str, list[EventRow]]:
        read(self._process)
        self._process.world.points["replayed"] += len(saga_ids)
        found = super().history(saga_ids)
        check_read(self._tables.sagas, found)
        return found

    def due(
        self, coordinator: str, until: datetime, limit: int, versions: Collection[tuple[str, int]]
    ) -> list[SagaRow]:
        read(self._process)
        found = super().due(coordinator, until, limit, versions)
        for row in found:
            if row.coordinator != coordinator:
                raise Violation("OWNERS", f"{coordinator} wakes {row.id}, which is {row.coordinator}'s")
        return found

    def write(self, changes: Changes) -> int | None:
        return None if empty(changes) else super().write(changes)

    def commit(self) -> None:
        if not self._fences and not self._changes:
            return
        oracles = self._database.oracles
        every = [changes for changes, _, _ in self._changes]
        before = oracles.before_commit(self._began, self.given, self._fences, every, self._process.name)
        gone = self._tables.lost([seq for changes in every for seq in changes.published])
        super().commit()
        oracles.forgotten(gone)
        for changes in every:
            self._database.moved(changes)
        oracles.committed(before, self._fences, every, self._now)


def empty(changes: Changes) -> bool:
    """Most transactions find nothing to do."""
    return not (
        changes.events
        or changes.heartbeats
        or changes.heartbeats_over
        or changes.messages
        or changes.published
        or changes.requests_done
        or changes.updated
        or changes.dead_letters
        or changes.settled
        or changes.audits
        or changes.replayed
    )


#: The holder of lanes that were given up.
_NOBODY = ""


class Outbox:
    """Rows of one outbox by message id, with the numbers that were taken when they were written."""

    def __init__(self, world: World, rows: dict[str, Message]) -> None:
        self.world = world
        self.rows = rows
        self._seq = 0
        self._seqs: dict[str, int] = {}
        #: Relay → when its lease of lanes ends, unless it is heard of; and its lanes with their tokens.
        self._lanes: dict[str, int] = {}
        #: Relays have these mappings: they are replaced, not changed.
        self._held: dict[str, Mapping[int, int]] = {}

    def number(self, messages: Sequence[Message]) -> None:
        """`nextval`: outside of the transaction, so that numbers become visible out of order."""
        for message in messages:
            self._seq += 1
            if message.id not in self.rows:
                self._seqs[message.id] = self._seq

    def seq_of(self, message_id: str) -> int:
        return self._seqs[message_id]

    def numbered(self, seqs: Collection[int]) -> list[str]:
        """The ids of the rows with these numbers that are there."""
        return [message_id for message_id in self.rows if self._seqs[message_id] in seqs]

    def tick(self) -> int:
        """A number between those taken before and those taken later."""
        self._seq += 1
        return self._seq

    def lease(self, owner: str, ttl: timedelta) -> Mapping[int, int]:
        now = self.world.now
        self._lanes[owner] = now + round(ttl.total_seconds() * 1e6)
        if len(self._held) == len(self._lanes) == 1 and owner in self._held:
            return self._held[owner]  # it is the only one that there ever was
        if not self._held:
            self._held[owner] = dict.fromkeys(range(LANES), 1)
        alive = sum(1 for seen in self._lanes.values() if seen > now)
        share = -(-LANES // alive)
        held = self._held.setdefault(owner, {})
        if len(held) > share:
            given_up = list(held.items())[: -1 - len(held) + share : -1]
            self._held[owner] = dict(list(held.items())[:share])
            self._held[_NOBODY] = {**self._held.get(_NOBODY, {}), **dict(given_up)}
        elif len(held) < share:
            self._held[owner] = self._with_orphans(held, share, now)
        return self._held[owner]

    def _with_orphans(self, held: Mapping[int, int], share: int, now: int) -> dict[int, int]:
        """What is held, and lanes of those that are not heard of any more, up to a share."""
        held = dict(held)
        for name, lanes in self._held.items():
            if lanes and len(held) < share and self._lanes.get(name, 0) <= now:
                left = self._held[name] = dict(lanes)
                while left and len(held) < share:
                    lane, token = left.popitem()
                    held[lane] = token + 1
        return held

    def load(self, owner: str, limit: int, younger: timedelta | None, excluded: Exclusion) -> Sequence[PendingRow]:
        if not self.rows or self._lanes.get(owner, 0) <= self.world.now:
            return []
        held = self._held[owner]
        before = None if younger is None else self.world.db_now() - younger
        found: list[PendingRow] = []
        for message in self.rows.values():
            lane = lane_of(message.aggregateid)
            if lane not in held or message.aggregatetype in excluded.topics:
                continue
            if (message.aggregatetype, message.aggregateid) in excluded.lines:
                continue
            if self._seqs[message.id] in excluded.held:
                continue
            if before is not None and _is_command(message) and message.created_at >= before:
                continue
            found.append(
                PendingRow(
                    seq=self._seqs[message.id],
                    lane=lane,
                    topic=message.aggregatetype,
                    key=message.aggregateid,
                    record=message.outgoing(),
                )
            )
        found.sort(key=lambda row: row.seq)
        return found[:limit]

    def release(self, owner: str) -> None:
        self._lanes.pop(owner, None)
        self._held[_NOBODY] = {**self._held.get(_NOBODY, {}), **self._held.pop(owner, {})}


def _is_command(message: Message) -> bool:
    return message.saga_action in ("invoke", "compensate") and message.saga_outcome is None


class SimOutboxStore:
    """The relay's port over an outbox; `forget` deletes by message id."""

    def __init__(
        self,
        process: Process,
        outbox: Outbox,
        forget: Callable[[Sequence[str]], None],
        unpack: Callable[[timedelta], None] = lambda age: None,
    ) -> None:
        self._process = process
        self._outbox = outbox
        self._forget = forget
        self._unpack = unpack

    def lease(self, owner: str, ttl: timedelta) -> Mapping[int, int]:
        # A transaction that writes: where it gets no answer, it may be done all the same.
        read(self._process, lambda: self._outbox.lease(owner, ttl))
        return self._outbox.lease(owner, ttl)

    def load(
        self, owner: str, limit: int, *, memory_first_for: timedelta | None, excluded: Exclusion
    ) -> Sequence[PendingRow]:
        read(self._process)
        if memory_first_for is not None:
            self._unpack(memory_first_for)
        return self._outbox.load(owner, limit, memory_first_for, excluded)

    def delete(self, seqs: Sequence[int]) -> None:
        wanted = set(seqs)
        commit(self._process, lambda: self._forget(self._outbox.numbered(wanted)))

    def quarantine(self, row: PendingRow, error: str, attempts: int) -> None:
        raise AssertionError(f"nothing here can't be published: {row} {error}")

    def release(self, owner: str) -> None:
        self._outbox.release(owner)


# --- services

#: Microseconds after which whoever waits for a lock looks again, at first.
_LOCK_PAUSE = 10_000


@dataclass(frozen=True, slots=True)
class Effect:
    """What a handler did: `amount` booked under a fence key, by an invoke or by a compensate."""

    key: str
    action: str
    amount: int


@dataclass(slots=True)
class Books:
    """One service's database."""

    world: World
    oracles: Oracles
    name: str
    inbox: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    outbox: Outbox = field(init=False)
    effects: dict[tuple[str, str], list[Effect]] = field(default_factory=dict)
    #: The workers' transactions that are open.
    running: list[BookSession] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.world, {})

    def open(self, process: Process) -> tuple[Any, Any]:
        """(runner, outbox) of a worker; without an outbox it is in the runner's database."""
        runner = SimRunner(BookDesk(self, process), process)
        return runner, SimOutboxStore(process, self.outbox, self.forget)

    def add(self, session: Any, effect: Effect) -> None:
        """A handler books something."""
        session.add(effect)

    def send(self, session: Any, message: Message) -> None:
        """A handler tells the world something."""
        session.insert_messages([message])

    def answer(self, process: Process, token: str, output: Any) -> bool:
        """What `segue.activities.reply` does in a transaction of its own; whether it was the first answer."""
        read(process)
        self._wait_for_lock(process, token.split("/", 2)[2])
        session = BookSession(self, process)
        message = settle(session, token, Answered(outcome="success", body=msgspec.json.encode(output)))
        if message is not None:
            session.insert_messages([message])
        session.commit()
        return message is not None

    def _wait_for_lock(self, process: Process, key: str) -> None:
        """A fence row that is there is locked from when it is read; a new one is nobody's until the COMMIT.

        Workers do not wait for each other: whoever commits second is rolled back. But an answer that was settled by a
        row as it was before the handler's COMMIT would be lost, and no database lets it read that row.
        """
        pause = _LOCK_PAUSE
        while key in self.inbox and any(key in session.read for session in self.running):
            process.sleep(pause)
            pause *= 2

    def forget(self, ids: Sequence[str]) -> None:
        self.oracles.forgotten(ids)
        for message_id in ids:
            self.outbox.rows.pop(message_id, None)


class Savepoint:
    """Behind it a handler runs."""

    def __init__(self, session: BookSession) -> None:
        self._session = session
        self._mark = len(session.staged), len(session.messages)
        self.is_active = True

    def rollback(self) -> None:
        staged, messages = self._mark
        del self._session.staged[staged:]
        del self._session.messages[messages:]
        self._end()

    def commit(self) -> None:
        self._end()

    def _end(self) -> None:
        self.is_active = False
        self._session.savepoint = None


class BookSession:
    """What handlers get as `ctx.session`, and what the worker runs its own statements with."""

    def __init__(self, books: Books, process: Process) -> None:
        self.books = books
        self.process = process
        self.who: tuple[str, int] | None = (process.name, process.incarnation)
        self.staged: list[Effect] = []
        self.rows: dict[str, dict[str, Any] | None] = {}
        #: The committed rows of the same keys, as they were before the commit.
        self.before: dict[str, dict[str, Any] | None] = {}
        self.read: dict[str, int] = {}
        self.messages: list[Message] = []
        #: What the group staged of which this is the transaction.
        self.answers: list[Staged] = []
        self.savepoint: Savepoint | None = None
        self.info: dict[str, Any] = {}

    def add(self, effect: Effect) -> None:
        self.staged.append(effect)

    def begin_nested(self) -> Savepoint:
        self.savepoint = Savepoint(self)
        return self.savepoint

    def get_nested_transaction(self) -> Savepoint | None:
        return self.savepoint

    def flush(self) -> None:
        pass

    def effects(self, key: str, action: str) -> int:
        """How often it was done, so far as is committed."""
        return len(self.books.effects.get((key, action), ()))

    def commit(self) -> None:
        """The COMMIT, in one of its three outcomes."""
        running = self.books.running
        self.process.give_way()
        commit(self.process, self._apply, begin=lambda: running.append(self), over=lambda: running.remove(self))

    def _apply(self) -> None:
        books = self.books
        for key, version in self.read.items():
            if books.versions.get(key, 0) != version:
                raise StoreUnavailable("could not serialize access due to concurrent update")
        self.before = {key: books.inbox.get(key) for key in self.rows}
        for key, row in self.rows.items():
            books.versions[key] = books.versions.get(key, 0) + 1
            if row is None:
                books.inbox.pop(key, None)
            else:
                books.inbox[key] = row
        for effect in self.staged:
            books.effects.setdefault((effect.key, effect.action), []).append(effect)
        for message in self.messages:
            books.outbox.rows.setdefault(message.id, message)
        books.oracles.booked(books, self)
        self.staged, self.rows, self.read, self.messages, self.answers = [], {}, {}, [], []

    # --- the port of the fence (segue.outbox.store.ServiceRows)

    def lock_inbox_row(self, consumer: str, saga_key: str) -> tuple[Mapping[str, Any], bool, datetime]:
        read(self.process)
        books = self.books
        self.read[saga_key] = books.versions.get(saga_key, 0)
        row = self.rows.get(saga_key) or books.inbox.get(saga_key)
        new = row is None
        if row is None:
            row = dict(_BLANK)
        self.rows[saga_key] = row
        return row, new, self.process.world.db_now()

    def update_inbox_row(self, consumer: str, saga_key: str, values: Mapping[str, Any]) -> None:
        self.rows[saga_key] = {**(self.rows[saga_key] or _BLANK), **values}

    def store_details(self, consumer: str, saga_key: str, command_id: str, details: bytes, lease: int) -> bool:
        row, new, _ = self.lock_inbox_row(consumer, saga_key)
        handled = any(row[f"{a}_id"] == command_id and row[f"{a}_reply"] is None for a in ("invoke", "compensate"))
        handled = handled and row["lease"] == lease
        if handled:
            self.update_inbox_row(consumer, saga_key, {"details": details})
        elif new:
            self.delete_inbox_row(consumer, saga_key)
        return handled

    def delete_inbox_row(self, consumer: str, saga_key: str) -> None:
        self.rows[saga_key] = None

    def lock_inbox_rows(
        self, consumer: str, saga_keys: Sequence[str]
    ) -> dict[str, tuple[Mapping[str, Any], bool, datetime]]:
        return {key: self.lock_inbox_row(consumer, key) for key in sorted(set(saga_keys))}

    def write_inbox_rows(
        self,
        consumer: str,
        *,
        new: Mapping[str, Mapping[str, Any]],
        known: Mapping[str, Mapping[str, Any]],
        unused: Collection[str],
    ) -> None:
        for key in unused:
            self.delete_inbox_row(consumer, key)
        for key, values in (*new.items(), *known.items()):
            self.update_inbox_row(consumer, key, values)

    def insert_messages(self, messages: Sequence[Message]) -> None:
        self.books.outbox.number(messages)
        self.messages.extend(messages)


_BLANK: Mapping[str, Any] = {
    "attempt": 0,
    "invoke_id": None,
    "invoke_outcome": None,
    "invoke_reply": None,
    "compensate_id": None,
    "compensate_attempt": 0,
    "compensate_outcome": None,
    "compensate_reply": None,
    "tombstone": False,
    "details": None,
    "lease": 0,
}


@dataclass(frozen=True, slots=True)
class BookSessions:
    """`segue.activities.runner.Sessions` over a session in memory."""

    session: Any
    handed: Any

    @property
    def rows(self) -> Any:
        return self.session

    def shared(self) -> BookShared:
        return BookShared(self.session)


class BookShared:
    """The session while the handlers of a group have it; whatever one of them books has reached the database."""

    def __init__(self, session: BookSession) -> None:
        self._session = session

    @contextmanager
    def lent(self, activity: str, *, wary: bool) -> Iterator[None]:
        savepoint = Savepoint(self._session)
        try:
            yield
        except Rejected:
            if wary:
                savepoint.rollback()
            raise


class BookDesk:
    """The desk of a worker's jobs (`segue.activities.runner.Desk`)."""

    def __init__(self, books: Books, process: Process) -> None:
        self._books = books
        self._process = process

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        read(self._process)
        session = BookSession(self._books, self._process)
        self._books.running.append(session)
        try:
            yield BookSessions(session, session)
            session.commit()
        finally:
            self._books.running.remove(session)

    @contextmanager
    def bare(self) -> Iterator[Any]:
        session = BookSession(self._books, self._process)
        yield BookSessions(session, session)

    def call(self, handler: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
        return handler(context, value)

    def sleep(self, seconds: float) -> None:
        self._process.sleep(round(seconds * 1e6))
