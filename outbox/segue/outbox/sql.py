"""Every statement of this package, and the SQLAlchemy adapter of the relay's store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    FunctionElement,
    Insert,
    Row,
    RowMapping,
    delete,
    func,
    inspect,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.compiler import compiles

from segue.clock import EPOCH
from segue.outbox import postgres
from segue.outbox.deadline import CALL_TIMEOUT, deadline, watch
from segue.outbox.faults import translated
from segue.outbox.message import COLUMN_HEADERS, LANES, Message, headers_of, pack, record_of
from segue.outbox.schema import (
    MYSQL_COLLATION,
    Moment,
    metadata,
    outbox_lane_table,
    outbox_quarantine_table,
    outbox_relay_table,
    outbox_table,
)
from segue.outbox.store import PAGE_BYTES, Exclusion, PendingRow
from segue.topics.broker import Outgoing

T = TypeVar("T")
#: Runs a piece of work in one transaction of its own.
Transact = Callable[[Callable[[Connection], T]], T]

_COLUMNS = (*COLUMN_HEADERS, "aggregatetype", "aggregateid", "payload", "headers")
_PENDING = tuple(outbox_table.c[name] for name in ("seq", "lane", *_COLUMNS))


class DatabaseTime(FunctionElement[datetime]):
    """The database's clock, this moment and not the transaction's start: `SELECT` it, or compare with it."""

    type = Moment()
    inherit_cache = True
    name = "database_time"


@compiles(DatabaseTime)
def _ansi_time(element: DatabaseTime, compiler: Any, **kw: Any) -> str:
    return "CURRENT_TIMESTAMP(6)"


@compiles(DatabaseTime, "postgresql")
def _postgresql_time(element: DatabaseTime, compiler: Any, **kw: Any) -> str:
    return "clock_timestamp()"


@compiles(DatabaseTime, "sqlite")
def _sqlite_time(element: DatabaseTime, compiler: Any, **kw: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"  # milliseconds, written like every other moment


@compiles(DatabaseTime, "mysql")
@compiles(DatabaseTime, "mariadb")
def _mysql_time(element: DatabaseTime, compiler: Any, **kw: Any) -> str:
    return "UTC_TIMESTAMP(6)"


def create_all(database: Engine | Connection) -> None:
    """Create the tables of a service (outbox, inbox, …) that are not there yet, and bring up to date those that are.

    For services without migrations. Columns of later versions are added; on MySQL and MariaDB keys get a collation that
    tells `CASE-9` from `case-9`.
    """
    if isinstance(database, Engine):
        with database.begin() as connection:
            create_all(connection)
        return
    metadata.create_all(database)
    found = inspect(database)
    for table in metadata.sorted_tables:
        columns = {column["name"]: column for column in found.get_columns(table.name)}
        for column in table.columns:
            if column.name not in columns:
                kind = column.type.compile(database.dialect)
                database.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}")
        if database.dialect.name in ("mysql", "mariadb") and _is_folded(database, table.name):
            text = f"ALTER TABLE {table.name} CONVERT TO CHARACTER SET utf8mb4 COLLATE {MYSQL_COLLATION}"
            database.exec_driver_sql(text)


def _is_folded(connection: Connection, table: str) -> bool:
    """Whether a text column has a collation under which different texts are equal."""
    query = "SELECT count(*) FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s"
    folded = f"{query} AND collation_name NOT LIKE '%%\\_bin'"
    return bool(connection.exec_driver_sql(folded, (table,)).scalar_one())


def database_now(connection: Connection) -> datetime:
    """The database's clock, UTC."""
    return connection.execute(select(DatabaseTime())).scalar_one()


def insert_or_ignore(connection: Connection, table: Any) -> Insert:
    """An INSERT that leaves a row with the same key as it is."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return mysql.insert(table).prefix_with("IGNORE")


# --- messages


def row_of(message: Message) -> dict[str, Any]:
    """The columns of a message."""
    row = {name: getattr(message, name) for name in _COLUMNS}
    row["lane"] = message.lane
    row["headers"] = dict(message.headers) or None
    return row


def insert_messages(connection: Connection, messages: Sequence[Message]) -> None:
    """Insert in this order; a message whose id is there already is left as it is."""
    insert_rows(connection, [row_of(message) for message in messages])


def insert_rows(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """The same with rows of `row_of`."""
    if not rows:
        return
    if postgres.speaks(connection):
        postgres.insert_rows(connection, rows)
    else:
        connection.execute(insert_or_ignore(connection, outbox_table), rows)


def message_of_row(row: RowMapping | Mapping[str, Any]) -> Message:
    """The inverse of `row_of`."""
    columns = {name: row[name] for name in _COLUMNS}
    return Message(headers=_extras(columns.pop("headers")), **columns)


def _extras(headers: Any) -> Mapping[str, str]:
    if not headers:
        return {}
    if not isinstance(headers, Mapping):
        raise ValueError(f"column headers holds {type(headers).__name__}, expected a JSON object")
    return {str(name): str(value) for name, value in headers.items()}


def _pending_rows(rows: Sequence[Sequence[Any]]) -> list[PendingRow]:
    """Column by column; row by row where one of them is out of the ordinary, so that it alone is found at fault."""
    if not rows:
        return []
    seqs, lanes, *columns, topics, keys, payloads, headers = zip(*rows, strict=True)
    try:
        if any(headers):
            raise ValueError("rows with headers of their own")
        made = headers_of(columns)
        return [
            PendingRow(
                seq=seq,
                lane=lane,
                topic=topic,
                key=key,
                record=Outgoing(topic=topic, key=key.encode() if key else None, value=payload, headers=pairs),
            )
            for seq, lane, topic, key, payload, pairs in zip(seqs, lanes, topics, keys, payloads, made, strict=True)
        ]
    except Exception:  # noqa: BLE001 - said of the row that it belongs to
        return [_pending_row(row) for row in rows]


def _pending_row(row: Sequence[Any]) -> PendingRow:
    seq, lane, *values = row
    *columns, topic, key, payload, headers = values
    record, fault = None, ""
    try:
        record = record_of(columns, topic, key, payload, _extras(headers))
    except Exception as error:  # noqa: BLE001 - whatever another writer has put there must not stop the relay
        fault = f"{type(error).__name__}: {error}"
    return PendingRow(seq=seq, lane=lane, topic=topic, key=key, record=record, fault=fault)


# --- the relay's store


class SqlOutboxStore:
    """`OutboxStore` on a database that SQLAlchemy knows.

    `database` is an engine, or a function that runs a piece of work in a transaction (so that an application with an
    AsyncEngine can hand over its own way of doing that). With an engine no call waits longer than `call_timeout`.
    """

    def __init__(self, database: Engine | Transact[Any], *, call_timeout: timedelta = CALL_TIMEOUT) -> None:
        self._database = database
        self._call_timeout = call_timeout
        if isinstance(database, Engine):
            watch(database)

    def _run(self, work: Callable[[Connection], T]) -> T:
        with translated():
            if isinstance(self._database, Engine):
                with deadline(self._call_timeout), self._database.begin() as connection:
                    return work(connection)
            return cast("T", self._database(work))

    def lease(self, owner: str, ttl: timedelta) -> Mapping[int, int]:
        return self._run(lambda connection: _lease(connection, owner, ttl))

    def load(
        self, owner: str, limit: int, *, memory_first_for: timedelta | None, excluded: Exclusion
    ) -> Sequence[PendingRow]:
        def work(connection: Connection) -> Sequence[Sequence[Any]]:
            if postgres.speaks(connection):
                return postgres.load(connection, _COLUMNS, owner, limit, memory_first_for, excluded)
            return _load(connection, owner, limit, memory_first_for, excluded)

        return _pending_rows(self._run(work))

    def delete(self, seqs: Sequence[int]) -> None:
        self._run(lambda connection: _delete_seqs(connection, seqs))

    def quarantine(self, row: PendingRow, error: str, attempts: int) -> None:
        self._run(lambda connection: _quarantine(connection, row, error, attempts))

    def quarantined(self, limit: int = 1000) -> list[Any]:
        """The oldest messages in quarantine, without what they contain."""
        table = outbox_quarantine_table.c
        columns = (table.seq, table.id, table.aggregatetype, table.aggregateid, table.error, table.attempts)
        query = select(*columns, table.quarantined_at).order_by(table.seq).limit(limit)

        def work(connection: Connection) -> list[Any]:
            return list(connection.execute(query))

        return self._run(work)

    def clear(self, ids: Sequence[str]) -> list[str]:
        """Delete these messages from the quarantine; those that were there."""

        def work(connection: Connection) -> list[str]:
            table = outbox_quarantine_table
            chosen = table.c.id.in_(list(ids))
            found = [str(id) for id in connection.execute(select(table.c.id).where(chosen)).scalars()]
            connection.execute(delete(table).where(chosen))
            return found

        return self._run(work)

    def release(self, owner: str) -> None:
        def work(connection: Connection) -> None:
            lanes = outbox_lane_table
            connection.execute(delete(outbox_relay_table).where(outbox_relay_table.c.owner == owner))
            connection.execute(
                update(lanes).where(lanes.c.owner == owner).values(owner="", leased_until=DatabaseTime())
            )

        self._run(work)


def _load(
    connection: Connection, owner: str, limit: int, memory_first_for: timedelta | None, excluded: Exclusion
) -> Sequence[Row[Any]]:
    lane, outbox = outbox_lane_table.c, outbox_table.c
    conditions: list[ColumnElement[bool]] = [lane.owner == owner, lane.leased_until > DatabaseTime()]
    if excluded.topics:
        conditions.append(outbox.aggregatetype.not_in(list(excluded.topics)))
    if excluded.lines:
        conditions.append(tuple_(outbox.aggregatetype, outbox.aggregateid).not_in(list(excluded.lines)))
    if memory_first_for is not None:
        at_once = or_(
            outbox.saga_action.is_(None),
            outbox.saga_action.not_in(("invoke", "compensate")),
            outbox.saga_outcome.is_not(None),  # a reply, which nobody publishes from memory
        )
        conditions.append(or_(at_once, outbox.created_at < database_now(connection) - memory_first_for))
    query = select(*_PENDING).join(outbox_lane_table, lane.lane == outbox.lane).where(*conditions)
    found, size = list[Row[Any]](), 0
    query = query.order_by(outbox.seq).limit(limit + len(excluded.held))
    with connection.execute(query, execution_options={"stream_results": True, "max_row_buffer": 8}) as rows:
        for row in rows:
            found.append(row)
            size += len(row.payload or b"")
            if size >= PAGE_BYTES:
                break
    return found


def _delete_seqs(connection: Connection, seqs: Sequence[int]) -> None:
    if postgres.speaks(connection):
        postgres.delete_seqs(connection, seqs)
    else:
        connection.execute(delete(outbox_table).where(outbox_table.c.seq.in_(list(seqs))))


def _quarantine(connection: Connection, row: PendingRow, error: str, attempts: int) -> None:
    stored = connection.execute(select(*_PENDING).where(outbox_table.c.seq == row.seq)).mappings().first()
    if stored is None:
        return
    try:
        packed = pack(message_of_row(stored))
    except Exception:  # noqa: BLE001 - the same row that made no sense when it was loaded
        packed = stored["payload"] or b""
    connection.execute(
        insert_or_ignore(connection, outbox_quarantine_table),
        {
            "seq": row.seq,
            "id": stored["id"],
            "aggregatetype": row.topic,
            "aggregateid": row.key,
            "message": packed,
            "error": error[:1024],
            "attempts": attempts,
            "quarantined_at": database_now(connection),
        },
    )
    connection.execute(delete(outbox_table).where(outbox_table.c.seq == row.seq))


# --- lanes


def _lease(connection: Connection, owner: str, ttl: timedelta) -> Mapping[int, int]:
    lanes = outbox_lane_table
    share = -(-LANES // _say_hello(connection, owner, ttl))
    found = _locked_lanes(connection)
    now = database_now(connection)
    mine = sorted(row.lane for row in found if row.owner == owner)
    free = sorted(row.lane for row in found if row.owner != owner and row.leased_until <= now)
    kept, surplus, taken = mine[:share], mine[share:], free[: max(0, share - len(mine))]
    if kept:
        connection.execute(update(lanes).where(lanes.c.lane.in_(kept)).values(leased_until=now + ttl))
    if surplus:
        connection.execute(update(lanes).where(lanes.c.lane.in_(surplus)).values(owner="", leased_until=now))
    if taken:
        connection.execute(
            update(lanes)
            .where(lanes.c.lane.in_(taken))
            .values(owner=owner, token=lanes.c.token + 1, leased_until=now + ttl)
        )
    tokens = {row.lane: row.token for row in found}
    return {lane: tokens[lane] for lane in kept} | {lane: tokens[lane] + 1 for lane in taken}


def _say_hello(connection: Connection, owner: str, ttl: timedelta) -> int:
    """Register as alive; how many relays are."""
    relays = outbox_relay_table
    now = database_now(connection)
    changed = connection.execute(update(relays).where(relays.c.owner == owner).values(seen_until=now + ttl))
    if changed.rowcount == 0:
        connection.execute(insert_or_ignore(connection, relays), {"owner": owner, "seen_until": now + ttl})
    alive = connection.execute(select(func.count()).where(relays.c.seen_until > now)).scalar_one()
    if changed.rowcount == 0:
        connection.execute(delete(relays).where(relays.c.seen_until < now - 10 * ttl))
    return max(1, int(alive))


def _locked_lanes(connection: Connection) -> Sequence[Any]:
    lanes = outbox_lane_table
    query = select(lanes).order_by(lanes.c.lane).with_for_update()
    found = connection.execute(query).all()
    if len(found) < LANES:
        missing = sorted(set(range(LANES)) - {row.lane for row in found})
        connection.execute(
            insert_or_ignore(connection, lanes),
            [{"lane": lane, "owner": "", "token": 0, "leased_until": EPOCH} for lane in missing],
        )
        found = connection.execute(query).all()
    return found
