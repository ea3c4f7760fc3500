"""The hot methods of a batch on PostgreSQL, through psycopg: one statement per table, one array per column.

Measured for lock, update, event and message in batches of 500: SQLAlchemy Core costs the client several times what this
does, and psycopg's own array adaptation twice as much as the literals made here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Boolean, DateTime, Integer, LargeBinary, SmallInteger, Table

from segue.coordinator import schema, statements
from segue.coordinator.rows import NetRows, attributes_text
from segue.coordinator.session import Session
from segue.coordinator.sql_batch import SqlBatch
from segue.coordinator.store import Changes, EventRow, HeartbeatRow, OffsetMove, SagaRow
from segue.errors import RejectedWrite
from segue.outbox.message import Message
from segue.outbox.schema import Moment

if TYPE_CHECKING:
    from segue.outbox.pipeline import Answer, Value

_NUL = "\x00"


def texts(values: Sequence[str | None]) -> str:
    """An array literal of text. Raises RejectedWrite for a NUL, which no text of PostgreSQL can hold."""
    if not values:
        return "{}"
    if None in values:
        return "{" + ",".join(["NULL" if value is None else _quote(value) for value in values]) + "}"
    # NUL as separator: one pass of C over the whole column, and what contains one is found by counting.
    joined = _NUL.join(values)  # type: ignore[arg-type]
    if joined.count(_NUL) != len(values) - 1:
        raise RejectedWrite("a text holds a NUL character, which PostgreSQL can't store")
    return '{"' + joined.replace("\\", "\\\\").replace('"', '\\"').replace(_NUL, '","') + '"}'


def _quote(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def blobs(values: Sequence[bytes | None]) -> str:
    """An array literal of bytea."""
    return "{" + ",".join(["NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values]) + "}"


def numbers(values: Sequence[int | None]) -> str:
    """An array literal of integers."""
    return "{" + ",".join(["NULL" if value is None else str(int(value)) for value in values]) + "}"


def booleans(values: Sequence[bool]) -> str:
    """An array literal of booleans."""
    return "{" + ",".join(["t" if value else "f" for value in values]) + "}"


def moments(values: Sequence[datetime | None]) -> str:
    """An array literal of timestamps with time zone."""
    return "{" + ",".join(["NULL" if value is None else _moment(value) for value in values]) + "}"


#: Nearly all moments of one batch are the same few.
@lru_cache(maxsize=1024)
def _moment(value: datetime) -> str:
    return f'"{value.isoformat()}"'


def documents(values: Sequence[Mapping[str, Any]]) -> str:
    """An array literal of JSON."""
    return texts([attributes_text(value) for value in values])


_Column = tuple[Callable[[Any], Any], Callable[[Sequence[Any]], str]]


def _literal(column_type: Any) -> Callable[[Sequence[Any]], str]:
    for kind, literal in _LITERALS:
        if isinstance(column_type, kind):
            return literal
    return texts


_LITERALS: tuple[tuple[Any, Callable[[Sequence[Any]], str]], ...] = (
    (schema.saga.c.attributes.type.__class__, documents),
    ((Moment, DateTime), moments),
    (Boolean, booleans),
    ((SmallInteger, Integer, BigInteger), numbers),
    (LargeBinary, blobs),
)


def _columns(table: Table, names: Iterable[str]) -> tuple[_Column, ...]:
    return tuple((attrgetter(name), _literal(table.c[name].type)) for name in names)


_SAGA = _columns(schema.saga, statements.SAGA_COLUMNS)
_EVENT = _columns(schema.saga_event, statements.EVENT_COLUMNS)
_HEARTBEAT = _columns(schema.heartbeat, statements.HEARTBEAT_COLUMNS)
_UPDATED = _columns(schema.saga, ("id", *statements.UPDATED_COLUMNS))


def _array(values: list[Any], literal: Callable[[Sequence[Any]], str]) -> str:
    """One column of some rows; most columns of a saga are empty while it runs."""
    if values.count(None) == len(values):
        return "{" + ("NULL," * len(values))[:-1] + "}"
    return literal(values)


def _arrays(columns: Iterable[_Column], rows: Sequence[Any]) -> list[str]:
    return [_array(list(map(getter, rows)), literal) for getter, literal in columns]


def _saga_of(row: tuple[Any, ...]) -> SagaRow:
    columns = dict(zip(statements.SAGA_COLUMNS, row, strict=True))
    text = columns["attributes"]
    columns["attributes"] = {} if text is None else json.loads(text)
    return SagaRow(**columns)


class PostgresBatch(SqlBatch):
    """`SqlBatch` with PostgreSQL's set-based statements in the hot places."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._numbers: list[int] = []

        def numbered(answer: Answer) -> None:
            self._numbers.append(answer.rows()[0][0])

        session.defer((statements.PG_NUMBER_BATCH, ()), numbered)

    def fence(self, coordinator: str, moves: Sequence[OffsetMove]) -> None:
        ordered = sorted(moves, key=lambda move: move.partition)
        if not ordered:
            return
        parameters = [
            self._texts([move.partition.topic for move in ordered]),
            numbers([move.partition.number for move in ordered]),
            numbers([move.start for move in ordered]),
            numbers([move.end for move in ordered]),
            self._texts([move.topic_id for move in ordered]),
            coordinator,
        ]

        def check(moved: Answer) -> None:
            self._all_moved(ordered, moved.count)

        self._session.defer((statements.PG_FENCE, parameters), check)

    def revisions(self, saga_ids: Collection[str]) -> dict[str, int]:
        return dict(self._rows(statements.PG_REVISIONS, [self._texts(sorted(set(saga_ids)))])) if saga_ids else {}

    def lock(self, saga_ids: Collection[str]) -> dict[str, SagaRow]:
        if not saga_ids:
            return {}
        found = self._rows(statements.PG_LOCK, [self._texts(sorted(set(saga_ids)))])
        return {row[0]: _saga_of(row) for row in found}

    def due(
        self, coordinator: str, until: datetime, limit: int, versions: Collection[tuple[str, int]]
    ) -> list[SagaRow]:
        if not versions or limit <= 0:
            return []
        found = self._rows(statements.pg_due(coordinator, tuple(sorted(set(versions)))), [until, limit])
        return [_saga_of(row) for row in found]

    def heartbeats(self, command_ids: Collection[str]) -> dict[str, HeartbeatRow]:
        if not command_ids:
            return {}
        found = self._rows(statements.PG_HEARTBEATS, [self._texts(sorted(set(command_ids)))])
        names = statements.HEARTBEAT_COLUMNS
        return {row[0]: HeartbeatRow(**dict(zip(names, row, strict=True))) for row in found}

    def history(self, saga_ids: Collection[str]) -> dict[str, list[EventRow]]:
        events: dict[str, list[EventRow]] = {saga_id: [] for saga_id in saga_ids}
        names = statements.EVENT_COLUMNS
        for row in self._rows(statements.PG_HISTORY, [self._texts(list(events))]) if events else ():
            events[row[0]].append(EventRow(**dict(zip(names, row, strict=True))))
        return events

    def seen(self, pairs: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        if not pairs:
            return set()
        sagas, messages = zip(*pairs, strict=True)
        return set(self._rows(statements.PG_SEEN, [self._texts(sagas), self._texts(messages)]))

    def _write_transitions(self, net: NetRows, changes: Changes) -> int | None:
        """Put all off till the commit, for one round trip with it: the statements see to it that nothing is missing."""
        put_off = self._session.put_off
        if net.inserts:
            put_off((statements.PG_INSERT_SAGAS, [*_arrays(_SAGA, net.inserts), len(net.inserts)]))
        if net.updates:
            put_off((statements.PG_UPDATE_SAGAS, [*self._updates(net.updates), len(net.updates)]))
        if changes.events:
            put_off((statements.PG_INSERT_EVENTS, _arrays(_EVENT, changes.events)))
        self.delete_batches(changes.published)
        if not changes.messages:
            return None
        number = self._number
        put_off((statements.PG_INSERT_BATCH, [number, *self._batch_values(changes.messages)]))
        return number

    def _write_heartbeats(self, rows: Sequence[HeartbeatRow], over: Sequence[str]) -> None:
        if rows:
            self._session.put_off((statements.PG_PUT_HEARTBEATS, _arrays(_HEARTBEAT, rows)))
        if over:
            self._session.put_off((statements.PG_FORGET_HEARTBEATS, [self._texts(over)]))

    def _batch_values(self, messages: Sequence[Message]) -> list[Value]:
        now, size, sagas, packed = self._batch(messages)
        return [now, size, json.dumps(sagas), packed]

    @property
    def _number(self) -> int:
        """The number of this transaction's batch of messages; it comes with the answer to the first question."""
        if not self._numbers:
            self._session.drive([])
        return self._numbers[0]

    def _updates(self, rows: Sequence[tuple[int, SagaRow]]) -> list[Value]:
        arrays = _arrays(_UPDATED, [row for _, row in rows])
        return [*arrays, numbers([expected for expected, _ in rows]), self.now]

    def delete_batches(self, seqs: Sequence[int]) -> None:
        if seqs:
            self._session.put_off((statements.PG_DELETE_BATCHES, [numbers(seqs)]))

    def _texts(self, values: Sequence[str]) -> str:
        try:
            return texts(values)
        except RejectedWrite as error:
            raise self._session.fail(error) from None

    def _rows(self, text: str, parameters: Sequence[Value]) -> list[tuple[Any, ...]]:
        [answer] = self._session.drive([(text, parameters)])
        return answer.rows()
