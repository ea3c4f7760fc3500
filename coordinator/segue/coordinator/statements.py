"""Every SQL statement of the coordinator's store.

Core statements run on both databases (SQLite ignores FOR UPDATE: its one writer has locked everything). The texts at
the end are PostgreSQL's hot path: one statement per table and batch, columns as arrays, given to the driver directly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    Select,
    Table,
    Update,
    and_,
    bindparam,
    delete,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql import ColumnElement

from segue.coordinator.schema import (
    audit,
    consumer_offset,
    dead_letter,
    definition,
    operator_request,
    outbox,
    saga,
    saga_event,
)
from segue.topics.broker import Partition

SAGA_COLUMNS = tuple(column.name for column in saga.columns)
EVENT_COLUMNS = tuple(column.name for column in saga_event.columns)
#: Without `seq`, which the database counts.
MESSAGE_COLUMNS = tuple(column.name for column in outbox.columns if column.name != "seq")

#: Milliseconds are all that SQLite's clock has.
NOW_SQLITE = text("SELECT strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')")

#: Taken for the rest of the transaction by whoever appends to the audit (the chain has one end). "segue" + 1 in ASCII.
AUDIT_LOCK = text("SELECT pg_advisory_xact_lock(495790221617)")
AUDIT_LAST = select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)
AUDIT_ALL = select(audit).order_by(audit.c.seq)


def insert_new(dialect: str, table: Table) -> Any:
    """INSERT … ON CONFLICT DO NOTHING: what is there already stays as it is."""
    build = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return build(table).on_conflict_do_nothing()


# Offsets


def offsets_of(coordinator: str) -> Select[Any]:
    """All stored offsets of one coordinator."""
    return select(consumer_offset).where(consumer_offset.c.coordinator == coordinator)


def _of_partition(coordinator: str, partition: Partition) -> ColumnElement[bool]:
    columns = consumer_offset.c
    return and_(
        columns.coordinator == coordinator, columns.topic == partition.topic, columns.partition == partition.number
    )


def move_offset(coordinator: str, partition: Partition, start: int, end: int) -> Update:
    """The fence of one partition: no row is changed if it does not stand at `start`."""
    here = and_(_of_partition(coordinator, partition), consumer_offset.c.next == start)
    return update(consumer_offset).where(here).values(next=end)


def overwrite_offset(
    coordinator: str, partition: Partition, standing: int, topic_id: str, values: dict[str, Any]
) -> Update:
    """Set one stored offset, if it stands at `standing` of this topic."""
    columns = consumer_offset.c
    same = and_(_of_partition(coordinator, partition), columns.next == standing, columns.topic_id == topic_id)
    return update(consumer_offset).where(same).values(values)


def drain_offset(coordinator: str, partition: Partition, end: int, noted_at: Any) -> Update:
    """The time only grows: another coordinator may have noted a later one."""
    columns = consumer_offset.c
    earlier = or_(columns.drained_to.is_(None), columns.drained_to < noted_at)
    here = and_(_of_partition(coordinator, partition), columns.next >= end, earlier)
    return update(consumer_offset).where(here).values(drained_to=noted_at)


# Sagas and their history


def lock_sagas(ids: Sequence[str]) -> Select[Any]:
    """Lock these sagas in the order of their ids."""
    return select(saga).where(saga.c.id.in_(ids)).order_by(saga.c.id).with_for_update()


def _of_versions(versions: Sequence[tuple[str, int]]) -> ColumnElement[bool]:
    return tuple_(saga.c.definition, saga.c.version).in_(versions)


def due_sagas(until: Any, limit: int, versions: Sequence[tuple[str, int]]) -> Select[Any]:
    """Lock sagas whose time has come, oldest first."""
    unpublished = select(outbox.c.seq).where(outbox.c.saga_id == saga.c.id).exists()
    return (
        select(saga)
        .where(saga.c.wake_at.is_not(None), saga.c.wake_at <= until, _of_versions(versions), ~unpublished)
        .order_by(saga.c.wake_at, saga.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


def live_versions() -> Select[Any, Any]:
    """The definitions and versions of sagas that have not ended."""
    open_status = saga.c.status.in_(("running", "compensating"))
    return select(saga.c.definition, saga.c.version).where(open_status).distinct().order_by("definition", "version")


def next_wake_of(versions: Sequence[tuple[str, int]]) -> Select[Any]:
    """The earliest moment at which one of these is to be woken."""
    wanted = saga.c.wake_at.is_not(None)
    return select(saga.c.wake_at).where(wanted, _of_versions(versions)).order_by(saga.c.wake_at).limit(1)


def history_of(ids: Sequence[str]) -> Select[Any]:
    """All events of these sagas in order."""
    return select(saga_event).where(saga_event.c.saga_id.in_(ids)).order_by(saga_event.c.saga_id, saga_event.c.seq)


def seen_of(pairs: Sequence[tuple[str, str]]) -> Select[Any, Any]:
    """Which of these (saga id, message id) are in the history."""
    columns = saga_event.c
    return select(columns.saga_id, columns.message_id).where(tuple_(columns.saga_id, columns.message_id).in_(pairs))


def unpublished_of(ids: Sequence[str]) -> Select[Any]:
    """Which of these sagas have a message in the outbox."""
    return select(outbox.c.saga_id).where(outbox.c.saga_id.in_(ids)).distinct()


#: `:expected` is the revision that must stand there.
UPDATE_SAGA = (
    update(saga)
    .where(saga.c.id == bindparam("saga_id"), saga.c.revision == bindparam("expected"))
    .values({column.name: bindparam(column.name) for column in saga.columns if column.name != "id"})
)


def delete_messages(ids: Sequence[str]) -> Any:
    """Delete messages that are published."""
    return delete(outbox).where(outbox.c.id.in_(ids))


# Dead letters and operator requests


def lock_dead_letters(ids: Sequence[int]) -> Select[Any]:
    """Lock dead letters by id."""
    return select(dead_letter).where(dead_letter.c.id.in_(ids)).order_by(dead_letter.c.id).with_for_update()


def foldable_dead_letters(limit: int) -> Select[Any]:
    """Lock parked records whose saga exists by now, oldest first."""
    there = select(saga.c.id).where(saga.c.id == dead_letter.c.saga_id).exists()
    return (
        select(dead_letter)
        .where(dead_letter.c.state == "parked", there)
        .order_by(dead_letter.c.created_at, dead_letter.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


SETTLE_DEAD_LETTER = (
    update(dead_letter)
    .where(dead_letter.c.id == bindparam("dead_letter"))
    .values(state=bindparam("new_state"), updated_at=bindparam("moment"))
)
REPLAY_DEAD_LETTER = (
    update(dead_letter)
    .where(dead_letter.c.id == bindparam("dead_letter"))
    .values(replays=dead_letter.c.replays + 1, updated_at=bindparam("moment"))
)


def sweep_dead_letters(parked_before: Any, limit: int, now: Any) -> Update:
    """Declare records dead that were parked for too long."""
    old = (
        select(dead_letter.c.id)
        .where(dead_letter.c.state == "parked", dead_letter.c.created_at < parked_before)
        .order_by(dead_letter.c.created_at, dead_letter.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return update(dead_letter).where(dead_letter.c.id.in_(old)).values(state="dead", updated_at=now)


def due_requests(now: Any, limit: int) -> Select[Any]:
    """Lock operator requests whose time has come, oldest first."""
    return (
        select(operator_request)
        .where(operator_request.c.not_before <= now)
        .order_by(operator_request.c.not_before, operator_request.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


INSERT_REQUESTS = operator_request.insert().returning(operator_request.c.id, sort_by_parameter_order=True)


def delete_requests(ids: Sequence[int]) -> Any:
    """Delete requests that are dealt with."""
    return delete(operator_request).where(operator_request.c.id.in_(ids))


def fingerprint_of(name: str, version: int) -> Select[Any]:
    """The fingerprint on record of one version of a definition."""
    here = and_(definition.c.name == name, definition.c.version == version)
    return select(definition.c.fingerprint).where(here)


# PostgreSQL: arrays through the driver

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def _element_type(column: Column[Any]) -> str:
    """The element type of a column's array; text for every string: the assignment to the column checks the length."""
    name = column.type.compile(_DIALECT)
    return "text" if name.startswith("VARCHAR") else name.lower()


def _arrays(table: Table, names: Sequence[str]) -> str:
    return ", ".join(f"%s::{_element_type(table.c[name])}[]" for name in names)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _insert_arrays(table: Table, names: Sequence[str]) -> str:
    return f"INSERT INTO {table.name} ({_quoted(names)}) SELECT * FROM unnest({_arrays(table, names)})"


def _update_sagas() -> str:
    names = [column.name for column in saga.columns]
    pairs = [f'"{name}" = v."{name}"' for name in names if name not in {"id", "input"}]
    # An unchanged input comes as NULL: it may be large, and is sent to the database once.
    pairs.append('"input" = COALESCE(v."input", saga."input")')
    return (
        f"UPDATE saga SET {', '.join(pairs)}"
        f" FROM unnest({_arrays(saga, names)}, %s::bigint[]) AS v({_quoted(names)}, expected)"
        " WHERE saga.id = v.id AND saga.revision = v.expected"
    )


PG_BEGIN = "BEGIN; SELECT clock_timestamp()"
#: Parameters: arrays of topics, partitions, starts, ends; the coordinator twice. The rows are locked in their order, so
#: that two coordinators never wait for each other.
PG_FENCE = """
WITH locked AS (
    SELECT o.topic, o.partition, move.stop FROM consumer_offset o
    JOIN unnest(%s::text[], %s::int[], %s::bigint[], %s::bigint[]) AS move(topic, number, start, stop)
    ON o.topic = move.topic AND o.partition = move.number AND o.next = move.start
    WHERE o.coordinator = %s ORDER BY o.topic, o.partition FOR UPDATE OF o
)
UPDATE consumer_offset o SET next = locked.stop FROM locked
WHERE o.coordinator = %s AND o.topic = locked.topic AND o.partition = locked.partition
"""
#: Attributes, mostly empty, come as text or not at all: parsing `{}` costs more than reading any other column.
PG_LOCK = (
    f"SELECT {_quoted(saga.columns.keys())} FROM saga WHERE id = ANY(%s::text[]) ORDER BY id FOR UPDATE"
).replace('"attributes"', "NULLIF(\"attributes\"::text, '{}')")
PG_HISTORY = (
    f"SELECT {_quoted(saga_event.columns.keys())} FROM saga_event WHERE saga_id = ANY(%s::text[]) ORDER BY saga_id, seq"
)
PG_SEEN = """
SELECT e.saga_id, e.message_id FROM unnest(%s::text[], %s::text[]) AS v(saga_id, message_id)
JOIN saga_event e ON e.saga_id = v.saga_id AND e.message_id = v.message_id
"""
PG_UNPUBLISHED = "SELECT DISTINCT saga_id FROM outbox WHERE saga_id = ANY(%s::text[])"
PG_DELETE_MESSAGES = "DELETE FROM outbox WHERE id = ANY(%s::uuid[])"
PG_INSERT_SAGAS = _insert_arrays(saga, SAGA_COLUMNS) + " ON CONFLICT (id) DO NOTHING"
PG_UPDATE_SAGAS = _update_sagas()
PG_INSERT_EVENTS = _insert_arrays(saga_event, EVENT_COLUMNS)
#: A message that still waits there is the same one: ids are derived.
PG_INSERT_MESSAGES = _insert_arrays(outbox, MESSAGE_COLUMNS) + " ON CONFLICT (id) DO NOTHING"
