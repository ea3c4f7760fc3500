"""Every SQL statement of the coordinator's store.

Core statements run on both databases (SQLite ignores FOR UPDATE: its one writer has locked everything). The texts at
the end are PostgreSQL's hot path: one statement per table and batch, columns as arrays, given to the driver directly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    FunctionElement,
    Select,
    Table,
    Update,
    and_,
    bindparam,
    case,
    delete,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    text,
    true,
    tuple_,
    type_coerce,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles

from segue.coordinator.schema import (
    audit,
    audit_head,
    consumer_offset,
    dead_letter,
    definition_fingerprint,
    heartbeat,
    operator_request,
    outbox,
    outbox_batch,
    saga,
    saga_event,
)
from segue.coordinator.store import BEGINNING, LOOK_AHEAD
from segue.outbox.schema import Moment
from segue.topics.broker import Partition

#: Without `alarm_at`, which only this module knows.
SAGA_COLUMNS = tuple(column.name for column in saga.columns if column.name != "alarm_at")
HEARTBEAT_COLUMNS = tuple(column.name for column in heartbeat.columns)
EVENT_COLUMNS = tuple(column.name for column in saga_event.columns)
_SAGA = tuple(saga.c[name] for name in SAGA_COLUMNS)
_LIVE = ("running", "compensating")
UPDATED_COLUMNS = tuple(name for name in SAGA_COLUMNS if name not in BEGINNING)

#: Milliseconds are all that SQLite's clock has.
NOW_SQLITE = text("SELECT strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')")

#: Taken for the rest of the transaction by whoever appends to the audit (the chain has one end). "segue" + 1 in ASCII.
AUDIT_LOCK = text("SELECT pg_advisory_xact_lock(495790221617)")
AUDIT_HEAD = select(audit_head.c.lines, audit_head.c.hash, audit_head.c.mac).where(audit_head.c.id == 1)
AUDIT_LAST = select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)
AUDIT_ALL = select(audit).order_by(audit.c.seq)


def insert_new(dialect: str, table: Table) -> Any:
    """INSERT … ON CONFLICT DO NOTHING: what is there already stays as it is."""
    build = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return build(table).on_conflict_do_nothing()


class Elements(FunctionElement[str]):
    """The elements of a JSON array of text, a row each, in a column `value`."""

    inherit_cache = True
    name = "elements"


@compiles(Elements, "sqlite")
def _sqlite_elements(element: Elements, compiler: Any, **kw: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **kw)})"


@compiles(Elements, "postgresql")
def _postgresql_elements(element: Elements, compiler: Any, **kw: Any) -> str:
    return f"json_array_elements_text({compiler.process(element.clauses, **kw)})"


def batched_sagas() -> Select[Any]:
    """The sagas that have a message in a batch; not correlated, so that the database reads the batches once."""
    sagas = Elements(outbox_batch.c.sagas).table_valued("value")
    return select(sagas.c.value).select_from(outbox_batch.join(sagas, true()))


def unpublished() -> ColumnElement[bool]:
    """Sagas with a message that is not known to be published."""
    waits = select(outbox.c.seq).where(outbox.c.saga_id == saga.c.id).exists()
    return or_(waits, saga.c.id.in_(batched_sagas()))


# Offsets


def offsets_of(coordinator: str) -> Select[Any]:
    """All stored offsets of one coordinator."""
    return select(consumer_offset).where(consumer_offset.c.coordinator == coordinator)


def _of_partition(coordinator: str, partition: Partition) -> ColumnElement[bool]:
    columns = consumer_offset.c
    return and_(
        columns.coordinator == coordinator, columns.topic == partition.topic, columns.partition == partition.number
    )


def move_offset(coordinator: str, partition: Partition, start: int, topic_id: str, end: int) -> Update:
    """The fence of one partition: no row is changed if it does not stand at `start` of this topic."""
    return overwrite_offset(coordinator, partition, start, topic_id, {"next": end})


def overwrite_offset(
    coordinator: str, partition: Partition, standing: int, topic_id: str, values: dict[str, Any]
) -> Update:
    """Set one stored offset, if it stands at `standing` of this topic."""
    columns = consumer_offset.c
    same = and_(_of_partition(coordinator, partition), columns.next == standing, columns.topic_id == topic_id)
    return update(consumer_offset).where(same).values(values)


def note_offset(coordinator: str, partition: Partition, values: dict[str, Any]) -> Update:
    """Write something down about a partition, wherever its offset stands."""
    return update(consumer_offset).where(_of_partition(coordinator, partition)).values(values)


# Sagas and their history


def lock_sagas(ids: Sequence[str]) -> Select[Any]:
    """Lock these sagas in the order of their ids."""
    return select(*_SAGA).where(saga.c.id.in_(ids)).order_by(saga.c.id).with_for_update()


def revisions_of(ids: Sequence[str]) -> Select[Any, Any]:
    """What sagas in memory are compared with."""
    return select(saga.c.id, saga.c.revision).where(saga.c.id.in_(ids)).order_by(saga.c.id)


def _names(versions: Sequence[tuple[str, int]]) -> list[str]:
    return sorted({name for name, _ in versions})


def _of_versions(versions: Sequence[tuple[str, int]]) -> ColumnElement[bool]:
    # Not the bare column: till its tables are analysed, a database would go by the index of definitions, and read every
    # saga that there ever was for the one whose alarm is next.
    return tuple_(saga.c.definition.concat(""), saga.c.version).in_(versions)


def due_sagas(coordinator: str, until: Any, limit: Any, versions: Sequence[tuple[str, int]]) -> Select[Any]:
    """Lock sagas whose time has come, oldest first."""
    ours = and_(saga.c.coordinator == coordinator, _of_versions(versions))
    return (
        select(*_SAGA)
        .where(saga.c.alarm_at.is_not(None), saga.c.alarm_at <= until, ours, ~unpublished())
        .order_by(saga.c.alarm_at)  # and by nothing else, or each page sorts all that are due
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


def live_versions(coordinator: str) -> Select[Any, Any]:
    """The definitions and versions of sagas that have not ended."""
    ours = and_(saga.c.status.in_(_LIVE), saga.c.coordinator == coordinator)
    return select(saga.c.definition, saga.c.version).where(ours).distinct().order_by("definition", "version")


def nobodys(limit: int, *, live: bool) -> Select[Any, Any]:
    """(id, first transition of its run) of sagas of which the row does not say who drives them, locked."""
    first = and_(saga_event.c.saga_id == saga.c.id, saga_event.c.seq == saga.c.first_seq)
    # Said in the statement and not by a parameter, or the index of just these rows is none for a plan that is kept.
    nobodys = saga.c.coordinator == literal_column("''")
    found = select(saga.c.id, saga_event.c.payload).join(saga_event, first).where(nobodys)
    if live:
        found = found.where(saga.c.status.in_(_LIVE))
    return found.order_by(saga.c.id).limit(limit).with_for_update(of=saga, skip_locked=True)


ASSIGN = update(saga).where(saga.c.id == bindparam("saga_id")).values(coordinator=bindparam("name"))


LOOK_COLUMNS = ("now", "alarm_at", "requests", "parked")


def look_for(
    coordinator: str, versions: Sequence[tuple[str, int]], parked: bool, now: Any, soon: Any
) -> Select[Any, Any, Any, Any]:
    """What there is to do at `now`, in the order of `LOOK_COLUMNS`; of alarms, up to `soon`."""
    ours = and_(saga.c.coordinator == coordinator, _of_versions(versions))
    alarms = select(saga.c.alarm_at).where(saga.c.alarm_at.is_not(None), saga.c.alarm_at <= soon, ours)
    first = alarms.order_by(saga.c.alarm_at).limit(1).scalar_subquery() if versions else null()
    requests = select(operator_request.c.id).where(_requested(coordinator, now)).exists()
    return select(
        type_coerce(now, Moment()),
        type_coerce(first, Moment()),
        requests,
        _waits_for_its_saga(coordinator, _names(versions)).exists() if parked else false(),
    )


@lru_cache(maxsize=8)
def pg_due(coordinator: str, versions: Sequence[tuple[str, int]]) -> str:
    """`due_sagas` as PostgreSQL prepares it; the rows are those of `PG_LOCK`."""
    statement = due_sagas(coordinator, literal_column("$1::timestamptz"), literal_column("$2::bigint"), versions)
    text = str(statement.compile(dialect=_NUMBERED, compile_kwargs={"literal_binds": True}))
    return f"SELECT {_READ_SAGA} {text[text.index('FROM saga') :]}"


@lru_cache(maxsize=8)
def pg_look(coordinator: str, versions: Sequence[tuple[str, int]], parked: bool) -> str:
    """`look_for` as PostgreSQL prepares it."""
    soon: ColumnElement[Any] = literal_column(f"now() + interval '{LOOK_AHEAD.total_seconds():g} seconds'")
    statement = look_for(coordinator, versions, parked, func.now(), soon)
    return str(statement.compile(dialect=_NUMBERED, compile_kwargs={"literal_binds": True}))


def history_of(ids: Sequence[str]) -> Select[Any]:
    """The events of these sagas' present runs in order."""
    of_run = and_(saga_event.c.saga_id == saga.c.id, saga_event.c.seq >= saga.c.first_seq)
    events = select(saga_event).join(saga, of_run)
    return events.where(saga.c.id.in_(ids)).order_by(saga_event.c.saga_id, saga_event.c.seq)


def earlier_of(saga_id: str, first: int, end: int) -> Select[Any]:
    """The events of one saga from `first` up to `end`, in order."""
    columns = saga_event.c
    here = and_(columns.saga_id == saga_id, columns.seq >= first, columns.seq < end)
    return select(saga_event).where(here).order_by(columns.seq)


def seen_of(pairs: Sequence[tuple[str, str]]) -> Select[Any, Any]:
    """Which of these (saga id, message id) are in the history."""
    columns = saga_event.c
    return select(columns.saga_id, columns.message_id).where(tuple_(columns.saga_id, columns.message_id).in_(pairs))


def message_of(saga_id: str, message_id: str) -> Select[Any]:
    """The transition that this message made."""
    return select(saga_event).where(saga_event.c.saga_id == saga_id, saga_event.c.message_id == message_id)


# Signs of life


def heartbeats_of(command_ids: Sequence[str]) -> Select[Any]:
    """What is kept of these commands' signs of life."""
    return select(heartbeat).where(heartbeat.c.command_id.in_(command_ids))


def put_heartbeat(dialect: str) -> Any:
    """Keep one in place of the one before."""
    build: Any = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(heartbeat)
    changed = {name: build.excluded[name] for name in HEARTBEAT_COLUMNS if name != "command_id"}
    return build.on_conflict_do_update(index_elements=["command_id"], set_=changed)


def forget_heartbeats(command_ids: Sequence[str]) -> Any:
    """Delete those of commands that are settled."""
    return delete(heartbeat).where(heartbeat.c.command_id.in_(command_ids))


def sweep_heartbeats(before: Any, limit: int) -> Any:
    """Delete what is left of sagas that have ended: an answer and a person's decision may cross."""
    over = select(saga.c.id).where(saga.c.id == heartbeat.c.saga_id, saga.c.ended_at.is_(None)).exists()
    old = select(heartbeat.c.command_id).where(heartbeat.c.at < before, ~over).limit(limit)
    return delete(heartbeat).where(heartbeat.c.command_id.in_(old))


#: The alarm stays where it is as long as it rings in time, and has not rung.
_ALARM = case(
    (bindparam("wake_at", type_=Moment()).is_(None), None),
    (
        and_(saga.c.alarm_at > bindparam("now", type_=Moment()), saga.c.alarm_at <= bindparam("wake_at")),
        saga.c.alarm_at,
    ),
    else_=bindparam("wake_at"),
)
#: `:expected` is the revision that must stand there.
UPDATE_SAGA = (
    update(saga)
    .where(saga.c.id == bindparam("saga_id"), saga.c.revision == bindparam("expected"))
    .values({name: bindparam(name) for name in UPDATED_COLUMNS} | {"alarm_at": _ALARM})
)


# The outbox

INSERT_BATCH = outbox_batch.insert().returning(outbox_batch.c.seq)


def delete_batches(seqs: Sequence[int]) -> Any:
    """Delete batches that are published."""
    return delete(outbox_batch).where(outbox_batch.c.seq.in_(seqs))


def old_batches(before: Any, limit: int) -> Select[Any]:
    """The oldest batches that nobody has published."""
    return (
        select(outbox_batch.c.seq)
        .where(outbox_batch.c.created_at <= before)
        .order_by(outbox_batch.c.seq)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


def take_batches(before: Any, limit: int) -> Any:
    """Delete those and return them, for their messages to be written elsewhere in the same transaction."""
    old = outbox_batch.c.seq.in_(old_batches(before, limit))
    return delete(outbox_batch).where(old).returning(outbox_batch.c.seq, outbox_batch.c.messages)


# Dead letters and operator requests


def lock_dead_letters(ids: Sequence[int]) -> Select[Any]:
    """Lock dead letters by id."""
    return select(dead_letter).where(dead_letter.c.id.in_(ids)).order_by(dead_letter.c.id).with_for_update()


def kept_dead_letters(saga_id: str) -> Select[Any]:
    """The ids of what is kept for a saga and can't be read."""
    kept = select(dead_letter.c.id).where(dead_letter.c.saga_id == saga_id, dead_letter.c.state == "received")
    return kept.order_by(dead_letter.c.id)


def _own_letter(coordinator: str) -> ColumnElement[bool]:
    """Nobody's are everybody's: coordinators of the version before did not tell theirs apart."""
    return dead_letter.c.coordinator.in_((coordinator, ""))


def _waits_for_its_saga(coordinator: str, names: Sequence[str]) -> Select[Any]:
    """Parked records whose saga exists by now, or is of a type that is here by now."""
    there = select(saga.c.id).where(saga.c.id == dead_letter.c.saga_id, saga.c.coordinator == coordinator).exists()
    foldable = or_(there, dead_letter.c.definition.in_(names)) if names else there
    # A literal, as no plan for any parameter has the index of what is parked.
    parked = dead_letter.c.state == literal_column("'parked'")
    return select(dead_letter).where(parked, _own_letter(coordinator), foldable)


def foldable_dead_letters(coordinator: str, names: Sequence[str], limit: int) -> Select[Any]:
    """Lock parked records whose saga exists by now, or is of a type that is here by now, first come first.

    By id and not by time, as a database's clock steps back.
    """
    found = _waits_for_its_saga(coordinator, names).order_by(dead_letter.c.id).limit(limit)
    return found.with_for_update(skip_locked=True)


def parked_of(coordinator: str, ids: Sequence[str]) -> Select[Any]:
    """The parked records of these sagas, first come first."""
    here = and_(dead_letter.c.saga_id.in_(ids), dead_letter.c.state == "parked", _own_letter(coordinator))
    return select(dead_letter).where(here).order_by(dead_letter.c.id)


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


def sweep_dead_letters(coordinator: str, parked_before: Any, limit: int, now: Any) -> Update:
    """Declare records dead that were parked for too long."""
    old = (
        select(dead_letter.c.id)
        .where(dead_letter.c.state == "parked", dead_letter.c.created_at < parked_before, _own_letter(coordinator))
        .where(dead_letter.c.definition.is_(None))
        .order_by(dead_letter.c.created_at, dead_letter.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return update(dead_letter).where(dead_letter.c.id.in_(old)).values(state="dead", updated_at=now)


def _requested(coordinator: str, now: Any) -> ColumnElement[bool]:
    """Operator requests whose time has come, but for what is another coordinator's."""
    asked = operator_request.c
    another = select(saga.c.id).where(saga.c.id == asked.saga_id, saga.c.coordinator != coordinator)
    anothers = select(dead_letter.c.id).where(dead_letter.c.id == asked.dead_letter_id, ~_own_letter(coordinator))
    return and_(asked.not_before <= now, ~another.exists(), ~anothers.exists())


def due_requests(coordinator: str, now: Any, limit: int) -> Select[Any]:
    """Lock operator requests whose time has come, oldest first."""
    return (
        select(operator_request)
        .where(_requested(coordinator, now))
        .order_by(operator_request.c.not_before, operator_request.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


INSERT_REQUESTS = operator_request.insert().returning(operator_request.c.id, sort_by_parameter_order=True)
#: The role is what the server says, and not what the client claims.
_PG_ROLE: ColumnElement[str] = literal_column("session_user")
PG_ROLE = select(_PG_ROLE)
PG_INSERT_REQUESTS = INSERT_REQUESTS.values(database_role=_PG_ROLE)


def delete_requests(ids: Sequence[int]) -> Any:
    """Delete requests that are dealt with."""
    return delete(operator_request).where(operator_request.c.id.in_(ids))


def fingerprint_of(coordinator: str, name: str, version: int) -> Select[Any]:
    """The fingerprint on record of one version of a definition, as this coordinator has it."""
    return select(definition_fingerprint.c.fingerprint).where(_registered(coordinator, name, version))


def replace_fingerprint(coordinator: str, name: str, version: int, fingerprint: str) -> Any:
    """Put a fingerprint of a newer scheme in the place of one that says nothing about it."""
    here = _registered(coordinator, name, version)
    return update(definition_fingerprint).where(here).values(fingerprint=fingerprint)


def _registered(coordinator: str, name: str, version: int) -> ColumnElement[bool]:
    table = definition_fingerprint.c
    return and_(table.coordinator == coordinator, table.name == name, table.version == version)


# PostgreSQL: arrays through the driver

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
#: Of all styles the one that leaves a percent sign in a literal alone.
_NUMBERED = postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]


def _element_type(column: Column[Any]) -> str:
    """The element type of a column's array; text for every string: the assignment to the column checks the length."""
    name = column.type.compile(_DIALECT)
    return "text" if name.startswith("VARCHAR") else name.lower()


def _arrays(table: Table, names: Sequence[str]) -> str:
    """The first parameters, as arrays of these columns."""
    return ", ".join(f"${n}::{_element_type(table.c[name])}[]" for n, name in enumerate(names, 1))


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _insert_arrays(table: Table, names: Sequence[str]) -> str:
    return f"INSERT INTO {table.name} ({_quoted(names)}) SELECT * FROM unnest({_arrays(table, names)})"


def _insert_sagas() -> str:
    names = _quoted(SAGA_COLUMNS)
    return (
        f"INSERT INTO saga ({names}, alarm_at) SELECT {names}, wake_at"
        f" FROM unnest({_arrays(saga, SAGA_COLUMNS)}) AS v({names}) ON CONFLICT (id) DO NOTHING"
    )


def _all_or_none(statement: str, parameter: int) -> str:
    """Fails where fewer rows were written than `parameter` says (SQLSTATE 22012): COMMIT is sent in the same breath."""
    return f"WITH written AS ({statement} RETURNING 1) SELECT 1 / (count(*) = ${parameter}::bigint)::int FROM written"


def _update_sagas() -> str:
    names = ("id", *UPDATED_COLUMNS)
    pairs = [f'"{name}" = v."{name}"' for name in UPDATED_COLUMNS]
    # The alarm stays where it is as long as it rings in time, and has not rung.
    expected, now = len(names) + 1, len(names) + 2
    pairs.append(
        f"alarm_at = CASE WHEN saga.alarm_at > ${now}::timestamptz AND saga.alarm_at <= v.wake_at"
        " THEN saga.alarm_at ELSE v.wake_at END"
    )
    return (
        f"UPDATE saga SET {', '.join(pairs)}"
        f" FROM unnest({_arrays(saga, names)}, ${expected}::bigint[]) AS v({_quoted(names)}, expected)"
        " WHERE saga.id = v.id AND saga.revision = v.expected"
    )


PG_COMMIT: tuple[str, tuple[()]] = ("COMMIT", ())
PG_BEGIN: tuple[tuple[str, tuple[()]], ...] = (("BEGIN", ()), ("SELECT clock_timestamp()", ()))
#: Parameters: arrays of topics, partitions, starts, ends, topic ids; the coordinator. The rows are locked in their
#: order, so that two coordinators never wait for each other.
PG_FENCE = """
WITH locked AS (
    SELECT o.topic, o.partition, move.stop FROM consumer_offset o
    JOIN unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[], $5::text[]) AS move(topic, number, start, stop, id)
    ON o.topic = move.topic AND o.partition = move.number AND o.next = move.start AND o.topic_id = move.id
    WHERE o.coordinator = $6 ORDER BY o.topic, o.partition FOR UPDATE OF o
)
UPDATE consumer_offset o SET next = locked.stop FROM locked
WHERE o.coordinator = $6 AND o.topic = locked.topic AND o.partition = locked.partition
"""
#: Attributes, mostly empty, come as text or not at all: parsing `{}` costs more than reading any other column.
_READ_SAGA = _quoted(SAGA_COLUMNS).replace('"attributes"', "NULLIF(\"attributes\"::text, '{}')")
#: In the order in which `net_rows` sorts what is updated, whatever the database's own is.
PG_LOCK = f'SELECT {_READ_SAGA} FROM saga WHERE id = ANY($1::text[]) ORDER BY id COLLATE "C" FOR UPDATE'
PG_REVISIONS = "SELECT id, revision FROM saga WHERE id = ANY($1::text[])"
PG_HISTORY = f"""
SELECT e.* FROM saga s, LATERAL (
  SELECT {_quoted(saga_event.columns.keys())} FROM saga_event
  WHERE saga_id = s.id AND seq >= s.first_seq
  OFFSET 0
) AS e
WHERE s.id = ANY($1::text[]) ORDER BY e.saga_id, e.seq
"""
PG_SEEN = """
SELECT e.* FROM unnest($1::text[], $2::text[]) AS v(saga_id, message_id), LATERAL (
  SELECT saga_id, message_id FROM saga_event
  WHERE saga_id = v.saga_id AND message_id = v.message_id
  OFFSET 0
) AS e
"""
#: Parameters of these two: arrays of the columns; of the update, the expected revisions and the time as well; at last
#: how many rows there are.
PG_INSERT_SAGAS = _all_or_none(_insert_sagas(), len(SAGA_COLUMNS) + 1)
PG_UPDATE_SAGAS = _all_or_none(_update_sagas(), len(UPDATED_COLUMNS) + 4)
PG_INSERT_EVENTS = _insert_arrays(saga_event, EVENT_COLUMNS)
PG_HEARTBEATS = f"SELECT {_quoted(HEARTBEAT_COLUMNS)} FROM heartbeat WHERE command_id = ANY($1::text[])"
PG_PUT_HEARTBEATS = (
    f"{_insert_arrays(heartbeat, HEARTBEAT_COLUMNS)} ON CONFLICT (command_id) DO UPDATE SET "
    + ", ".join(f'"{name}" = excluded."{name}"' for name in HEARTBEAT_COLUMNS if name != "command_id")
)
PG_FORGET_HEARTBEATS = "DELETE FROM heartbeat WHERE command_id = ANY($1::text[])"
PG_NUMBER_BATCH = "SELECT nextval('outbox_batch_seq_seq')"
PG_INSERT_BATCH = "INSERT INTO outbox_batch (seq, created_at, size, sagas, messages) VALUES ($1, $2, $3, $4, $5)"
PG_DELETE_BATCHES = "DELETE FROM outbox_batch WHERE seq = ANY($1::bigint[])"
