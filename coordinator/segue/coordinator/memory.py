"""A store in memory for tests and simulation: one thread, no clock of its own, the port's contract to the letter.

A batch reads what is committed and stages what it writes; its end checks fence and revisions once more against what is
committed by then, and applies all or nothing. Rows are frozen and shared.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import msgspec

from segue.coordinator import schema
from segue.coordinator.batches import check_messages
from segue.coordinator.rows import (
    NetRows,
    check_values,
    dead_letter_values,
    event_values,
    heartbeat_values,
    net_rows,
    request_values,
    saga_values,
)
from segue.coordinator.store import (
    BEGINNING,
    LOOK_AHEAD,
    AuditEntry,
    Changes,
    DeadLetterRow,
    EventRow,
    HeartbeatRow,
    Look,
    OffsetMove,
    OffsetNote,
    OperatorRequest,
    SagaRow,
    StoredOffset,
)
from segue.errors import Fenced, SegueError
from segue.outbox.message import Message
from segue.saga.fingerprint import comparable
from segue.saga.runs import coordinator_of
from segue.topics.broker import Partition

_Origin = tuple[str, int, int, str, int]


_NOTHING: tuple[None, Sequence[Message]] = (None, ())


@dataclass(slots=True)
class Tables:
    """What is committed."""

    sagas: dict[str, SagaRow] = field(default_factory=dict)
    events: dict[str, list[EventRow]] = field(default_factory=dict)
    seen: set[tuple[str, str]] = field(default_factory=set)
    heartbeats: dict[str, HeartbeatRow] = field(default_factory=dict)
    #: Saga id → when `due` finds it: no later than its `wake_at`.
    alarms: dict[str, datetime] = field(default_factory=dict)
    #: Where reading stands, and why.
    standing: dict[tuple[str, Partition], tuple[int, str | None]] = field(default_factory=dict)

    def note(self, note: OffsetNote, now: datetime) -> None:
        """A partition stands, or something was stepped over."""
        key = (note.coordinator, note.partition)
        if note.stands_at is not None:
            self.standing[key] = note.stands_at, note.problem
            return
        self.standing.pop(key, None)
        if key in self.offsets:
            self.offsets[key] = msgspec.structs.replace(self.offsets[key], skipped_at=now)

    outbox: dict[str, Message] = field(default_factory=dict)
    #: Messages that their writers publish from memory, by number, with the time of their transaction.
    batches: dict[int, tuple[datetime, Sequence[Message]]] = field(default_factory=dict)
    #: Saga id → how many of its messages are unpublished.
    unpublished: dict[str, int] = field(default_factory=dict)
    offsets: dict[tuple[str, Partition], StoredOffset] = field(default_factory=dict)
    letters: dict[int, DeadLetterRow] = field(default_factory=dict)
    origins: dict[_Origin, int] = field(default_factory=dict)
    requests: dict[int, OperatorRequest] = field(default_factory=dict)
    audits: list[AuditEntry] = field(default_factory=list)
    definitions: dict[tuple[str, str, int], str] = field(default_factory=dict)
    serial: int = 0
    last_batch: int = 0

    def waiting(self) -> Iterator[Message]:
        """All messages that are not known to be published."""
        yield from self.outbox.values()
        for _, messages in self.batches.values():
            yield from messages

    def lost(self, batches: Sequence[int]) -> list[str]:
        """The ids of messages that wait nowhere else than in these batches."""
        gone = (message.id for seq in batches for message in self.batches.get(seq, _NOTHING)[1])
        return [message_id for message_id in gone if message_id not in self.outbox]

    def requested(self, coordinator: str, now: datetime) -> Iterator[OperatorRequest]:
        """Operator requests whose time has come, but for what is another coordinator's."""
        for request in self.requests.values():
            row, letter = self.sagas.get(request.saga_id or ""), self.letters.get(request.dead_letter_id or 0)
            another = row is not None and row.coordinator != coordinator
            anothers = letter is not None and letter.coordinator not in (coordinator, "")
            if request.not_before <= now and not another and not anothers:
                yield request

    def foldable(self, coordinator: str, names: Collection[str]) -> Iterator[DeadLetterRow]:
        """Parked records whose saga exists by now, or is of a type that is here by now."""
        for row in self.letters.values():
            if row.state == "parked" and row.coordinator in (coordinator, ""):
                saga = self.sagas.get(row.saga_id or "")
                if (saga is not None and saga.coordinator == coordinator) or row.definition in names:
                    yield row

    def next_id(self) -> int:
        self.serial += 1
        return self.serial


class MemoryStore:
    """The store port over dictionaries; `clock` is the database's clock."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self.tables = Tables()

    @contextmanager
    def batch(self) -> Iterator[MemoryBatch]:
        batch = MemoryBatch(self.tables, self._clock())
        yield batch
        batch.commit()

    def now(self) -> datetime:
        return self._clock()

    def look(self, coordinator: str, versions: Collection[tuple[str, int]], *, parked: bool = True) -> Look:
        now, tables = self._clock(), self.tables
        return Look(
            now=now,
            alarm_at=self._next_alarm(coordinator, versions) if tables.alarms else None,
            requests=bool(tables.requests) and any(tables.requested(coordinator, now)),
            parked=parked and any(tables.foldable(coordinator, {name for name, _ in versions})),
        )

    def _next_alarm(self, coordinator: str, versions: Collection[tuple[str, int]]) -> datetime | None:
        sagas, soon = self.tables.sagas, self._clock() + LOOK_AHEAD
        alarms = [
            alarm
            for saga_id, alarm in self.tables.alarms.items()
            if alarm <= soon
            and sagas[saga_id].coordinator == coordinator
            and (sagas[saga_id].definition, sagas[saga_id].version) in versions
        ]
        return min(alarms, default=None)

    def offsets(self, coordinator: str) -> dict[Partition, StoredOffset]:
        return {partition: o for (name, partition), o in self.tables.offsets.items() if name == coordinator}

    def seed_offsets(self, coordinator: str, offsets: Mapping[Partition, StoredOffset]) -> None:
        for partition, offset in offsets.items():
            self.tables.offsets.setdefault((coordinator, partition), offset)

    def reset_offset(
        self, coordinator: str, partition: Partition, known: StoredOffset, offset: StoredOffset, audit: AuditEntry
    ) -> None:
        stored = self.tables.offsets.get((coordinator, partition))
        if stored is None or (stored.next, stored.topic_id) != (known.next, known.topic_id):
            raise Fenced(f"{partition} does not stand at {known.next} any more")
        self.tables.offsets[(coordinator, partition)] = offset
        self.tables.audits.append(audit)

    def forget_published(self, batches: Sequence[int]) -> None:
        _forget(self.tables, batches)

    def forget_messages(self, message_ids: Sequence[str]) -> None:
        """What a relay does with rows of the outbox that it has published."""
        for message_id in message_ids:
            message = self.tables.outbox.pop(message_id, None)
            if message is not None:
                _count(self.tables, message, -1)

    def unpack(self, age: timedelta) -> None:
        """Make ordinary rows of batches that are as old."""
        tables = self.tables
        for seq, (written, messages) in list(tables.batches.items()):
            if written <= self._clock() - age:
                for message in messages:
                    if message.id not in tables.outbox:
                        tables.outbox[message.id] = message
                        _count(tables, message, 1)
                _forget(tables, [seq])

    def register(self, coordinator: str, name: str, version: int, fingerprint: str) -> str:
        known = self.tables.definitions.setdefault((coordinator, name, version), fingerprint)
        if not comparable(known, fingerprint):
            known = self.tables.definitions[coordinator, name, version] = fingerprint
        return known

    def live_versions(self, coordinator: str) -> list[tuple[str, int]]:
        rows = (row for row in self.tables.sagas.values() if row.coordinator == coordinator)
        return sorted({(row.definition, row.version) for row in rows if row.ended_at is None})

    def ask(self, requests: Sequence[OperatorRequest]) -> list[int]:
        for request in requests:
            check_values(schema.operator_request, request_values(request))
        ids = [self.tables.next_id() for _ in requests]
        self.tables.requests.update({n: replace(r, id=n) for n, r in zip(ids, requests, strict=True)})
        return ids

    def sweep(self, coordinator: str, parked_before: datetime, limit: int) -> int:
        letters = self.tables.letters
        own = [n for n, row in letters.items() if row.state == "parked" and row.coordinator in (coordinator, "")]
        old = [n for n in own if letters[n].created_at < parked_before and letters[n].definition is None][:limit]
        for n in old:
            letters[n] = replace(letters[n], state="dead", updated_at=self._clock())
        for command_id, row in list(self.tables.heartbeats.items()):
            if row.at < parked_before and not self._lives(row.saga_id):
                del self.tables.heartbeats[command_id]
        return len(old)

    def assign(self, limit: int, *, live: bool) -> int:
        sagas = self.tables.sagas
        nobodys = [row for row in sagas.values() if not row.coordinator and not (live and row.ended_at)][:limit]
        for row in nobodys:
            [first] = [event for event in self.tables.events[row.id] if event.seq == row.first_seq]
            sagas[row.id] = msgspec.structs.replace(row, coordinator=coordinator_of(first.payload))
        return len(nobodys)

    def _lives(self, saga_id: str) -> bool:
        row = self.tables.sagas.get(saga_id)
        return row is not None and row.ended_at is None

    def close(self) -> None:
        pass


class MemoryBatch:
    """An open transaction over committed tables."""

    def __init__(self, tables: Tables, now: datetime) -> None:
        self._tables = tables
        self._now = now
        self._fences: list[tuple[str, OffsetMove]] = []
        #: What is to be written, and the number of the batch that its messages are.
        self._changes: list[tuple[Changes, NetRows, int | None]] = []
        #: A batch that failed stays failed, even if its caller swallows the error.
        self._failure: SegueError | None = None

    @property
    def now(self) -> datetime:
        return self._now

    def fence(self, coordinator: str, moves: Sequence[OffsetMove]) -> None:
        for move in moves:
            try:
                self._check_fence(coordinator, move)
            except SegueError as error:
                self._failure = error
                raise
            self._fences.append((coordinator, move))

    def revisions(self, saga_ids: Collection[str]) -> dict[str, int]:
        sagas = self._tables.sagas
        return {saga_id: sagas[saga_id].revision for saga_id in saga_ids if saga_id in sagas}

    def lock(self, saga_ids: Collection[str]) -> dict[str, SagaRow]:
        return {saga_id: self._tables.sagas[saga_id] for saga_id in sorted(saga_ids) if saga_id in self._tables.sagas}

    def history(self, saga_ids: Collection[str]) -> dict[str, list[EventRow]]:
        return {saga_id: self._of_run(saga_id) for saga_id in saga_ids}

    def _of_run(self, saga_id: str) -> list[EventRow]:
        row = self._tables.sagas.get(saga_id)
        if row is None:
            return []
        return [event for event in self._tables.events.get(saga_id, ()) if event.seq >= row.first_seq]

    def earlier(self, saga_id: str, first: int, end: int) -> list[EventRow]:
        return [event for event in self._tables.events.get(saga_id, ()) if first <= event.seq < end]

    def seen(self, pairs: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        return {pair for pair in pairs if pair in self._tables.seen}

    def heartbeats(self, command_ids: Collection[str]) -> dict[str, HeartbeatRow]:
        kept = self._tables.heartbeats
        return {command_id: kept[command_id] for command_id in command_ids if command_id in kept}

    def message(self, saga_id: str, message_id: str) -> EventRow | None:
        events = self._tables.events.get(saga_id, ())
        return next((event for event in events if event.message_id == message_id), None)

    def parked(self, coordinator: str, saga_ids: Collection[str]) -> list[DeadLetterRow]:
        letters = self._tables.letters.values()
        own = [x for x in letters if x.state == "parked" and x.coordinator in (coordinator, "")]
        return sorted((x for x in own if x.saga_id in saga_ids), key=lambda x: x.id)

    def due(
        self, coordinator: str, until: datetime, limit: int, versions: Collection[tuple[str, int]]
    ) -> list[SagaRow]:
        found: list[tuple[datetime, str]] = []
        for saga_id, alarm in self._tables.alarms.items():
            if alarm <= until and not self._tables.unpublished.get(saga_id):
                row = self._tables.sagas[saga_id]
                if row.coordinator == coordinator and (row.definition, row.version) in versions:
                    insort(found, (alarm, saga_id))
        return [self._tables.sagas[saga_id] for _, saga_id in found[:limit]]

    def requests(self, coordinator: str, limit: int) -> list[OperatorRequest]:
        due = self._tables.requested(coordinator, self._now)
        return sorted(due, key=lambda request: (request.not_before, request.id))[:limit]

    def dead_letters(self, ids: Collection[int]) -> dict[int, DeadLetterRow]:
        return {n: self._tables.letters[n] for n in ids if n in self._tables.letters}

    def kept_for(self, saga_id: str) -> list[int]:
        letters = self._tables.letters.items()
        return sorted(n for n, row in letters if row.saga_id == saga_id and row.state == "received")

    def foldable(self, coordinator: str, names: Collection[str], limit: int) -> list[DeadLetterRow]:
        return sorted(self._tables.foldable(coordinator, names), key=lambda row: row.id)[:limit]

    def write(self, changes: Changes) -> int | None:
        try:
            _check_content(changes)
            rows = net_rows(changes)
            self._check(changes, rows)
        except SegueError as error:
            self._failure = error
            raise
        seq = None
        if changes.messages:
            seq = self._tables.last_batch = self._tables.last_batch + 1
        self._changes.append((changes, rows, seq))
        return seq

    def commit(self) -> None:
        """Check again against what is committed by now, then apply all of it. Raises what made the batch fail."""
        if self._failure is not None:
            raise self._failure
        for coordinator, move in self._fences:
            self._check_fence(coordinator, move)
        for changes, rows, _ in self._changes:
            self._check(changes, rows)
        for coordinator, move in self._fences:
            key = (coordinator, move.partition)
            self._tables.offsets[key] = msgspec.structs.replace(self._tables.offsets[key], next=move.end)
        for changes, rows, seq in self._changes:
            self._apply(changes, rows, seq)

    def _check_fence(self, coordinator: str, move: OffsetMove) -> None:
        stored = self._tables.offsets.get((coordinator, move.partition))
        if stored is None or (stored.next, stored.topic_id) != (move.start, move.topic_id):
            stands = "nowhere" if stored is None else f"{stored.next} of topic {stored.topic_id!r}"
            raise Fenced(f"{move.partition} stands at {stands}, not at {move.start} of {move.topic_id!r}")

    def _check(self, changes: Changes, rows: NetRows) -> None:
        for row in rows.inserts:
            if row.id in self._tables.sagas:
                raise Fenced(f"saga {row.id} was started meanwhile")
        for expected, row in rows.updates:
            stored = self._tables.sagas.get(row.id)
            if stored is None or stored.revision != expected:
                raise Fenced(f"saga {row.id} does not stand at revision {expected}")
        if any(n not in self._tables.requests for n in changes.requests_done):
            raise Fenced("an operator request was dealt with meanwhile")
        for event in changes.events:
            written = self._tables.events.get(event.saga_id)
            if written and event.seq <= written[-1].seq:
                raise Fenced(f"event {event.seq} of saga {event.saga_id} is there already")
            if event.message_id is not None and (event.saga_id, event.message_id) in self._tables.seen:
                raise Fenced(f"message {event.message_id} of saga {event.saga_id} was applied meanwhile")

    def _apply(self, changes: Changes, rows: NetRows, seq: int | None) -> None:
        tables = self._tables
        for row in (*rows.inserts, *(self._begun(row) for _, row in rows.updates)):
            tables.sagas[row.id] = row
            self._set_alarm(row)
        for event in changes.events:
            tables.events.setdefault(event.saga_id, []).append(event)
            if event.message_id is not None:
                tables.seen.add((event.saga_id, event.message_id))
        tables.heartbeats.update((row.command_id, row) for row in changes.heartbeats)
        for command_id in changes.heartbeats_over:
            tables.heartbeats.pop(command_id, None)
        if seq is not None:
            tables.batches[seq] = (self._now, changes.messages)
            for message in changes.messages:
                _count(tables, message, 1)
        for letter in changes.dead_letters:
            self._bury(letter)
        for n, state in changes.settled.items():
            tables.letters[n] = replace(tables.letters[n], state=state, updated_at=self._now)
        for n in changes.replayed:
            tables.letters[n] = replace(tables.letters[n], replays=tables.letters[n].replays + 1, updated_at=self._now)
        tables.audits.extend(changes.audits)
        for note in changes.notes:
            tables.note(note, self._now)
        for n in changes.requests_done:
            tables.requests.pop(n, None)
        _forget(tables, changes.published)

    def _begun(self, row: SagaRow) -> SagaRow:
        """The new row of a saga, with what it began with."""
        old = self._tables.sagas[row.id]
        return msgspec.structs.replace(row, **{name: getattr(old, name) for name in BEGINNING})

    def _set_alarm(self, row: SagaRow) -> None:
        alarm = self._tables.alarms.get(row.id)
        if row.wake_at is None:
            self._tables.alarms.pop(row.id, None)
        elif alarm is None or not self._now < alarm <= row.wake_at:
            self._tables.alarms[row.id] = row.wake_at

    def _bury(self, letter: DeadLetterRow) -> None:
        record = letter.record
        origin = (record.topic, record.partition, record.offset, letter.topic_id, record.timestamp_ms)
        if origin not in self._tables.origins:
            n = self._tables.origins[origin] = self._tables.next_id()
            self._tables.letters[n] = replace(letter, id=n)


def _check_content(changes: Changes) -> None:
    """Refuse what the real databases refuse."""
    for saga in (*changes.started, *changes.updated):
        check_values(schema.saga, saga_values(saga))
    for event in changes.events:
        check_values(schema.saga_event, event_values(event))
    for heartbeat in changes.heartbeats:
        check_values(schema.heartbeat, heartbeat_values(heartbeat))
    if changes.messages:
        check_messages(changes.messages)
    for letter in changes.dead_letters:
        check_values(schema.dead_letter, dead_letter_values(letter))
    for entry in changes.audits:
        check_values(schema.audit, {name: getattr(entry, name) for name in AuditEntry.__dataclass_fields__})


def _count(tables: Tables, message: Message, by: int) -> None:
    if message.saga_id is not None:
        tables.unpublished[message.saga_id] = tables.unpublished.get(message.saga_id, 0) + by


def _forget(tables: Tables, batches: Sequence[int]) -> None:
    for seq in batches:
        _, messages = tables.batches.pop(seq, _NOTHING)
        for message in messages:
            _count(tables, message, -1)
