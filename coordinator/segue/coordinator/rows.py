"""Rows of the store port as columns of the tables, and back; what a batch nets out to; values no database may get.

SQLite stores whatever it is given, so the limits of the schema are checked here; PostgreSQL checks them itself.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import BigInteger, Integer, SmallInteger, String, Table, Uuid

from segue.clock import from_micros, to_micros
from segue.coordinator import schema
from segue.coordinator.statements import EVENT_COLUMNS, SAGA_COLUMNS
from segue.coordinator.store import Changes, DeadLetterRow, EventRow, HeartbeatRow, OperatorRequest, SagaRow
from segue.errors import Fenced, RejectedWrite
from segue.saga.signs import LastSign
from segue.topics.broker import Headers, Record

REQUEST_COLUMNS = tuple(column.name for column in schema.operator_request.columns if column.name != "id")
_saga_columns = attrgetter(*SAGA_COLUMNS)
_event_columns = attrgetter(*EVENT_COLUMNS)


def saga_values(row: SagaRow) -> dict[str, Any]:
    """The columns of `saga`; raises RejectedWrite for attributes that are not JSON."""
    values = dict(zip(SAGA_COLUMNS, _saga_columns(row), strict=True))
    values["attributes"] = json.loads(attributes_text(row.attributes)) if row.attributes else {}
    return values


def attributes_text(attributes: Mapping[str, Any]) -> str:
    """Attributes as JSON text; raises RejectedWrite for what is not JSON (NaN, objects)."""
    if not attributes:
        return "{}"
    try:
        return json.dumps(dict(attributes), allow_nan=False, separators=(",", ":"), sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise RejectedWrite(f"attributes are not JSON: {error}") from error


def event_values(row: EventRow) -> dict[str, Any]:
    """The columns of `saga_event`."""
    return dict(zip(EVENT_COLUMNS, _event_columns(row), strict=True))


def heartbeat_values(row: HeartbeatRow) -> dict[str, Any]:
    """The columns of `heartbeat`."""
    return msgspec.structs.asdict(row)


def sign_of(row: HeartbeatRow) -> LastSign:
    """As the engine reads it."""
    return LastSign(
        at=to_micros(row.at),
        newest=row.newest,
        known=msgspec.json.decode(row.known),
        details=msgspec.Raw(row.details),
        count=row.count,
    )


def heartbeat_of(command_id: str, saga_id: str, sign: LastSign) -> HeartbeatRow:
    """The inverse of `sign_of`."""
    return HeartbeatRow(
        command_id=command_id,
        saga_id=saga_id,
        at=from_micros(sign.at),
        newest=sign.newest,
        known=msgspec.json.encode(sign.known),
        details=bytes(sign.details),
        count=sign.count,
    )


def request_values(request: OperatorRequest) -> dict[str, Any]:
    """The columns of `operator_request`, without `id`."""
    return {name: getattr(request, name) for name in REQUEST_COLUMNS}


def dead_letter_values(row: DeadLetterRow) -> dict[str, Any]:
    """The columns of `dead_letter`, without `id`."""
    record = row.record
    return {
        "state": row.state,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "topic_id": row.topic_id,
        "key": record.key,
        "value": record.value,
        "headers": headers_to_json(record.headers),
        "timestamp_ms": record.timestamp_ms,
        "reason": row.reason,
        "error_class": row.error_class,
        "error_message": row.error_message,
        "fingerprint": row.fingerprint,
        "saga_id": row.saga_id,
        "attempts": row.attempts,
        "replays": row.replays,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "coordinator": row.coordinator,
        "definition": row.definition,
    }


def dead_letter_of(columns: Mapping[str, Any]) -> DeadLetterRow:
    """The inverse of `dead_letter_values`, with the id."""
    record = Record(
        topic=columns["topic"],
        partition=columns["partition"],
        offset=columns["offset"],
        key=columns.get("key"),
        value=columns.get("value"),
        headers=headers_from_json(columns["headers"]) if "headers" in columns else (),
        timestamp_ms=columns["timestamp_ms"],
    )
    names = (
        "id state topic_id reason error_class error_message fingerprint saga_id attempts replays created_at updated_at"
        " coordinator definition"
    )
    return DeadLetterRow(record=record, size=columns.get("size"), **{name: columns[name] for name in names.split()})


def headers_to_json(headers: Headers) -> bytes:
    """A JSON array of [name, base64 or null]; order, repetition and bytes are kept, a NUL in a name too."""
    pairs = [[name, None if value is None else b64encode(value).decode("ascii")] for name, value in headers]
    return json.dumps(pairs, separators=(",", ":")).encode("ascii")


def headers_from_json(text: bytes) -> Headers:
    """The inverse of `headers_to_json`."""
    return tuple((name, None if value is None else b64decode(value)) for name, value in json.loads(text))


class NetRows(msgspec.Struct, frozen=True, kw_only=True):
    """What the rows of one batch come to: a saga that moved several times is written once."""

    inserts: Sequence[SagaRow]
    #: (revision that must stand in the database, row to be written).
    updates: Sequence[tuple[int, SagaRow]]


def net_rows(changes: Changes) -> NetRows:
    """Net `started` and `updated`, sorted by id.

    Several rows of one saga become the last one, if their revisions follow each other; else raises Fenced.
    """
    inserts = {row.id: row for row in changes.started}
    if len(inserts) < len(changes.started):
        raise Fenced("one batch starts the same saga twice")
    updates: dict[str, tuple[int, SagaRow]] = {}
    for row in changes.updated:
        before = inserts.get(row.id) or updates.get(row.id, (0, None))[1]
        if before is not None and before.revision != row.revision - 1:
            raise Fenced(f"saga {row.id}: revision {row.revision} does not follow {before.revision}")
        if row.id in inserts:
            inserts[row.id] = row
        elif before is not None:
            updates[row.id] = (updates[row.id][0], row)
        else:
            updates[row.id] = (changes.expected.get(row.id, row.revision - 1), row)
    return NetRows(
        inserts=[inserts[saga_id] for saga_id in sorted(inserts)],
        updates=[updates[saga_id] for saga_id in sorted(updates)],
    )


_INTEGER_BITS: Mapping[type[Any], int] = {SmallInteger: 15, Integer: 31, BigInteger: 63}
_Check = tuple[str, str, int]


def _checks_of(table: Table) -> tuple[_Check, ...]:
    checks: list[_Check] = []
    for column in table.columns:
        if isinstance(column.type, Uuid):
            checks.append((column.name, "uuid", 0))
        elif isinstance(column.type, String):
            checks.append((column.name, "text", column.type.length or 0))
        elif (bits := _INTEGER_BITS.get(type(column.type))) is not None:
            checks.append((column.name, "integer", bits))
    return tuple(checks)


_CHECKS = {table.name: _checks_of(table) for table in schema.metadata.tables.values()}


def check_values(table: Table, values: Mapping[str, Any]) -> None:
    """Raise RejectedWrite for a value that PostgreSQL would refuse: too long, out of range, NUL, surrogate, no uuid."""
    for name, kind, limit in _CHECKS[table.name]:
        value = values.get(name)
        if value is None or (
            # the ordinary value at once: this runs for every column of every row
            kind == "text" and value.isascii() and "\x00" not in value and (not limit or len(value) <= limit)
        ):
            continue
        if not _fits(kind, limit, value):
            raise RejectedWrite(f"{table.name}.{name} can't hold {value!r:.80}")


def _fits(kind: str, limit: int, value: Any) -> bool:
    if kind == "integer":
        return bool(-(1 << limit) <= value < 1 << limit)
    try:
        if kind == "uuid":
            UUID(value)
            return True
        value.encode()
    except ValueError:
        return False
    return "\x00" not in value and (not limit or len(value) <= limit)
