"""The databases of the second tier: the product's SQL, on SQLite in memory; what is committed is read back from there.

`SqlDatabase` and `SqlBooks` take the places of `Database` and `Books`. What oracles look at is a copy of the committed
tables, which is brought up to date by reading, after every COMMIT, what it has written to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import Column, Integer, MetaData, String, Table, bindparam, create_engine, select
from sqlalchemy.orm import registry, sessionmaker

from segue.activities.later import reply
from segue.activities.runner import SyncDesk
from segue.coordinator import schema
from segue.coordinator.batches import BatchedOutbox, unpack_messages
from segue.coordinator.rows import dead_letter_of
from segue.coordinator.session import Session
from segue.coordinator.sql import SqlStore
from segue.coordinator.sql_batch import SqlBatch, saga_of
from segue.coordinator.statements import SAGA_COLUMNS
from segue.coordinator.store import Changes, EventRow, OffsetMove, OperatorRequest, StoredOffset
from segue.outbox.message import Message
from segue.outbox.schema import inbox_table, outbox_table
from segue.outbox.schema import metadata as service_metadata
from segue.outbox.sql import message_of_row
from segue.outbox.writer import add_message
from segue.topics.broker import Partition
from tests.simulation.database import Books, Database, Effect, empty
from tests.simulation.driver import ROWID, URL, File, Link, Reader, Slot, template
from tests.simulation.oracles import Oracles, Violation
from tests.simulation.runner import SimRunner
from tests.simulation.staging import Staged
from tests.simulation.world import Process, World

_business = MetaData()
effect_table = Table(
    "effect",
    _business,
    Column("n", Integer, primary_key=True),
    Column("key", String(511)),
    Column("action", String(20)),
    Column("amount", Integer),
)


class EffectRow:
    """What a handler did, as its ORM knows it."""

    def __init__(self, key: str, action: str, amount: int) -> None:
        self.key, self.action, self.amount = key, action, amount


registry(metadata=_business).map_imperatively(EffectRow, effect_table)


class Rows:
    """A copy of an outbox; numbers say in which order its rows were committed."""

    def __init__(self) -> None:
        self.rows: dict[str, Message] = {}
        self._numbers: dict[str, int] = {}
        self._count = 0

    def read(self, reader: Reader) -> tuple[list[Message], list[str]]:
        """Copy it anew: (what has come, what has gone)."""
        found = [message_of_row(row._mapping) for row in reader.rows(_OUTBOX)]
        now = {message.id: message for message in found}
        come = [message for message in found if message.id not in self.rows]
        gone = [message_id for message_id in self.rows if message_id not in now]
        for message in come:
            self._numbers[message.id] = self.tick()
        self.rows.clear()
        self.rows.update(now)
        return come, gone

    def seq_of(self, message_id: str) -> int:
        return self._numbers[message_id]

    def tick(self) -> int:
        """A number between those given before and those given later."""
        self._count += 1
        return self._count


# --- the coordinators'


@dataclass(slots=True)
class Intent:
    """What a transaction means to write."""

    #: World time at which it began.
    began: int
    now: datetime | None = None
    fences: list[tuple[str, OffsetMove]] = field(default_factory=list)
    changes: list[Changes] = field(default_factory=list)


class SimSqlBatch(SqlBatch):
    """The product's, which tells the oracles what it means to write."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        link: Link = session.driver
        self._intent = link.intent = Intent(link.file.world.now)
        self._points = link.file.world.points

    def fence(self, coordinator: str, moves: Sequence[OffsetMove]) -> None:
        super().fence(coordinator, moves)
        self._intent.fences.extend((coordinator, move) for move in moves)
        self._intent.now = self.now

    def history(self, saga_ids: Collection[str]) -> dict[str, list[EventRow]]:
        self._points["replayed"] += len(saga_ids)
        return super().history(saga_ids)

    def write(self, changes: Changes) -> int | None:
        if empty(changes):
            return None
        number = super().write(changes)
        self._intent.changes.append(changes)
        self._intent.now = self.now
        return number


class _Patient:
    """A guard that never cuts a call: time is virtual here."""

    fired = False

    def guard(self, cut: Callable[[], None]) -> _Patient:
        return self

    def __enter__(self) -> _Patient:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class SimSqlStore(SqlStore):
    """The product's store, on the simulated driver."""

    def __init__(self, slot: Slot) -> None:
        super().__init__(URL, lock_timeout=timedelta(seconds=5))
        slot.attach(self._engine)
        self._watchdog: Any = _Patient()
        self._batch_of = SimSqlBatch
        self._slot = slot
        self.outbox = BatchedOutbox(self._engine)

    def lead_to(self, file: File, process: Process | None) -> None:
        """From now on it is the store of this process."""
        self._slot.lead_to(file, process)


@cache
def _store(name: str) -> SimSqlStore:
    return SimSqlStore(Slot())


@cache
def _reader(name: str) -> Reader:
    return Reader()


@cache
def _template(name: str) -> bytes:
    return template(schema.metadata) if name == "coordinators" else template(service_metadata, _business)


_AFTER = ROWID.op(">")(bindparam("last"))
_EVENTS = select(schema.saga_event, ROWID.label("n")).where(_AFTER).order_by(ROWID)
_SAGAS = select(*(schema.saga.c[name] for name in SAGA_COLUMNS)).order_by(ROWID)
_ALARMS = select(schema.saga.c.id, schema.saga.c.alarm_at).where(schema.saga.c.alarm_at.is_not(None))
_OFFSETS = select(schema.consumer_offset)
_LETTERS = select(schema.dead_letter).order_by(schema.dead_letter.c.id)
_REQUESTS = select(schema.operator_request).order_by(schema.operator_request.c.id)
_OUTBOX = select(outbox_table).order_by(outbox_table.c.seq)
_BATCHES = select(schema.outbox_batch).order_by(schema.outbox_batch.c.seq)
_INBOX = select(inbox_table)
_EFFECTS = select(effect_table).where(effect_table.c.n > bindparam("last")).order_by(effect_table.c.n)


class SqlDatabase(Database):
    """What the coordinators share, in SQLite."""

    resolution = 1_000

    def __init__(self, world: World, oracles: Oracles) -> None:
        super().__init__(world, oracles)
        self._copy = Rows()
        self.outbox: Any = self._copy
        self.tables.outbox = self._copy.rows
        self.file = File(world, _template("coordinators"))
        self.file.committing, self.file.committed = self._before, self._after
        self._reader = _reader("coordinators")
        self._reader.open(self.file)
        self._judged: Any = None
        self._events = 0

    def open(self, process: Process) -> tuple[Any, Any]:
        store = _store(process.name)
        store.lead_to(self.file, process)
        return store, store.outbox

    def ask(self, request: OperatorRequest) -> None:
        store = _store("people")
        store.lead_to(self.file, None)
        self.file.soon(lambda: _ask(store, request))

    def _before(self, link: Link) -> None:
        intent: Intent | None = link.intent
        self._judged = None
        if intent is not None and (intent.fences or intent.changes):
            process = link.slot.process
            given = link.given or ({} if process is None else process.given)
            by = link.who and link.who[0]
            self._judged = self.oracles.before_commit(intent.began, given, intent.fences, intent.changes, by)

    def _after(self, link: Link) -> None:
        self._read(self.file.written)
        intent: Intent | None = link.intent
        if intent is not None and self._judged is not None:
            for changes in intent.changes:
                self.moved(changes)
            self.oracles.committed(self._judged, intent.fences, intent.changes, intent.now)
            self._as_written(intent.changes)

    def _read(self, written: set[str]) -> None:
        tables, rows = self.tables, self._reader.rows
        if "saga" in written:
            tables.sagas = {row.id: saga_of(row) for row in rows(_SAGAS)}
            tables.alarms = {row.id: row.alarm_at for row in rows(_ALARMS)}
        if "saga_event" in written:
            self._read_events()
        if written & {"outbox", "outbox_batch"}:
            self._read_messages()
        if "consumer_offset" in written:
            tables.offsets = {
                (row.coordinator, Partition(row.topic, row.partition)): StoredOffset(
                    next=row.next, topic_id=row.topic_id
                )
                for row in rows(_OFFSETS)
            }
        if "dead_letter" in written:
            tables.letters = {row.id: dead_letter_of(row._asdict()) for row in rows(_LETTERS)}
        if "operator_request" in written:
            tables.requests = {row.id: OperatorRequest(**row._mapping) for row in rows(_REQUESTS)}

    def _read_messages(self) -> None:
        tables = self.tables
        before = {message.id for message in tables.waiting()}
        self._copy.read(self._reader)
        rows = self._reader.rows(_BATCHES)
        tables.batches = {row.seq: (row.created_at, unpack_messages(row.messages)) for row in rows}
        waiting = list(tables.waiting())
        here = {message.id for message in waiting}
        self.oracles.forgotten([message_id for message_id in before if message_id not in here])
        tables.unpublished = Counter(message.saga_id for message in waiting if message.saga_id is not None)

    def _read_events(self) -> None:
        for row in self._reader.rows(_EVENTS, last=self._events):
            values = row._asdict()
            self._events = values.pop("n")
            event = EventRow(**values)
            self.tables.events.setdefault(event.saga_id, []).append(event)
            if event.message_id is not None:
                self.tables.seen.add((event.saga_id, event.message_id))

    def _as_written(self, changes: Sequence[Changes]) -> None:
        """What can be read is what was written."""
        last = {row.id: row for change in changes for row in (*change.started, *change.updated)}
        for row in last.values():
            if self.tables.sagas[row.id] != row:
                raise Violation("SQL", f"{row} was written, {self.tables.sagas[row.id]} is there")
        waiting = {message.id: message for message in self.tables.waiting()}
        for change in changes:
            for message in change.messages:
                stored = waiting.get(message.id)
                if stored != message and message.id not in self.oracles.published:
                    raise Violation("SQL", f"{message} was written, {stored} is there")


def _ask(store: SimSqlStore, request: OperatorRequest) -> None:
    store.ask([request])


# --- the services'


@dataclass(frozen=True, slots=True)
class Booking:
    """What a transaction of a service has changed, for the oracles."""

    #: Whose transaction it was: a process in one of its lives.
    who: tuple[str, int] | None
    staged: Sequence[Effect]
    rows: Mapping[str, Mapping[str, Any] | None]
    before: Mapping[str, Mapping[str, Any] | None]
    messages: Sequence[Message]
    answers: Sequence[Staged]


@cache
def _sessions(name: str) -> tuple[Slot, Any]:
    slot, engine = Slot(), create_engine(URL)
    slot.attach(engine)
    return slot, sessionmaker(engine)


class SqlBooks(Books):
    """One service's database, in SQLite: with the driver's own way of beginning transactions."""

    def __init__(self, world: World, oracles: Oracles, name: str) -> None:
        super().__init__(world, oracles, name)
        self.outbox: Any = Rows()
        self.file = File(world, _template("services"))
        self.file.committed = self._after
        self._reader = _reader(name)
        self._reader.open(self.file)
        self._effects = 0

    def open(self, process: Process) -> tuple[Any, Any]:
        slot, sessions = _sessions(process.name)
        slot.lead_to(self.file, process)
        desk = SyncDesk(sessions, lambda seconds: process.sleep(round(seconds * 1e6)))
        return SimRunner(desk, process), None

    def add(self, session: Any, effect: Effect) -> None:
        session.add(EffectRow(effect.key, effect.action, effect.amount))

    def send(self, session: Any, message: Message) -> None:
        add_message(session, message)

    def answer(self, process: Process, token: str, output: Any) -> bool:
        slot, sessions = _sessions(process.name)
        slot.lead_to(self.file, process)
        with sessions() as session, session.begin():
            before = len(session.new)
            reply(session, token, output)
            return len(session.new) > before

    def _after(self, link: Link) -> None:
        written, reader = self.file.written, self._reader
        staged: list[Effect] = []
        messages: list[Message] = []
        gone: list[str] = []
        rows: dict[str, Any] = {}
        before: dict[str, Any] = {}
        if "effect" in written:
            for row in reader.rows(_EFFECTS, last=self._effects):
                self._effects = row.n
                effect = Effect(row.key, row.action, row.amount)
                self.effects.setdefault((effect.key, effect.action), []).append(effect)
                staged.append(effect)
        if "outbox" in written:
            messages, gone = self.outbox.read(reader)
        if "inbox" in written:
            now = {row.saga_key: row._asdict() for row in reader.rows(_INBOX)}
            rows = {key: now.get(key) for key in {**self.inbox, **now} if now.get(key) != self.inbox.get(key)}
            before = {key: self.inbox.get(key) for key in rows}
            self.inbox = now
        self.oracles.forgotten(gone)
        if staged or rows or messages:
            booking: Any = Booking(link.who, staged, rows, before, messages, link.intent or ())
            self.oracles.booked(self, booking)
