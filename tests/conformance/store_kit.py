"""What the store suites share: rows with sensible values, and a bench that opens stores on one database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from segue.coordinator.batches import BatchedOutbox
from segue.coordinator.memory import MemoryStore
from segue.coordinator.sql import SqlStore
from segue.coordinator.store import (
    AuditEntry,
    Batch,
    Changes,
    DeadLetterRow,
    DeadLetterState,
    EventRow,
    HeartbeatRow,
    OffsetMove,
    OperatorRequest,
    SagaRow,
    Store,
    StoredOffset,
)
from segue.ids import derive
from segue.outbox.message import Message
from segue.outbox.store import Exclusion
from segue.topics.broker import Outgoing, Partition, Record

T0 = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
P0 = Partition("orders.replies", 0)
P1 = Partition("orders.replies", 1)
COORDINATOR = "orders"
ORDER = [("order", 1)]


@dataclass
class Bench:
    """One adapter on one database of its own."""

    kind: str
    opening: Callable[[], Store]
    url: str | None = None
    #: Adapters of SQL: a store with these settings.
    settings: dict[str, Any] = field(default_factory=dict)
    _open: list[Store] = field(default_factory=list)

    def store(self, **settings: Any) -> Store:
        """A store of its own, as another process would have; the fake has only one."""
        store = SqlStore(self.url, **(self.settings | settings)) if self.url and settings else self.opening()
        self._open.append(store)
        return store

    def taken_over(self, age: timedelta = timedelta(0)) -> list[Outgoing | None]:
        """What a relay would send that leaves younger messages to their writers, in its order."""
        if self.url is None:
            store = self.store()
            assert isinstance(store, MemoryStore)
            store.unpack(age)
            return [message.outgoing() for message in store.tables.outbox.values()]
        engine = create_engine(self.url, poolclass=NullPool)
        outbox = BatchedOutbox(engine)
        outbox.lease("relay", timedelta(minutes=1))
        rows = outbox.load("relay", 5_000, memory_first_for=age, excluded=Exclusion())
        engine.dispose()
        return [row.record for row in rows]

    def close(self) -> None:
        for store in self._open:
            store.close()

    def sql(self, statement: str) -> list[Any]:
        """Run a statement beside the store, committed."""
        assert self.url is not None
        with alone(self.url) as connection:
            result = connection.execute(text(statement))
            return list(result.all()) if result.returns_rows else []


@contextmanager
def alone(url: str) -> Iterator[Any]:
    """A connection of its own, committed and closed at the end."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def saga(saga_id: str = "o-1", **values: Any) -> SagaRow:
    standard: dict[str, Any] = {
        "id": saga_id,
        "definition": "order",
        "version": 1,
        "status": "running",
        "attention": "none",
        "input": b'{"id": "o-1"}',
        "started_at": T0,
        "updated_at": T0,
        "revision": 1,
        "coordinator": COORDINATOR,
    }
    return SagaRow(**(standard | values))


def full_saga(saga_id: str = "o-1", **values: Any) -> SagaRow:
    """A saga with a value in every column, awkward ones where they are allowed."""
    standard: dict[str, Any] = {
        "step": 'a "quoted\\step", {braces} ünï',
        "waiting_for": "NULL",
        "input": bytes(range(256)),
        "result": b"",
        "error_class": "Declined",
        "error_code": "",
        "error_message": "line\nline\ttab 'quote'",
        "attempt": 3,
        "ended_at": T0 + timedelta(microseconds=1),
        "deadline_at": T0 + timedelta(days=400),
        "wake_at": T0.replace(microsecond=0),
        "undriven": True,
        "parent_id": "o-0",
        "attributes": {"share": 0.5, "name": 'ü"\\', "nested": {"list": [1, None, True]}},
        "tenant": "acme",
        "run": 7,
        "first_seq": 2**40,
    }
    return saga(saga_id, **(standard | values))


def event(saga_id: str = "o-1", seq: int = 1, message_id: str | None = None) -> EventRow:
    return EventRow(saga_id=saga_id, seq=seq, type="Started", at=T0, payload=b"\x00[1]\xff", message_id=message_id)


def heartbeat(command_id: str = "c-1", **values: Any) -> HeartbeatRow:
    standard: dict[str, Any] = {
        "saga_id": "o-1",
        "at": T0,
        "newest": 2**50,
        "known": b'{"m-1":1}',
        "details": b'\x00"{[',
        "count": 3,
    }
    return HeartbeatRow(command_id=command_id, **(standard | values))


def message(name: str, saga_id: str | None = "o-1", **values: Any) -> Message:
    standard: dict[str, Any] = {
        "id": derive(name),
        "aggregatetype": "stock.commands",
        "aggregateid": saga_id or "",
        "type": "stock.reserve",
        "payload": b"{}",
        "created_at": T0,
        "saga_id": saga_id,
        "headers": {"ce_source": "orders", "baggage": 'a="b\\c"'},
    }
    return Message(**(standard | values))


def sent(*messages: Message) -> list[Outgoing]:
    """What these messages become."""
    return [message.outgoing() for message in messages]


def letter(
    offset: int = 0, *, state: DeadLetterState = "dead", saga_id: str | None = None, **values: Any
) -> DeadLetterRow:
    record = Record(
        topic="orders.requests",
        partition=3,
        offset=offset,
        key=b"\x00key\xff",
        value=None,
        headers=(("ce_id", b"1"), ("ce_id", b"\xff\x00"), ("none", None), ("", b"")),
        timestamp_ms=1_767_268_800_000,
    )
    standard: dict[str, Any] = {
        "state": state,
        "record": record,
        "topic_id": "t-1",
        "reason": "undecodable",
        "error_class": "DecodeError",
        "error_message": "not JSON",
        "fingerprint": "0123456789abcdef",
        "saga_id": saga_id,
        "created_at": T0,
        "updated_at": T0,
        "coordinator": COORDINATOR,
    }
    return DeadLetterRow(**(standard | values))


def request(**values: Any) -> OperatorRequest:
    standard: dict[str, Any] = {
        "kind": "retry",
        "saga_id": "o-1",
        "actor": "ann",
        "reason": "the bank is back",
        "not_before": T0,
        "created_at": T0,
        "arguments": b'{"step": "pay"}',
    }
    return OperatorRequest(**(standard | values))


def audit(action: str = "retry", **values: Any) -> AuditEntry:
    standard: dict[str, Any] = {"at": T0, "actor": "ann", "action": action, "saga_id": "o-1", "reason": "ünï"}
    return AuditEntry(**(standard | values))


def move(start: int, end: int, partition: Partition = P0, topic_id: str = "t-1") -> OffsetMove:
    return OffsetMove(partition=partition, start=start, end=end, topic_id=topic_id)


def offset(following: int = 0, topic_id: str = "t-1") -> StoredOffset:
    return StoredOffset(next=following, topic_id=topic_id)


def write(store: Store, **changes: Any) -> int:
    """One batch that writes this; the number of its messages, 0 if there are none."""
    with store.batch() as batch:
        return batch.write(Changes(**changes)) or 0


def locked(store: Store, *saga_ids: str) -> dict[str, SagaRow]:
    with store.batch() as batch:
        return batch.lock(saga_ids)


def history(store: Store, saga_id: str = "o-1") -> list[EventRow]:
    with store.batch() as batch:
        return batch.history([saga_id])[saga_id]


def letters(store: Store, ids: Sequence[int] = tuple(range(1, 30))) -> list[DeadLetterRow]:
    with store.batch() as batch:
        return list(batch.dead_letters(ids).values())


def due(batch: Batch, until: datetime = T0, limit: int = 10) -> list[str]:
    return [row.id for row in batch.due(COORDINATOR, until, limit, ORDER)]
