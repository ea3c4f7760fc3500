"""The store of the coordinator in PostgreSQL (psycopg 3) or SQLite.

`SqlStore("postgresql+psycopg://…")` or `SqlStore("sqlite:///segue.sqlite")`, over tables made by `segue.migrations`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from segue.coordinator import schema, statements
from segue.coordinator.engine import connect, cut_of, open_engine
from segue.coordinator.outcomes import outcome_of
from segue.coordinator.postgres_batch import PostgresBatch
from segue.coordinator.rows import request_values
from segue.coordinator.session import Session
from segue.coordinator.sql_batch import SqlBatch, append_audits, checked
from segue.coordinator.store import LOOK_AHEAD, AuditEntry, Batch, Look, OperatorRequest, StoredOffset
from segue.errors import Fenced, StoreUnavailable
from segue.observe import SILENT, Observer
from segue.outbox.watchdog import Watchdog
from segue.saga.fingerprint import comparable
from segue.saga.runs import coordinator_of
from segue.topics.broker import Partition


class SqlStore:
    """The store port over SQLAlchemy; see `segue.coordinator.store` for the contract of each method.

    A coordinator drives it from one thread over one connection that stays open; other threads get connections of their
    own, `pool_size` at most.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 4,
        lock_timeout: timedelta = timedelta(seconds=5),
        call_timeout: timedelta = timedelta(seconds=15),
        observer: Observer = SILENT,
        audit_key: bytes = b"",
    ) -> None:
        """A store on the database at `url`; connects with the first call.

        `lock_timeout`: how long a statement waits for a lock (SQLite: for the write lock). `call_timeout`: how long a
        call may take before its connection is cut, and how long the server lets a transaction idle. Raises ConfigError
        for a URL of another database.
        """
        self._engine = open_engine(url, pool_size=pool_size, lock_timeout=lock_timeout, call_timeout=call_timeout)
        self._observer = observer
        #: Seals the end of the audit; empty: it is not sealed.
        self._audit_key = audit_key
        self._watchdog = Watchdog(call_timeout, fired=lambda: observer.count("store.call_cut"))
        self._batch_of: Callable[[Session], SqlBatch] = (
            PostgresBatch if self._engine.dialect.name == "postgresql" else SqlBatch
        )

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        with self._session() as session:
            yield self._batch_of(session)

    @contextmanager
    def _session(self) -> Iterator[Session]:
        try:
            connection = connect(self._engine)
        except Exception as error:
            meaning = outcome_of(error)
            if meaning is None:
                raise
            self._note(meaning)
            raise meaning from error
        with connection:
            session = Session(connection, self._watchdog.guard(cut_of(connection)), self._audit_key)
            try:
                session.begin()
                yield session
            except BaseException as error:
                session.rollback()
                self._note(error)
                raise
            try:
                session.commit()
            except StoreUnavailable as error:
                self._note(error)
                raise

    def _note(self, error: BaseException) -> None:
        if isinstance(error, StoreUnavailable):
            self._observer.count("store.unavailable")

    def now(self) -> datetime:
        with self._session() as session:
            return session.now

    def look(self, coordinator: str, versions: Collection[tuple[str, int]], *, parked: bool = True) -> Look:
        wanted = tuple(sorted(set(versions)))
        with self._session() as session:
            if session.dialect == "postgresql":
                [row] = session.glance(statements.pg_look(coordinator, wanted, parked))
            else:
                [row] = session.rows(
                    statements.look_for(coordinator, wanted, parked, session.now, session.now + LOOK_AHEAD)
                )
        return Look(**dict(zip(statements.LOOK_COLUMNS, row, strict=True)))

    def offsets(self, coordinator: str) -> dict[Partition, StoredOffset]:
        with self._session() as session:
            return {
                Partition(row.topic, row.partition): StoredOffset(
                    next=row.next, topic_id=row.topic_id, skipped_at=row.skipped_at
                )
                for row in session.rows(statements.offsets_of(coordinator))
            }

    def seed_offsets(self, coordinator: str, offsets: Mapping[Partition, StoredOffset]) -> None:
        if not offsets:
            return
        values = [_offset_values(coordinator, partition, offset) for partition, offset in sorted(offsets.items())]
        with self._session() as session:
            session.change(
                statements.insert_new(session.dialect, schema.consumer_offset),
                checked(session, schema.consumer_offset, values),
            )

    def reset_offset(
        self, coordinator: str, partition: Partition, known: StoredOffset, offset: StoredOffset, audit: AuditEntry
    ) -> None:
        values = _offset_values(coordinator, partition, offset)
        with self._session() as session:
            checked(session, schema.consumer_offset, [values])
            statement = statements.overwrite_offset(coordinator, partition, known.next, known.topic_id, values)
            if not session.change(statement):
                raise Fenced(f"{partition} does not stand at {known.next} any more")
            append_audits(session, [audit])

    def forget_published(self, batches: Sequence[int]) -> None:
        if batches:
            with self._session() as session:
                self._batch_of(session).delete_batches(batches)

    def register(self, coordinator: str, name: str, version: int, fingerprint: str) -> str:
        values = {"coordinator": coordinator, "name": name, "version": version, "fingerprint": fingerprint}
        with self._session() as session:
            values["registered_at"] = session.now
            checked(session, schema.definition_fingerprint, [values])
            session.change(statements.insert_new(session.dialect, schema.definition_fingerprint), [values])
            [row] = session.rows(statements.fingerprint_of(coordinator, name, version))
            if not comparable(row.fingerprint, fingerprint):
                session.change(statements.replace_fingerprint(coordinator, name, version, fingerprint))
                return fingerprint
            return str(row.fingerprint)

    def live_versions(self, coordinator: str) -> list[tuple[str, int]]:
        with self._session() as session:
            return [(row.definition, row.version) for row in session.rows(statements.live_versions(coordinator))]

    def ask(self, requests: Sequence[OperatorRequest]) -> list[int]:
        if not requests:
            return []
        values = [request_values(request) for request in requests]
        for row in values:
            del row["database_role"]  # nobody's word
        with self._session() as session:
            checked(session, schema.operator_request, values)
            told = session.dialect == "postgresql"
            statement = statements.PG_INSERT_REQUESTS if told else statements.INSERT_REQUESTS
            return [row.id for row in session.returned(statement, values)]

    def sweep(self, coordinator: str, parked_before: datetime, limit: int) -> int:
        with self._session() as session:
            session.change(statements.sweep_heartbeats(parked_before, limit))
            return session.change(statements.sweep_dead_letters(coordinator, parked_before, limit, session.now))

    def assign(self, limit: int, *, live: bool) -> int:
        with self._session() as session:
            found = session.rows(statements.nobodys(limit, live=live))
            names = [{"saga_id": row.id, "name": coordinator_of(row.payload)} for row in found]
            return session.change(statements.ASSIGN, names) if names else 0

    def close(self) -> None:
        """Close all connections; idempotent."""
        self._engine.dispose()
        self._watchdog.close()


def _offset_values(coordinator: str, partition: Partition, offset: StoredOffset) -> dict[str, Any]:
    return {
        "coordinator": coordinator,
        "topic": partition.topic,
        "partition": partition.number,
        "next": offset.next,
        "topic_id": offset.topic_id,
        "skipped_at": offset.skipped_at,
    }
