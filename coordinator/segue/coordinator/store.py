"""The store port: what the coordinator's loop needs of a database, and no more.

Adapter: `segue.coordinator.sql` (PostgreSQL and SQLite). One conformance suite runs against every adapter. Correctness
lives here: fenced offsets and the compare-and-set on `revision`, both in the one transaction of a batch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

import msgspec

from segue.errors import ConfigError
from segue.outbox.message import Message
from segue.topics.broker import Partition, Record

DeadLetterState = Literal["received", "parked", "dead", "replayed", "discarded"]
RequestKind = Literal["retry", "skip", "resolve", "cancel", "replay", "discard", "wake"]


class Unfit(ConfigError):
    """The database lacks a table, a column or a privilege: no record is to blame, and none may be given up for it."""


#: Columns of a saga that are written once, with its start; no update changes them.
BEGINNING = ("id", "definition", "coordinator", "parent_id", "tenant", "input", "started_at")


class SagaRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The row that answers the questions people ask; column by column the table `saga`."""

    id: str
    definition: str
    version: int
    status: str
    attention: str
    input: bytes
    started_at: datetime
    updated_at: datetime
    revision: int
    step: str | None = None
    waiting_for: str | None = None
    result: bytes | None = None
    error_class: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    attempt: int = 0
    ended_at: datetime | None = None
    deadline_at: datetime | None = None
    wake_at: datetime | None = None
    #: The saga's code has not yet seen all that happened (no process with this version was there, or it is blocked).
    undriven: bool = False
    parent_id: str | None = None
    attributes: Mapping[str, Any] = msgspec.field(default_factory=dict)
    tenant: str = ""
    #: The number of its run (one more after each `continue_as_new`), and of the first transition of that.
    run: int = 1
    first_seq: int = 1
    #: Who drives it; ids are unique among all that share the database.
    coordinator: str = ""
    #: Why its undo is not done; `error_code` is why it began.
    undo_error_code: str | None = None
    undo_error_message: str | None = None
    #: By when a signal should have come that it waits for.
    expected_at: datetime | None = None


class EventRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One transition of one saga: `seq` counts from 1 through all runs, without gaps: the row's revision after it."""

    saga_id: str
    seq: int
    type: str
    at: datetime
    payload: bytes
    message_id: str | None = None


class HeartbeatRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is kept of the signs of life that followed a command's first; column by column the table `heartbeat`."""

    command_id: str
    saga_id: str
    at: datetime
    newest: int
    known: bytes
    details: bytes
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterRow:
    """A record kept byte-identical. `id` is 0 until it is stored; topic, its id, partition, offset and time are unique.

    The time, too: after a truncation another record has the same offset.
    """

    id: int = 0
    state: DeadLetterState
    record: Record
    topic_id: str = ""
    reason: str
    error_class: str
    error_message: str
    fingerprint: str
    saga_id: str | None = None
    attempts: int = 1
    replays: int = 0
    created_at: datetime
    updated_at: datetime
    #: Who has read it.
    coordinator: str = ""
    #: Bytes of the value, where the record was read without key, value and headers: for a list.
    size: int | None = None
    #: Of a start that is kept until somebody has this saga type.
    definition: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorRequest:
    """What a person asked for; `arguments` is a JSON object (`step`, `outcome`, `output`, `compensate`, …)."""

    id: int = 0
    kind: RequestKind
    saga_id: str | None = None
    dead_letter_id: int | None = None
    arguments: bytes = b"{}"
    actor: str
    reason: str
    not_before: datetime
    created_at: datetime
    #: Set by the store: the role it is connected as.
    database_role: str | None = None
    system_user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One line of the audit; the store adds sequence number and hashes."""

    at: datetime
    actor: str
    action: str
    saga_id: str | None = None
    subject: str | None = None
    reason: str = ""
    before: str | None = None
    after: str | None = None
    outcome: str = "done"
    request_id: int | None = None
    database_role: str | None = None
    system_user: str | None = None


class StoredOffset(msgspec.Struct, frozen=True, kw_only=True):
    """Where reading goes on, in the topic of this id: created again, it has another one."""

    next: int
    topic_id: str
    #: When a batch that nobody could read was last stepped over here.
    skipped_at: datetime | None = None


class OffsetNote(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to a partition's reading: it stands at `stands_at`, or something was stepped over just now."""

    coordinator: str
    partition: Partition
    stands_at: int | None = None
    problem: str | None = None


class OffsetMove(msgspec.Struct, frozen=True, kw_only=True):
    """The fence of one partition: it must stand at `start` of the topic with this id, and goes to `end`."""

    partition: Partition
    start: int
    end: int
    topic_id: str


#: How far a look goes: who has nothing to do would else go over all sagas of another coordinator that sleep for long.
LOOK_AHEAD = timedelta(minutes=1)


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What there was to do when the database's clock showed `now`."""

    now: datetime
    #: The earliest alarm, if it is due within `LOOK_AHEAD`.
    alarm_at: datetime | None
    #: An operator request's time has come.
    requests: bool
    #: The saga of a parked record exists by now.
    parked: bool


class Changes(msgspec.Struct, kw_only=True):
    """Everything that one batch writes.

    `updated` rows carry the new revision; the one that must stand in the database is in `expected`, or one less. What
    is among `BEGINNING` stays as it was written with the start.
    """

    started: list[SagaRow] = msgspec.field(default_factory=list)
    updated: list[SagaRow] = msgspec.field(default_factory=list)
    expected: dict[str, int] = msgspec.field(default_factory=dict)
    events: list[EventRow] = msgspec.field(default_factory=list)
    #: Signs of life, each in place of the one before of its command; and commands that are settled, which have none.
    heartbeats: list[HeartbeatRow] = msgspec.field(default_factory=list)
    heartbeats_over: list[str] = msgspec.field(default_factory=list)
    #: They become one row, a batch: whoever writes them publishes them from memory.
    messages: list[Message] = msgspec.field(default_factory=list)
    #: New dead letters; one whose origin is already there is left as it is.
    dead_letters: list[DeadLetterRow] = msgspec.field(default_factory=list)
    #: Dead letters whose state changes: id → new state.
    settled: dict[int, DeadLetterState] = msgspec.field(default_factory=dict)
    #: Dead letters replayed once more: their `replays` go up by one.
    replayed: list[int] = msgspec.field(default_factory=list)
    audits: list[AuditEntry] = msgspec.field(default_factory=list)
    #: Partitions that stand, or (without a place where they stand) where something was stepped over.
    notes: list[OffsetNote] = msgspec.field(default_factory=list)
    #: Operator requests that are dealt with.
    requests_done: list[int] = msgspec.field(default_factory=list)
    #: Batches of messages, all of which Kafka has acknowledged.
    published: list[int] = msgspec.field(default_factory=list)


class Batch(Protocol):
    """An open transaction. Every call may raise StoreUnavailable; then nothing is written."""

    @property
    def now(self) -> datetime:
        """The database's clock, read once per transaction; the only judge of deadlines."""
        ...

    def fence(self, coordinator: str, moves: Sequence[OffsetMove]) -> None:
        """Move a coordinator's stored offsets, partitions sorted.

        Raises Fenced if one stands elsewhere: here, with the next call, or at the end of the transaction, as the
        question may travel with the next one.
        """
        ...

    def revisions(self, saga_ids: Collection[str]) -> dict[str, int]:
        """The revision of each of the sagas that exist: enough for one that is in memory.

        Not locked: that would be one more write for each. Who was faster is noticed by `write`, as for a start.
        """
        ...

    def lock(self, saga_ids: Collection[str]) -> dict[str, SagaRow]:
        """Lock and load the sagas that exist, in the order of their ids' code points, as `write` does."""
        ...

    def history(self, saga_ids: Collection[str]) -> dict[str, list[EventRow]]:
        """All events of each saga's present run, by `seq`: from `first_seq` on."""
        ...

    def earlier(self, saga_id: str, first: int, end: int) -> list[EventRow]:
        """The events of one saga from `seq` first up to, not including, `end`: those of a run that is over."""
        ...

    def seen(self, pairs: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        """Which of these (saga id, message id) are already in the history."""
        ...

    def heartbeats(self, command_ids: Collection[str]) -> dict[str, HeartbeatRow]:
        """What is kept of these commands' signs of life. Not locked: whoever writes them has moved an offset."""
        ...

    def message(self, saga_id: str, message_id: str) -> EventRow | None:
        """The transition that this message made; asked only about one that was seen."""
        ...

    def parked(self, coordinator: str, saga_ids: Collection[str]) -> list[DeadLetterRow]:
        """The coordinator's `parked` dead letters of these sagas, first come first.

        They are not locked: whoever else takes one of them moves the same saga.
        """
        ...

    def due(
        self, coordinator: str, until: datetime, limit: int, versions: Collection[tuple[str, int]]
    ) -> list[SagaRow]:
        """Lock up to `limit` sagas of this coordinator and these (definition, version) whose alarm rings by `until`.

        The oldest first.

        An alarm is never later than the saga's `wake_at`, but may be earlier: the saga is written as it is, then, and
        its alarm is put right. Locked ones are skipped. A saga with a message in the outbox or in a batch is left out:
        no deadline fires while its command is unpublished.
        """
        ...

    def requests(self, coordinator: str, limit: int) -> list[OperatorRequest]:
        """Lock up to `limit` operator requests whose time has come, oldest first, skipping locked ones.

        Those that are about a saga or a dead letter of another coordinator are left to that one.
        """
        ...

    def dead_letters(self, ids: Collection[int]) -> dict[int, DeadLetterRow]:
        """Lock and load dead letters by id."""
        ...

    def kept_for(self, saga_id: str) -> list[int]:
        """The `received` dead letters of a saga, by id: what it waits for, and nobody can read."""
        ...

    def foldable(self, coordinator: str, names: Collection[str], limit: int) -> list[DeadLetterRow]:
        """Lock up to `limit` `parked` dead letters whose saga exists by now, oldest first, skipping locked ones.

        Also starts of one of these saga types (`names`). Letter and saga are this coordinator's.
        """
        ...

    def write(self, changes: Changes) -> int | None:
        """Write it all; returns the number of the batch that its messages are, None if there are none.

        Raises Fenced where a revision is not the expected one, or a started saga's id was taken meanwhile (run again);
        RejectedWrite where the database refuses a value for good (SQLSTATE 22, 23, 54: bisect).
        """
        ...


class Store(Protocol):
    """A database. Methods are transactions of their own; all may raise StoreUnavailable."""

    def batch(self) -> AbstractContextManager[Batch]:
        """A transaction: committed at the end of the block, rolled back if it raises.

        StoreUnavailable out of the block's end means that the COMMIT may or may not have happened.
        """
        ...

    def now(self) -> datetime: ...

    def look(self, coordinator: str, versions: Collection[tuple[str, int]], *, parked: bool = True) -> Look:
        """What this coordinator has to do besides records: a hint, read without locks, that a batch decides about.

        Alarms are those of sagas of these (definition, version). Parked records are not looked for unless `parked`:
        that costs the more, the more of them wait.
        """
        ...

    def offsets(self, coordinator: str) -> dict[Partition, StoredOffset]: ...

    def seed_offsets(self, coordinator: str, offsets: Mapping[Partition, StoredOffset]) -> None:
        """Insert those that are not there yet."""
        ...

    def reset_offset(
        self, coordinator: str, partition: Partition, known: StoredOffset, offset: StoredOffset, audit: AuditEntry
    ) -> None:
        """Overwrite one, with its audit entry: the topic was created again or truncated.

        Raises Fenced if it does not stand where it was `known` to stand: whoever has moved it knows the new topic.
        """
        ...

    def forget_published(self, batches: Sequence[int]) -> None:
        """Delete batches of messages, all of which Kafka has acknowledged; one that is gone already is no error."""
        ...

    def register(self, coordinator: str, name: str, version: int, fingerprint: str) -> str:
        """Record a definition if it is new to this coordinator; returns the fingerprint on record.

        One of another scheme, which says nothing about this one, gives way to it.
        """
        ...

    def live_versions(self, coordinator: str) -> list[tuple[str, int]]:
        """The (definition, version) of all sagas of this coordinator that have not ended."""
        ...

    def ask(self, requests: Sequence[OperatorRequest]) -> list[int]:
        """Queue operator requests; returns their ids."""
        ...

    def sweep(self, coordinator: str, parked_before: datetime, limit: int) -> int:
        """Turn up to `limit` of its `parked` dead letters older than `parked_before` into `dead` ones; how many.

        Not starts whose saga type nobody has: they wait for as long as it takes.
        Signs of life as old, of sagas that have ended, are deleted.
        """
        ...

    def assign(self, limit: int, *, live: bool) -> int:
        """Give up to `limit` sagas that are nobody's to the coordinator of which their history tells; how many.

        Only those that have not ended, where `live`. A coordinator of the version before writes such.
        """
        ...

    def close(self) -> None: ...
