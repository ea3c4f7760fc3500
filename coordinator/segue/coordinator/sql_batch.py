"""The batch of the store port in SQLAlchemy Core: what SQLite runs, and what PostgreSQL runs where it is not hot."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Table

from segue.coordinator import audit, schema, statements
from segue.coordinator.batches import pack_messages, sagas_of
from segue.coordinator.rows import (
    NetRows,
    check_values,
    dead_letter_of,
    dead_letter_values,
    event_values,
    heartbeat_values,
    net_rows,
    saga_values,
)
from segue.coordinator.session import Session
from segue.coordinator.store import (
    AuditEntry,
    Changes,
    DeadLetterRow,
    EventRow,
    HeartbeatRow,
    OffsetMove,
    OperatorRequest,
    SagaRow,
)
from segue.errors import Fenced, SegueError, UsageError
from segue.outbox.message import Message


class SqlBatch:
    """An open transaction; see the port for the contract of each method."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def now(self) -> datetime:
        return self._session.now

    def fence(self, coordinator: str, moves: Sequence[OffsetMove]) -> None:
        ordered = sorted(moves, key=lambda move: move.partition)
        moved = [
            self._session.change(
                statements.move_offset(coordinator, move.partition, move.start, move.topic_id, move.end)
            )
            for move in ordered
        ]
        self._all_moved(ordered, sum(moved))

    def _all_moved(self, moves: Sequence[OffsetMove], moved: int) -> None:
        if moved != len(moves):
            raise self._session.fail(Fenced(f"the stored offset of one of {_listed(moves)} is another"))

    def lock(self, saga_ids: Collection[str]) -> dict[str, SagaRow]:
        rows = self._session.rows(statements.lock_sagas(sorted(set(saga_ids)))) if saga_ids else ()
        return {row.id: saga_of(row) for row in rows}

    def history(self, saga_ids: Collection[str]) -> dict[str, list[EventRow]]:
        found: dict[str, list[EventRow]] = {saga_id: [] for saga_id in saga_ids}
        for row in self._session.rows(statements.history_of(list(found))) if found else ():
            found[row.saga_id].append(EventRow(**row._mapping))
        return found

    def revisions(self, saga_ids: Collection[str]) -> dict[str, int]:
        rows = self._session.rows(statements.revisions_of(sorted(set(saga_ids)))) if saga_ids else ()
        return {row.id: row.revision for row in rows}

    def earlier(self, saga_id: str, first: int, end: int) -> list[EventRow]:
        rows = self._session.rows(statements.earlier_of(saga_id, first, end))
        return [EventRow(**row._mapping) for row in rows]

    def seen(self, pairs: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        rows = self._session.rows(statements.seen_of(sorted(set(pairs)))) if pairs else ()
        return {(row.saga_id, row.message_id) for row in rows}

    def heartbeats(self, command_ids: Collection[str]) -> dict[str, HeartbeatRow]:
        rows = self._session.rows(statements.heartbeats_of(sorted(set(command_ids)))) if command_ids else ()
        return {row.command_id: HeartbeatRow(**row._mapping) for row in rows}

    def message(self, saga_id: str, message_id: str) -> EventRow | None:
        rows = self._session.rows(statements.message_of(saga_id, message_id))
        return next((EventRow(**row._mapping) for row in rows), None)

    def parked(self, coordinator: str, saga_ids: Collection[str]) -> list[DeadLetterRow]:
        rows = self._session.rows(statements.parked_of(coordinator, sorted(set(saga_ids)))) if saga_ids else ()
        return [dead_letter_of(row._asdict()) for row in rows]

    def due(
        self, coordinator: str, until: datetime, limit: int, versions: Collection[tuple[str, int]]
    ) -> list[SagaRow]:
        if not versions or limit <= 0:
            return []
        statement = statements.due_sagas(coordinator, until, limit, sorted(set(versions)))
        return [saga_of(row) for row in self._session.rows(statement)]

    def requests(self, coordinator: str, limit: int) -> list[OperatorRequest]:
        rows = self._session.rows(statements.due_requests(coordinator, self.now, limit))
        return [OperatorRequest(**row._mapping) for row in rows]

    def dead_letters(self, ids: Collection[int]) -> dict[int, DeadLetterRow]:
        rows = self._session.rows(statements.lock_dead_letters(sorted(set(ids)))) if ids else ()
        return {row.id: dead_letter_of(row._asdict()) for row in rows}

    def kept_for(self, saga_id: str) -> list[int]:
        return [row.id for row in self._session.rows(statements.kept_dead_letters(saga_id))]

    def foldable(self, coordinator: str, names: Collection[str], limit: int) -> list[DeadLetterRow]:
        rows = self._session.rows(statements.foldable_dead_letters(coordinator, sorted(set(names)), limit))
        return [dead_letter_of(row._asdict()) for row in rows]

    def write(self, changes: Changes) -> int | None:
        try:
            batch = self._write_transitions(net_rows(changes), changes)
            self._write_heartbeats(changes.heartbeats, changes.heartbeats_over)
            self._write_dead_letters(changes)
            self._append_audits(changes.audits)
            for note in changes.notes:
                skipped = {"skipped_at": self.now} if note.stands_at is None else {}
                values = {"stands_at": note.stands_at, "problem": note.problem, **skipped}
                self._session.change(statements.note_offset(note.coordinator, note.partition, values))
            self._delete_requests(changes.requests_done)
            return batch
        except SegueError as error:
            raise self._session.fail(error) from error.__cause__

    def _write_transitions(self, net: NetRows, changes: Changes) -> int | None:
        if net.inserts:
            self._all_written("started", net.inserts, self._insert_sagas(net.inserts))
        if net.updates:
            self._all_written("moved on", net.updates, self._update_sagas(net.updates))
        self._write_events(changes.events)
        self.delete_batches(changes.published)
        return self._write_batch(changes.messages)

    def _all_written(self, what: str, rows: Sequence[Any], written: int) -> None:
        if written != len(rows):
            raise Fenced(f"{len(rows) - written} of {len(rows)} sagas were {what} by another process meanwhile")

    def _insert_sagas(self, rows: Sequence[SagaRow]) -> int:
        values = [saga_values(row) | {"alarm_at": row.wake_at} for row in rows]
        return self._session.change(self._insert_new(schema.saga), self._checked(schema.saga, values))

    def _update_sagas(self, rows: Sequence[tuple[int, SagaRow]]) -> int:
        values = self._checked(schema.saga, [saga_values(row) for _, row in rows])
        updates = [
            {name: value[name] for name in statements.UPDATED_COLUMNS}
            | {"saga_id": value["id"], "expected": expected, "now": self.now}
            for value, (expected, _) in zip(values, rows, strict=True)
        ]
        return self._session.change(statements.UPDATE_SAGA, updates)

    def _write_events(self, events: Sequence[EventRow]) -> None:
        if events:
            values = self._checked(schema.saga_event, [event_values(event) for event in events])
            self._session.change(schema.saga_event.insert(), values)

    def _write_heartbeats(self, rows: Sequence[HeartbeatRow], over: Sequence[str]) -> None:
        if rows:
            values = self._checked(schema.heartbeat, [heartbeat_values(row) for row in rows])
            self._session.change(statements.put_heartbeat(self._session.dialect), values)
        if over:
            self._session.change(statements.forget_heartbeats(sorted(over)))

    def _write_batch(self, messages: Sequence[Message]) -> int | None:
        if not messages:
            return None
        names = ("created_at", "size", "sagas", "messages")
        values: dict[str, Any] = dict(zip(names, self._batch(messages), strict=True))
        return int(self._session.returned(statements.INSERT_BATCH, [values])[0].seq)

    def _batch(self, messages: Sequence[Message]) -> tuple[datetime, int, list[str], bytes]:
        return self.now, len(messages), sagas_of(messages), pack_messages(messages)

    def _write_dead_letters(self, changes: Changes) -> None:
        if changes.dead_letters:
            values = self._checked(schema.dead_letter, [dead_letter_values(row) for row in changes.dead_letters])
            self._session.change(self._insert_new(schema.dead_letter), values)
        if changes.settled:
            settled = sorted(changes.settled.items())
            self._session.change(
                statements.SETTLE_DEAD_LETTER,
                [{"dead_letter": key, "new_state": state, "moment": self.now} for key, state in settled],
            )
        if changes.replayed:
            self._session.change(
                statements.REPLAY_DEAD_LETTER,
                [{"dead_letter": key, "moment": self.now} for key in sorted(changes.replayed)],
            )

    def _append_audits(self, entries: Sequence[AuditEntry]) -> None:
        append_audits(self._session, entries)

    def _delete_requests(self, ids: Sequence[int]) -> None:
        if ids and self._session.change(statements.delete_requests(ids)) != len(set(ids)):
            raise Fenced("an operator request was dealt with by another process meanwhile")

    def delete_batches(self, seqs: Sequence[int]) -> None:
        """Delete batches of messages."""
        if seqs:
            self._session.change(statements.delete_batches(seqs))

    def _insert_new(self, table: Table) -> Any:
        return statements.insert_new(self._session.dialect, table)

    def _checked(self, table: Table, values: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return checked(self._session, table, values)


def checked(session: Session, table: Table, values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`values`, after what SQLite would take and PostgreSQL would not was refused."""
    if session.dialect == "sqlite":
        for row in values:
            check_values(table, row)
    return values


def append_audits(session: Session, entries: Sequence[AuditEntry]) -> None:
    """Add lines to the end of the chain; on PostgreSQL one transaction at a time may, till it ends."""
    if not entries:
        return
    # Nobody but a person at a command line knows of a system user and needs no coordinator.
    by_hand = any(entry.system_user and entry.request_id is None for entry in entries)
    is_postgres = session.dialect == "postgresql"
    if is_postgres:
        session.rows(statements.AUDIT_LOCK)
    if by_hand:
        role = next((row[0] for row in session.rows(statements.PG_ROLE)), None) if is_postgres else None
        entries = [replace(entry, database_role=role) for entry in entries]
    stored = next(iter(session.rows(statements.AUDIT_HEAD)), None)
    if by_hand and stored is not None and stored.mac and not session.audit_key:
        raise UsageError("the end of the audit is sealed, and this would break the seal: set coordinator.audit_key")
    head = None if stored is None else (stored.lines, stored.hash)
    last = next(((row.seq, row.hash) for row in session.rows(statements.AUDIT_LAST)), None)
    lines = audit.chain(audit.end_of_chain(head, last), entries)
    session.change(schema.audit.insert(), checked(session, schema.audit, lines))
    seq, last_hash = lines[-1]["seq"], lines[-1]["hash"]
    mac = audit.seal(session.audit_key, seq, last_hash) if session.audit_key else None
    moved = {"lines": seq, "hash": last_hash, "mac": mac, "at": session.now}
    table = schema.audit_head
    session.change(table.insert().values(id=1, **moved) if head is None else table.update().values(**moved))


def saga_of(row: Any) -> SagaRow:
    """The saga in a row of Core."""
    return SagaRow(**row._mapping)


def _listed(moves: Iterable[OffsetMove]) -> str:
    return ", ".join(f"{move.partition.topic}[{move.partition.number}]@{move.start}" for move in moves)
