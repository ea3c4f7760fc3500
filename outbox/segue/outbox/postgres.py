"""The hot statements on PostgreSQL, through SQLAlchemy's connection but below its compiler: one array per column.

Measured for 100 rows of the outbox: Core's `insertmanyvalues` costs the client 75 µs a row, psycopg's own adaptation of
lists about twice what the literals made here do (5 µs). The same rows through Core are in `segue.outbox.sql`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Boolean, Connection, Integer, LargeBinary, SmallInteger, Table, Uuid

from segue.errors import RejectedWrite
from segue.outbox import trips
from segue.outbox.schema import Moment, inbox_table, outbox_table
from segue.outbox.store import PAGE_BYTES, Exclusion

#: Drivers whose placeholder is %s; another one (asyncpg) takes the way of all other databases.
DRIVERS = frozenset(("psycopg", "psycopg_async", "psycopg2"))
#: The columns of a fence row that a decision looks at.
FENCE_COLUMNS = (
    "attempt",
    "invoke_id",
    "invoke_outcome",
    "invoke_reply",
    "compensate_id",
    "compensate_attempt",
    "compensate_outcome",
    "compensate_reply",
    "tombstone",
    "details",
    "lease",
)
#: A fence row that has just been inserted.
BLANK: Mapping[str, Any] = dict.fromkeys(FENCE_COLUMNS) | {
    "attempt": 0,
    "compensate_attempt": 0,
    "tombstone": False,
    "lease": 0,
}
_NUL = "\x00"


def speaks(connection: Connection) -> bool:
    """True where the statements of this module can be used."""
    return connection.dialect.name == "postgresql" and connection.dialect.driver in DRIVERS


# --- array literals


def texts(values: Sequence[str | None]) -> str:
    """An array literal of text. Raises RejectedWrite for a NUL, which no text of PostgreSQL can hold."""
    if not values:
        return "{}"
    if None in values:
        return "{" + ",".join(["NULL" if value is None else _quoted(value) for value in values]) + "}"
    # NUL as separator: one pass of C over the whole column, and what contains one is found by counting.
    joined = _NUL.join(values)  # type: ignore[arg-type]
    if joined.count(_NUL) != len(values) - 1:
        raise RejectedWrite("a text holds a NUL character, which PostgreSQL can't store")
    return '{"' + joined.replace("\\", "\\\\").replace('"', '\\"').replace(_NUL, '","') + '"}'


def _quoted(value: str) -> str:
    if _NUL in value:
        raise RejectedWrite("a text holds a NUL character, which PostgreSQL can't store")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _blobs(values: Sequence[bytes | None]) -> str:
    return "{" + ",".join(["NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values]) + "}"


def _numbers(values: Sequence[int | None]) -> str:
    return "{" + ",".join(["NULL" if value is None else str(int(value)) for value in values]) + "}"


def _booleans(values: Sequence[bool | None]) -> str:
    return "{" + ",".join(["NULL" if value is None else "t" if value else "f" for value in values]) + "}"


def _moments(values: Sequence[datetime | None]) -> str:
    return "{" + ",".join(["NULL" if value is None else f'"{value.isoformat()}"' for value in values]) + "}"


def _documents(values: Sequence[Mapping[str, Any] | None]) -> str:
    return texts([None if value is None else msgspec.json.encode(value).decode() for value in values])


_Literal = Callable[[Sequence[Any]], str]
_KINDS: tuple[tuple[type[Any], str, _Literal], ...] = (
    (Moment, "timestamptz", _moments),
    (Boolean, "boolean", _booleans),
    (SmallInteger, "smallint", _numbers),
    (BigInteger, "bigint", _numbers),
    (Integer, "integer", _numbers),
    (LargeBinary, "bytea", _blobs),
    (Uuid, "uuid", texts),
)


def _kinds(table: Table) -> Mapping[str, tuple[str, _Literal]]:
    found: dict[str, tuple[str, _Literal]] = {}
    for column in table.c:
        kinds = [(sql, literal) for kind, sql, literal in _KINDS if isinstance(column.type, kind)]
        found[column.name] = kinds[0] if kinds else ("text", texts)
    return found


_OUTBOX = {**_kinds(outbox_table), "headers": ("json", _documents)}
_INBOX = _kinds(inbox_table)


# --- the outbox


def insert_rows(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows of the outbox, in this order; one whose id is there already is left as it is."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    used = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    arrays = tuple(_OUTBOX[name][1](values) for name, values in used.items())
    connection.exec_driver_sql(_insert_text(tuple(used)), arrays)


@lru_cache(maxsize=256)
def _insert_text(names: tuple[str, ...]) -> str:
    arrays = ", ".join(f"%s::{_OUTBOX[name][0]}[]" for name in names)
    return f"INSERT INTO outbox ({', '.join(names)}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING"


def load(
    connection: Connection,
    columns: tuple[str, ...],
    owner: str,
    limit: int,
    memory_first_for: timedelta | None,
    excluded: Exclusion,
) -> Sequence[Sequence[Any]]:
    """The oldest rows of the lanes which `owner` holds: (seq, lane, *columns) of each."""
    parts, values = [_load_text(columns)], [owner]
    if excluded.topics:
        parts.append("AND outbox.aggregatetype <> ALL(%s::text[])")
        values.append(texts(list(excluded.topics)))
    if excluded.lines:
        parts.append("AND (aggregatetype, aggregateid) NOT IN (SELECT * FROM unnest(%s::text[], %s::text[]))")
        values += [texts([topic for topic, _ in excluded.lines]), texts([key for _, key in excluded.lines])]
    if excluded.held:
        parts.append("AND seq NOT IN (SELECT unnest(%s::bigint[]))")
        values.append(_numbers(list(excluded.held)))
    if memory_first_for is not None:
        young = "created_at >= clock_timestamp() - %s::interval"
        parts.append(f"AND (saga_action IN ('invoke', 'compensate') AND saga_outcome IS NULL AND {young}) IS NOT TRUE")
        values.append(f"{memory_first_for.total_seconds():f} seconds")
    connection.exec_driver_sql(_UNSORTED)
    text = " ".join((*parts, _OLDEST))
    rows = connection.exec_driver_sql(text, (*values, limit)).fetchall()
    if all(row[-1] is None for row in rows):
        return [row[:-1] for row in rows]
    return _with_large(connection, rows, columns.index("payload") + 2)


def _with_large(connection: Connection, rows: Sequence[Sequence[Any]], place: int) -> Sequence[Sequence[Any]]:
    """The rows, as far as all their payloads together are to be held, with those that were too large for the page."""
    sizes = [row[-1] or len(row[place] or b"") for row in rows]
    page = rows[: max(1, sum(total <= PAGE_BYTES for total in accumulate(sizes)))]
    wanted = [row[0] for row in page if row[-1] is not None]
    found: dict[int, bytes] = dict(connection.exec_driver_sql(_LARGE, (_numbers(wanted),)).all()) if wanted else {}
    return [
        (*row[:place], row[place] if row[-1] is None else found[row[0]], *row[place + 1 : -1])
        for row in page
        if row[-1] is None or row[0] in found  # else another relay has published it in this moment
    ]


# An outbox is mostly empty, and what the planner knows of it is from then: of a backlog it would read and sort all rows
# for each page. Without sorting there is but one way: along the primary key, as far as the page reaches.
_UNSORTED = "SET LOCAL enable_sort = off"
_OLDEST = "ORDER BY outbox.seq LIMIT %s"
#: Bytes of a payload from which on it is read by itself: a page has many rows, and nobody knows how large they are.
LARGE_BYTES = 16 * 1024
_LARGE = "SELECT seq, payload FROM outbox WHERE seq = ANY(%s::bigint[])"


@lru_cache(maxsize=4)
def _load_text(columns: tuple[str, ...]) -> str:
    is_large = f"octet_length(outbox.payload) > {LARGE_BYTES}"
    special = {"id": "outbox.id::text", "payload": f"CASE WHEN {is_large} THEN NULL ELSE outbox.payload END"}
    names = ", ".join(special.get(name, f"outbox.{name}") for name in columns)
    large = f"CASE WHEN {is_large} THEN octet_length(outbox.payload) END"
    return (
        f"SELECT outbox.seq, outbox.lane, {names}, {large} FROM outbox WHERE lane = "
        "ANY (ARRAY(SELECT lane FROM outbox_lane WHERE owner = %s AND leased_until > clock_timestamp()))"
    )


def delete_seqs(connection: Connection, seqs: Sequence[int]) -> None:
    """Delete rows of the outbox by number."""
    connection.exec_driver_sql(_DELETE, (_numbers(seqs),))


# Statements for many rows look each up in an index, by a lateral subquery that the planner can't join otherwise: a plan
# that was made and kept while the table was empty reads all of it, for as long as nobody has analyzed it. OFFSET 0 is
# what keeps a subquery apart that locks nothing.
#
# Nobody waits for the disk: a deletion that a crash of the server takes back means that the row is sent again, as after
# a crash of the relay before it.
_DELETE = """
WITH relaxed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS set)
DELETE FROM outbox USING relaxed, unnest(%s::bigint[]) AS gone (seq),
  LATERAL (SELECT ctid AS place FROM outbox WHERE seq = gone.seq OFFSET 0) AS found
WHERE relaxed.set IS NOT NULL AND outbox.ctid = found.place
"""


# --- the inbox

#: A group of commands is an optimistic guess: if somebody else holds a row that it wants, it gives way after this long
#: and its commands are run one by one. A deadlock between two groups would cost `deadlock_timeout`, a second, instead.
PATIENCE = "250ms"
_INSERT_BLANK_FENCE = """
INSERT INTO inbox (consumer, saga_key, attempt, compensate_attempt, tombstone, created_at, updated_at)
SELECT %s, %s, 0, 0, false, moment.now, moment.now FROM (SELECT clock_timestamp() AS now) AS moment
ON CONFLICT DO NOTHING RETURNING updated_at
"""
_LOCK_FENCE = f"""
SELECT saga_key, {", ".join(FENCE_COLUMNS)}, clock_timestamp()
FROM inbox WHERE consumer = %s AND saga_key = %s FOR UPDATE
"""
_LOCK_FENCES = f"""
WITH moment AS MATERIALIZED (
  SELECT clock_timestamp() AS now,
    CASE current_setting('lock_timeout') WHEN '0' THEN set_config('lock_timeout', '{PATIENCE}', true) ELSE '' END AS set
), known AS (
  SELECT held.* FROM unnest(%s::text[]) AS wanted (saga_key), LATERAL (
    SELECT saga_key, {", ".join(FENCE_COLUMNS)} FROM inbox
    WHERE (SELECT set FROM moment) IS NOT NULL AND consumer = %s AND inbox.saga_key = wanted.saga_key
    FOR UPDATE
  ) AS held
)
SELECT moment.now, known.* FROM moment LEFT JOIN known ON true
"""
#: Columns that are never null.
_INITIAL: Mapping[str, str] = {
    "attempt": "0",
    "compensate_attempt": "0",
    "tombstone": "false",
    "created_at": "clock_timestamp()",
    "updated_at": "clock_timestamp()",
}
#: The columns of a row that is inserted whole, after its consumer.
_FENCE = ("saga_key", *FENCE_COLUMNS)
_INSERT_FENCES = f"""
INSERT INTO inbox (consumer, {", ".join(_FENCE)}, created_at, updated_at)
SELECT %s, fence.*, moment.now, moment.now
FROM unnest({", ".join(f"%s::{_INBOX[name][0]}[]" for name in _FENCE)}) AS fence,
     (SELECT clock_timestamp() AS now) AS moment
ON CONFLICT DO NOTHING
"""


def insert_blank_fence(connection: Connection, consumer: str, key: str) -> datetime | None:
    """Insert a blank fence row: the database's time, or None where there is one."""
    found = _asked(connection, _INSERT_BLANK_FENCE, (consumer, key))
    return found[0][0] if found else None


def lock_fence(connection: Connection, consumer: str, key: str) -> Sequence[tuple[Any, ...]]:
    """Lock a fence row that is there: (key, *FENCE_COLUMNS, database time)."""
    return _asked(connection, _LOCK_FENCE, (consumer, key))


def lock_fences(connection: Connection, consumer: str, keys: Sequence[str]) -> Sequence[tuple[Any, ...]]:
    """Lock those fence rows that are there, in this order: (database time, key or None, *FENCE_COLUMNS) of each."""
    return _asked(connection, _LOCK_FENCES, (texts(sorted(keys)), consumer))


def insert_fences(connection: Connection, consumer: str, rows: Mapping[str, Mapping[str, Any]]) -> int:
    """Insert whole fence rows, in the order of their keys; how many were not there yet."""
    keys = sorted(rows)
    arrays = [_INBOX[name][1]([rows[key][name] for key in keys]) for name in FENCE_COLUMNS]
    return connection.exec_driver_sql(_INSERT_FENCES, (consumer, texts(keys), *arrays)).rowcount


def update_fences(
    connection: Connection, consumer: str, rows: Mapping[str, Mapping[str, Any]], *, with_commit: bool
) -> None:
    """Change locked fence rows, all in the same columns, and note the time; if wanted with COMMIT, where possible."""
    names = tuple(next(iter(rows.values())))
    text: str
    values: tuple[Any, ...]
    if len(rows) == 1:
        [(key, row)] = rows.items()
        text, values = _put_text(names), (consumer, _storable(key), *[_storable(row[name]) for name in names])
    else:
        arrays = [_INBOX[name][1]([row[name] for row in rows.values()]) for name in names]
        text, values = _update_text(names), (texts(list(rows)), *arrays, consumer)
    if with_commit and trips.fit(connection):
        trips.put_off(connection, text, values)
    else:
        connection.exec_driver_sql(text, values)


def _asked(connection: Connection, text: str, values: tuple[str, ...]) -> list[tuple[Any, ...]]:
    if trips.fit(connection):
        return trips.ask(connection, text, values)
    return [tuple(row) for row in connection.exec_driver_sql(text, values)]


def _storable(value: Any) -> Any:
    if isinstance(value, str) and _NUL in value:
        raise RejectedWrite("a text holds a NUL character, which PostgreSQL can't store")
    return value


@lru_cache(maxsize=64)
def _put_text(names: tuple[str, ...]) -> str:
    """Changes one row, which is there and locked: so nothing is inserted, whatever it looks like.

    The server plans an UPDATE of an array's rows anew each time, for it takes one whose length it can't see for longer;
    and one by key, which it plans once, might read the whole table for as long as it was small at that time. A conflict
    is looked up in the index, there is nothing to plan.
    """
    rest = {name: value for name, value in _INITIAL.items() if name not in names}
    columns = ", ".join(("consumer", "saga_key", *names, *rest))
    given = ", ".join((*["%s"] * (2 + len(names)), *rest.values()))
    changes = ", ".join(f"{name} = excluded.{name}" for name in (*names, "updated_at"))
    return f"INSERT INTO inbox ({columns}) VALUES ({given}) ON CONFLICT (consumer, saga_key) DO UPDATE SET {changes}"


@lru_cache(maxsize=64)
def _update_text(names: tuple[str, ...]) -> str:
    changes = [*(f"{name} = changed.{name}" for name in names), "updated_at = clock_timestamp()"]
    arrays = ", ".join(["%s::text[]", *(f"%s::{_INBOX[name][0]}[]" for name in names)])
    return (
        f"UPDATE inbox SET {', '.join(changes)} FROM unnest({arrays}) AS changed (saga_key, {', '.join(names)}), "
        "LATERAL (SELECT ctid AS at FROM inbox WHERE consumer = %s AND saga_key = changed.saga_key OFFSET 0) AS held "
        "WHERE inbox.ctid = held.at"
    )
